"""What the runner of a running attempt fetches and delivers, opened by the attempt's own token."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, g, send_file
from pydantic import BaseModel
from werkzeug.wrappers import Response as AnyResponse

from routes.answers import Given, answer, read
from services import attempt_files
from services.errors import NotFound

bp = Blueprint("attempts", __name__)


class Delivered(BaseModel):
    name: str
    upload: str


class Delivery(Given):
    files: list[Delivered]


@bp.get("/<int:job>/attempts/<int:attempt>/data")
def data(job: int, attempt: int) -> Response:
    return send_file(attempt_files.data_of(*_own(job, attempt)), mimetype="application/octet-stream", conditional=True)


@bp.get("/<int:job>/attempts/<int:attempt>/base/<path:name>")
def base(job: int, attempt: int, name: str) -> Response:
    path = attempt_files.base_file_of(*_own(job, attempt), name)
    return send_file(path, mimetype="application/octet-stream", conditional=True)


@bp.post("/<int:job>/attempts/<int:attempt>/artifacts")
def artifacts(job: int, attempt: int) -> AnyResponse:
    files: list[Any] = [(file.name, file.upload) for file in read(Delivery).files]
    version = attempt_files.deliver(*_own(job, attempt), files)
    return answer({"model_version_id": version.id}, 201)


def _own(job: int, attempt: int) -> tuple[int, int]:
    """The attempt of the address, which must be the one the token opens."""
    if (job, attempt) != g.attempt:
        raise NotFound
    return job, attempt
