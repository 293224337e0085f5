"""Models: what is in one, and its files to download."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, send_file, url_for
from werkzeug.wrappers import Response as AnyResponse

from models.model_versions import ModelVersion
from routes.answers import answer, page_of_list
from routes.guards import actor
from services import model_versions
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


@bp.get("")
def index() -> AnyResponse:
    limit, before = page_of_list()
    shown_models = [shown(version) for version in model_versions.list_for(actor(), limit, before)]
    return answer(shown_models, to=url_for("ai_training.index", tab="models"))


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
    )


@bp.get("/<int:id>/files/<path:name>")
def download(id: int, name: str) -> Response:
    file, path = model_versions.file_of(model_versions.get_for(actor(), id), name)
    response = send_file(
        path, as_attachment=True, download_name=file.name.rsplit("/")[-1], mimetype="application/octet-stream",
        etag=file.sha256, conditional=True,
    )  # fmt: skip
    response.headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
    return response


def shown(version: ModelVersion) -> dict[str, Any]:
    """A model version as the API gives it."""
    return {
        "id": version.id, "name": version.trained_model.name, "version": version.version, "bytes": version.bytes,
        "base_model": version.base_name, "method": version.method, "recipe": version.recipe, "job_id": version.job_id,
        "loss": version.details.get("loss"), "steps": version.details.get("steps"), "created_at": iso(version.created_at),
    }  # fmt: skip


def _how_to_load(version: ModelVersion, files: list[dict[str, Any]]) -> str:
    names = {file["name"] for file in files}
    if "model.safetensors" in names:
        return LOAD_WHOLE.format(folder=version.trained_model.name)
    if "merged/model.safetensors" in names:
        return LOAD_WHOLE.format(folder=f"{version.trained_model.name}/merged")
    return LOAD_ADAPTER.format(folder=version.trained_model.name, base=version.base_name)
