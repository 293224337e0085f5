"""`Idempotency-Key` on every POST (and the hidden field of forms): the first answer again, and no second effect."""

from __future__ import annotations

import hashlib
import hmac
import json

from flask import Flask, Response, g, request
from flask_login import current_user

from routes import guards
from services import accounts, idempotency, secrets
from services.gateways import gateways

FIELD = "_idempotency_key"
NOT_KEPT = (401, 403, 404, 405, 413, 415, 429)
AGAIN_IS_THE_SAME = ("accounts.login_post", "accounts.logout")


def init_app(app: Flask) -> None:
    """Look for a stored answer before a POST is carried out, and store the answer after."""
    app.before_request(_replay)
    app.after_request(_keep)


def _replay() -> Response | None:
    key = _key()
    if key is None:
        return None
    scope, fingerprint = _scope(), _fingerprint()
    row = idempotency.known(scope, key, fingerprint)
    if row is None:
        g.idempotent = (scope, key, fingerprint)
        return None
    if request.endpoint == "accounts.signup_post" and not current_user.is_authenticated:
        _prove_again()
    stored = json.loads(secrets.unseal(gateways().settings.secret_key, row.body or ""))
    response = Response(stored["body"], status=row.status, mimetype=stored["mimetype"])
    if row.location:
        response.headers["Location"] = row.location
    response.headers["Idempotent-Replay"] = "true"
    return response


def _keep(response: Response) -> Response:
    pending = g.pop("idempotent", None)
    if pending is None or response.status_code >= 500 or response.status_code in NOT_KEPT or response.is_streamed:
        return response
    if response.mimetype != "application/json" and "Location" not in response.headers:
        return response
    sealed = secrets.seal(
        gateways().settings.secret_key,
        json.dumps({"body": response.get_data(as_text=True), "mimetype": response.mimetype}),
    )
    location = response.headers.get("Location")
    idempotency.answered(*pending, status=response.status_code, location=location, body=sealed)
    return response


def _key() -> str | None:
    if request.method != "POST" or request.endpoint is None or request.endpoint in AGAIN_IS_THE_SAME:
        return None
    given = request.headers.get("Idempotency-Key")
    if given is None and request.mimetype == "application/x-www-form-urlencoded":
        given = request.form.get(FIELD)
    return given or None


def _scope() -> str:
    return f"user {current_user.id}" if current_user.is_authenticated else "nobody"


def _fingerprint() -> str:
    """What was asked. A multipart body is told by its length alone: its boundary differs from try to try."""
    if request.mimetype == "multipart/form-data":
        body = str(request.content_length).encode()
    elif request.mimetype == "application/x-www-form-urlencoded":
        body = json.dumps(sorted(request.form.items(multi=True))).encode()
    else:
        body = request.get_data()
    told = f"{request.method} {request.path}\n".encode() + body
    # Keyed, because the body may hold a password.
    return hmac.new(gateways().settings.secret_key.encode(), told, hashlib.sha256).hexdigest()


def _prove_again() -> None:
    """The answer to a sign-up holds a session; the password in the repeated request is what opens one."""
    given = request.get_json() if request.is_json else request.form
    guards.begin_session(accounts.log_in(str(given.get("email")), str(given.get("password"))))
