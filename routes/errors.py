"""The only place where an error becomes an answer: HTML or JSON, by what was asked for."""

from __future__ import annotations

import errno
import uuid
from typing import Any

import structlog
from flask import Flask, g, jsonify, render_template
from flask_limiter.errors import RateLimitExceeded
from flask_login import AnonymousUserMixin
from gunicorn.http.errors import ParseException
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection
from werkzeug.exceptions import BadRequest, ClientDisconnected, HTTPException, RequestEntityTooLarge, RequestTimeout
from werkzeug.wrappers import Response

from routes.answers import NotJson, note_refusal, wants_json
from routes.guards import NoUpgrade
from services.accounts import LinkOver
from services.errors import (
    Conflict,
    DomainError,
    Forbidden,
    Forged,
    Invalid,
    NotFound,
    PaymentNeeded,
    TooBusy,
    TooLarge,
    Unauthorized,
    Unavailable,
    Unsupported,
)
from services.uploads import DiskFull, TooManyOpen

log = structlog.get_logger()

STATUS: list[tuple[type[DomainError], int, str]] = [
    (NotJson, 400, "This could not be read"),
    (NoUpgrade, 400, "This could not be read"),
    (Forged, 400, "This could not be trusted"),
    (Unauthorized, 401, "Log in first"),
    (PaymentNeeded, 402, "Not in your plan"),
    (Forbidden, 403, "Not allowed"),
    (LinkOver, 410, "This link is over"),
    (NotFound, 404, "Not found"),
    (TooManyOpen, 429, "Slow down"),
    (TooBusy, 429, "Slow down"),
    (Conflict, 409, "That has changed"),
    (TooLarge, 413, "Too large"),
    (Unsupported, 415, "Not supported"),
    (Invalid, 422, "Something is missing or wrong"),
    (Unavailable, 503, "Away for a moment"),
    (DiskFull, 507, "No room"),
]
TITLES = dict.fromkeys(("card_declined", "authentication_required", "no_card"), "The payment did not work")
WAITS = {1: "a second", 60: "a minute", 3600: "an hour"}
SENTENCES = {
    400: "The request could not be read.",
    404: "There is nothing at this address.",
    405: "This address does not take that method.",
    408: "Sending took too long. Try again.",
    413: "This is larger than what is taken here.",
    415: "This kind of content is not taken here.",
}


def init_app(app: Flask) -> None:
    """Register the handlers."""
    app.register_error_handler(DomainError, _domain)
    app.register_error_handler(RateLimitExceeded, _too_many)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(ParseException, lambda _: _http(BadRequest()))  # a body in chunks that lie
    app.register_error_handler(OperationalError, _database_away)
    app.register_error_handler(NoConnection, _database_away)
    app.register_error_handler(OSError, _disk)
    app.register_error_handler(Exception, _bug)


def _domain(error: DomainError) -> Response:
    status, title = next((code, name) for kind, code, name in STATUS if isinstance(error, kind))
    title = TITLES.get(error.code, title)
    body = {"code": error.code, "message": error.message, **error.details}
    if getattr(error, "fields", None):
        body["fields"] = error.fields  # type: ignore[attr-defined]
    template = "errors/needs_plan.html" if error.details.get("ways") else "errors/error.html"
    response = _answer(status, title, body, template)
    if status == 401 and wants_json():
        response.headers["WWW-Authenticate"] = "Bearer"
    if status == 409 and "offset" in error.details:
        response.headers["Upload-Offset"] = str(error.details["offset"])
    if "retry_after" in error.details:
        response.headers["Retry-After"] = str(error.details["retry_after"])
    if status == 413:
        response.headers["Connection"] = "close"
    return response


def _too_many(error: RateLimitExceeded) -> Response:
    seconds = error.limit.limit.get_expiry() if error.limit else 60
    wait = WAITS.get(seconds, f"{seconds} seconds")
    body = {"code": "too_many_requests", "message": f"Too many tries. Wait {wait}, then try again."}
    response = _answer(429, "Slow down", body)
    response.headers["Retry-After"] = str(seconds)
    return response


def _http(error: HTTPException) -> Response:
    if isinstance(error, ClientDisconnected) and isinstance(error.__context__, TimeoutError):
        error = RequestTimeout()
    status = error.code or 500
    if error.response is not None or status < 400:
        return error.get_response()  # type: ignore[return-value]
    sentence = SENTENCES.get(status, f"{error.description or error.name}")
    response = _answer(status, error.name, {"code": error.name.lower().replace(" ", "_"), "message": sentence})
    if isinstance(error, RequestEntityTooLarge):
        response.headers["Connection"] = "close"
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            response.headers[name] = value
    return response


def _database_away(error: SQLAlchemyError) -> Response:
    log.error("database_away", error=str(error))
    g._login_user = AnonymousUserMixin()  # the page that says so must not ask the database who reads it
    body = {
        "code": "unavailable",
        "message": "The database is busy or away. Nothing was changed; try again in a moment.",
    }
    return _answer(503, "Away for a moment", body)


def _disk(error: OSError) -> Response:
    """A file that cannot grow: ours, a temporary one of a form, a checkpoint. Everything else about a file is a bug."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return _bug(error)
    log.error("disk_full", error=str(error))
    return _domain(DiskFull("The server's disk is full. Nothing was stored; try again later, or tell its operator."))


def _bug(error: Exception) -> Response:
    reference = uuid.uuid4().hex[:10]
    log.exception("unexpected_error", reference=reference)
    body = {
        "code": "internal_error", "reference": reference,
        "message": f"Something went wrong on our side. Nothing is lost; if it happens again, tell the operator {reference}.",
    }  # fmt: skip
    return _answer(500, "Something went wrong", body)


def _answer(status: int, title: str, body: dict[str, Any], template: str = "errors/error.html") -> Response:
    note_refusal(status, body["code"])
    if wants_json():
        response: Response = jsonify({"error": body})
        response.status_code = status
        return response
    html = render_template(
        template, status=status, title=title, message=body["message"], ways=body.get("ways"),
        advice=body.get("advice"), reference=body.get("reference"),
    )  # fmt: skip
    return Response(html, status=status, mimetype="text/html")
