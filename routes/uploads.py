"""Resumable uploads: of members for their data, and of runners for what they made."""

from __future__ import annotations

from flask import Blueprint, Response, g, request
from pydantic import StrictInt

from models.uploads import Upload
from routes.answers import Given, answer, read
from routes.guards import actor
from services import attempt_files, uploads
from services.errors import Invalid

bp = Blueprint("uploads", __name__)


class NewUpload(Given):
    name: str
    size: StrictInt
    sha256: str | None = None


@bp.post("")
def create() -> Response:
    given = read(NewUpload)
    if "attempt" in g:
        upload = attempt_files.begin_upload(*g.attempt, given.name, given.size, given.sha256)
    else:
        upload = uploads.create(actor(), given.name, given.size, given.sha256)
    body = {"id": upload.id, "offset": upload.offset, "size": upload.size, "chunk_bytes": uploads.CHUNK_BYTES}
    return answer(body, 201)  # type: ignore[return-value]


@bp.route("/<id>", methods=["HEAD"])
def offset(id: str) -> Response:
    upload = _get_for(id)
    return Response(headers={"Upload-Offset": str(upload.offset), "Upload-Length": str(upload.size)})


@bp.patch("/<id>")
def append(id: str) -> Response:
    request.max_content_length = uploads.CHUNK_BYTES + 1024
    given = request.headers.get("Upload-Offset", "")
    if not (given.isascii() and given.isdigit() and len(given) < 16):
        raise Invalid("Say with the header Upload-Offset at which byte this piece begins.")
    end = uploads.append(_get_for(id), int(given), request.stream)  # type: ignore[arg-type]
    return Response(status=204, headers={"Upload-Offset": str(end)})


@bp.post("/<id>/complete")
def complete(id: str) -> Response:
    upload = uploads.complete(_get_for(id))
    return answer({"id": upload.id, "sha256": upload.sha256})  # type: ignore[return-value]


def _get_for(id: str) -> Upload:
    return uploads.get_for_attempt(*g.attempt, id) if "attempt" in g else uploads.get_for(actor(), id)
