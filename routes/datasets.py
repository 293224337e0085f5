"""Data sets: taking a file in, mapping its columns, looking into it."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, flash, redirect, render_template, request, url_for
from werkzeug.datastructures import FileStorage
from werkzeug.wrappers import Response as AnyResponse

from models.datasets import DatasetVersion
from models.uploads import Upload
from routes.answers import Given, answer, form, page_of_list, read, shown_again, wants_json
from routes.guards import actor
from services import datasets, subscriptions, training_jobs, uploads
from services.errors import Invalid
from services.training_jobs import iso

bp = Blueprint("datasets", __name__)
FORM_ROOM = 1024 * 1024  # bytes of a multipart body that are not the file
FORM_PARTS = 16
TARGETS = {
    "prompt_completion": ("prompt", "completion", "system"), "alpaca": ("instruction", "input", "output", "system"),
    "chat": ("messages",), "sharegpt": ("conversations", "system"), "text": ("text",),
}  # fmt: skip


class NewDataset(Given):
    form_has_more = True

    name: str
    kind: str = "conversation"
    upload: str | None = None
    file: str | None = None
    mapping: dict[str, str] | str | None = None
    target: str | None = None


@bp.get("")
def index() -> AnyResponse:
    limit, before = page_of_list()
    rows = [_line(version) for version in datasets.list_for(actor(), limit, before)]
    allowed = subscriptions.limit(actor(), "upload_bytes")
    return answer(rows, page="datasets/index.html", datasets=rows, limit_bytes=allowed)


@bp.get("/new")
def new() -> str:
    return render_template("datasets/new.html", **_new_context())


@bp.post("")
@form("datasets/new.html", lambda: _new_context())
def create() -> AnyResponse:
    given, upload = _received()
    try:
        version = datasets.create(actor(), upload, given.name, given.kind, _mapping(given))
    except Invalid as error:
        if "columns" in error.details and not wants_json():
            return _map(given, upload, error)
        raise
    return answer(_line(version), 201, to=url_for("datasets.show", id=version.dataset_id))


@bp.get("/map/<id>")
def map_columns(id: str) -> AnyResponse:
    upload = uploads.get_for(actor(), id)
    needed = datasets.mapping_needed(upload)
    if needed is None:
        return redirect(url_for("datasets.new"))
    guessed = {f"map_{target}": column for target, column in (needed.details["suggestion"] or {}).items()}
    form = {"name": request.args.get("name", ""), "kind": request.args.get("kind", ""), **guessed}
    return answer(None, page="datasets/map.html", form=form, **_columns(upload, needed))


@bp.get("/<int:id>")
def show(id: int) -> AnyResponse:
    version = datasets.get_for(actor(), id)
    whole = _whole(version)
    if wants_json():
        return answer(whole)
    jobs = training_jobs.summaries(training_jobs.list_for(actor(), limit=10, dataset_id=id))
    return answer(None, page="datasets/show.html", dataset=whole, preview=datasets.preview(version), jobs=jobs)


@bp.post("/<int:id>/delete")
def delete(id: int) -> AnyResponse:
    datasets.delete(actor(), id)
    flash("The data set is deleted.", "success")
    return answer({"status": "deleted"}, to=url_for("datasets.index"))


def _received() -> tuple[NewDataset, Upload]:
    """The form and the finished upload it names or brings along."""
    allowed = subscriptions.limit(actor(), "upload_bytes")
    if request.mimetype == "multipart/form-data":
        if (request.content_length or 0) > allowed + FORM_ROOM:
            raise uploads.too_large(actor(), request.content_length or 0)
        request.max_content_length = allowed + FORM_ROOM
        request.max_form_parts = FORM_PARTS
    given = read(NewDataset)
    file: FileStorage | None = request.files.get("file")
    if given.upload or given.file:
        return given, uploads.get_for(actor(), given.upload or given.file or "")
    if file is None or not file.filename:
        raise Invalid.of(file="Choose a file: JSONL, JSON, CSV or plain text.")
    return given, uploads.receive(actor(), file.filename, file.stream)


def _mapping(given: NewDataset) -> dict[str, str] | None:
    """The mapping as JSON, or as the fields of the mapping page."""
    if isinstance(given.mapping, dict):
        return given.mapping or None
    if given.mapping:
        return _mapping_text(given.mapping)
    if given.target not in TARGETS:
        return None
    chosen = {name: request.form.get(f"map_{name}", "") for name in TARGETS[given.target]}
    return {name: column for name, column in chosen.items() if column} or None


def _mapping_text(text: str) -> dict[str, str]:
    try:
        mapping = json.loads(text)
    except ValueError:
        mapping = None
    if not isinstance(mapping, dict) or not all(isinstance(column, str) for column in mapping.values()):
        raise Invalid.of(mapping='The mapping is a JSON object such as {"prompt": "question", "completion": "answer"}.')
    return mapping


def _map(given: NewDataset, upload: Upload, error: Invalid) -> AnyResponse:
    """On to the page on which unknown columns are mapped; a mapping that was refused there is shown again."""
    if given.target or given.mapping:
        return shown_again("datasets/map.html", error, **_columns(upload, error))
    return redirect(url_for("datasets.map_columns", id=upload.id, name=given.name, kind=given.kind), code=303)


def _columns(upload: Upload, error: Invalid) -> dict[str, Any]:
    return {
        "upload": {"id": upload.id, "name": upload.name, "size": upload.size},
        "columns": error.details["columns"], "sample": error.details["sample"],
    }  # fmt: skip


def _new_context() -> dict[str, Any]:
    kinds = [
        {"name": name, "label": label, "explanation": text} for name, (label, text) in datasets.KIND_LABELS.items()
    ]
    return {"kinds": kinds, "limit_bytes": subscriptions.limit(actor(), "upload_bytes")}


def _line(version: DatasetVersion) -> dict[str, Any]:
    return {
        "id": version.dataset_id, "name": version.dataset.name, "kind": version.dataset.kind, "version": version.version,
        "format": version.format, "rows": version.rows, "tokens": version.tokens, "bytes": version.bytes,
        "bad_count": version.bad_count, "bad_rows": version.bad_rows, "quality_score": version.quality["score"],
        "mapping": version.mapping, "sha256": version.sha256, "created_at": iso(version.created_at),
    }  # fmt: skip


def _whole(version: DatasetVersion) -> dict[str, Any]:
    versions = [
        {"version": v.version, "rows": v.rows, "sha256": v.sha256, "created_at": iso(v.created_at)}
        for v in version.dataset.versions
    ]
    return {**_line(version), "file_name": version.file_name, "quality": version.quality, "versions": versions}
