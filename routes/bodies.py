"""Bodies, read before anybody looks into them: too long, cut off or never ending is said once, and in one place."""

from __future__ import annotations

from flask import Flask, request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge


def init_app(app: Flask) -> None:
    """Read the body of every request first; what other parts find out about a request may rest on it."""
    app.before_request(_read)


def _read() -> None:
    """Raises what a body that cannot be read is answered with.

    What is large is left to be read piece by piece, where it is stored: parts of an upload, files in a form. A chunked body
    has no announced length, and its stream ends at the limit as if the body did.
    """
    if request.method == "PATCH" or request.mimetype == "multipart/form-data":
        return
    told = request.content_length
    if told is None and "Transfer-Encoding" not in request.headers:
        return
    found = len(request.get_data())
    if told is None and found >= (request.max_content_length or 0):
        raise RequestEntityTooLarge
    if told is not None and found < told:
        raise ClientDisconnected  # half a form is not a shorter one
