"""Models: what is in one, its files to download, bringing one along that was trained elsewhere, putting one away."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, flash, send_file, url_for
from werkzeug.wrappers import Response as AnyResponse

from models.model_versions import ModelVersion
from routes.answers import Given, answer, page_of_list, read
from routes.guards import actor
from services import base_models, model_versions
from services.training_jobs import iso

bp = Blueprint("model_versions", __name__)

LOAD_WHOLE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{folder}"  # where you put the files
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
"""
LOAD_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{folder}"  # where you put the files
base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
"""
LOAD_TENSORS = """\
from safetensors.torch import load_file

tensors = load_file("{file}")
"""


class NewFile(Given):
    name: str
    upload: str


class NewModel(Given):
    name: str
    files: list[NewFile]
    description: str = ""
    base_model: str = ""


@bp.get("")
def index() -> AnyResponse:
    limit, before = page_of_list()
    shown_models = [shown(version) for version in model_versions.list_for(actor(), limit, before)]
    return answer(shown_models, to=url_for("ai_training.index", tab="models"))


@bp.post("")
def create() -> AnyResponse:
    given = read(NewModel)
    files = [(file.name, file.upload) for file in given.files]
    version = model_versions.create(actor(), given.name, given.description, given.base_model, files)
    body = {**shown(version), "artifacts": model_versions.artifacts(version)}
    return answer(body, 201, to=url_for("model_versions.show", id=version.id))


@bp.get("/<int:id>")
def show(id: int) -> AnyResponse:
    version = model_versions.get_for(actor(), id)
    files = model_versions.artifacts(version)
    body = {**shown(version), "artifacts": files}
    return answer(
        body,
        page="model_versions/show.html",
        model=shown(version),
        artifacts=files,
        how_to_load=_how_to_load(version, files),
        is_foundation=base_models.is_foundation([file["name"] for file in files]),
    )


@bp.route("/<int:id>", methods=["DELETE"])
def remove(id: int) -> Response:
    model_versions.delete(actor(), id)
    return Response(status=204)


@bp.post("/<int:id>/delete")
def delete(id: int) -> AnyResponse:
    model_versions.delete(actor(), id)
    flash("The model is deleted.", "success")
    return answer({"status": "deleted"}, to=url_for("ai_training.index", tab="models"))


@bp.get("/<int:id>/files/<path:name>")
def download(id: int, name: str) -> Response:
    file, path = model_versions.file_of(model_versions.get_for(actor(), id), name)
    response = send_file(
        path, as_attachment=True, download_name=file.name.rsplit("/")[-1], mimetype="application/octet-stream",
        etag=file.sha256, conditional=True,
    )  # fmt: skip
    response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
    return response


@bp.get("/<int:id>/files")
def download_all(id: int) -> Response:
    version = model_versions.get_for(actor(), id)
    response = Response(model_versions.zipped(version), mimetype="application/zip")
    name = f"{model_versions.folder_name(version)}-{version.version}.zip"
    response.headers.set("Content-Disposition", "attachment", filename=name)
    return response


def shown(version: ModelVersion) -> dict[str, Any]:
    """A model version as the API gives it."""
    return {
        "id": version.id, "name": version.trained_model.name, "version": version.version, "bytes": version.bytes,
        "base_model": version.base_name or None, "method": version.method, "recipe": version.recipe or None,
        "job_id": version.job_id, "description": version.details.get("description") or None,
        "loss": version.details.get("loss"), "steps": version.details.get("steps"),
        "parameters": version.details.get("parameters"), "created_at": iso(version.created_at),
    }  # fmt: skip


def _how_to_load(version: ModelVersion, files: list[dict[str, Any]]) -> str:
    names = {file["name"] for file in files}
    if "adapter_model.safetensors" not in names and "config.json" not in names:
        tensors = [name for name in sorted(names) if name.endswith(".safetensors")]
        return LOAD_TENSORS.format(file=tensors[0]) if tensors else ""  # what a script keeps, its member can read
    folder = model_versions.folder_name(version)
    if "adapter_model.safetensors" not in names:
        return LOAD_WHOLE.format(folder=folder)
    if "merged/model.safetensors" in names:
        return LOAD_WHOLE.format(folder=f"{folder}/merged")
    return LOAD_ADAPTER.format(folder=folder, base=version.base_name or "the base model")
