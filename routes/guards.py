"""Who may enter. The table in routes/__init__.py names one guard for every blueprint; `public` included."""

from __future__ import annotations

import base64
import binascii
from datetime import date
from typing import Any

from flask import Flask, g, redirect, request, session, url_for
from flask_login import LoginManager, current_user, login_user
from werkzeug.wrappers import Response

from models.accounts import User
from models.api_keys import ApiKey
from routes.answers import wants_json
from services import accounts, api_keys, training_jobs
from services.errors import Forbidden, Invalid, NotFound, Unauthorized

login_manager = LoginManager()
DAY = "day"  # in a session: on which day its cookie was given out


class ForeignSite(Forbidden):
    code = "foreign_site"


class NoUpgrade(Invalid):
    """A request for a WebSocket that is none; becomes 400."""

    code = "no_upgrade"


def init_app(app: Flask) -> None:
    """Let Flask-Login know how to find out who asks, and refuse requests that other sites send."""
    login_manager.init_app(app)
    login_manager.user_loader(accounts.by_session)
    login_manager.request_loader(_by_bearer)
    app.before_request(_refuse_foreign_site)
    app.before_request(_refuse_key_in_address)
    app.before_request(_keep_session)


def begin_session(user: User) -> None:
    """Log somebody in: a fresh session under a fresh token."""
    token = accounts.begin_session(user)  # first: where it cannot be stored, the old session goes on
    session.clear()
    session.permanent = True
    session[DAY] = date.today().toordinal()
    user.session_token = token  # type: ignore[misc]
    login_user(user)


def _keep_session() -> None:
    """Begin the thirty days of a session anew, once a day, with a page that its member opens.

    Not with every answer, as Flask does: what is answered to a request of a moment ago, for a picture, would bring back the
    session of a moment ago, and a message for the next page would never be seen.
    """
    if request.endpoint == "static" or request.method != "GET" or wants_json() or not session.permanent:
        return
    if session.get(DAY) != date.today().toordinal():
        session[DAY] = date.today().toordinal()


def actor() -> User:
    """The member who asks, as a plain object."""
    user: User = current_user._get_current_object()
    return user


def visitor() -> User | None:
    """The member who asks, or None on a public page."""
    return actor() if current_user.is_authenticated else None


def public() -> None:
    """Everybody may enter."""


def signed_in() -> Response | None:
    """A member: by session, or by a key of scope `full`."""
    if bearer() is not None and not current_user.is_authenticated:
        raise Unauthorized("This API key is wrong or was revoked. Make a new one on your account page.")
    if not current_user.is_authenticated:
        if wants_json() or request.method != "GET":
            raise Unauthorized("Log in, or send an API key: Authorization: Bearer KEY.")
        return redirect(url_for("accounts.login", next=request.full_path.rstrip("?")))
    if key() and key().scope != "full":  # type: ignore[union-attr]
        raise Forbidden("A key of scope `agent` only connects a machine. Make one of scope `full`.", code="wrong_scope")
    return None


def admins() -> Response | None:
    """An admin or a superadmin; for a member there is nothing here, as with everything that is not theirs."""
    away = signed_in()
    if away is None and not actor().is_admin:
        raise NotFound("There is nothing at this address.")
    return away


def superadmins() -> Response | None:
    """A superadmin: who may change plans, prices and roles."""
    away = admins()
    if away is None and actor().role != "superadmin":
        raise Forbidden("Only superadmins change plans, prices and roles. Ask one of them.", code="superadmins_only")
    return away


def machine() -> None:
    """An agent with a key of either scope, and no browser, that asks for a WebSocket (RFC 6455, section 4.2.1)."""
    if "Origin" in request.headers:
        raise ForeignSite("Agents connect here, browsers do not.")
    if not current_user.is_authenticated or key() is None:
        raise Unauthorized("This API key is wrong or was revoked. Make a new one on the Agents page.")
    if request.environ.get("SERVER_PROTOCOL") != "HTTP/1.1":
        raise NoUpgrade("A WebSocket begins with a request of HTTP/1.1.")
    if request.headers.get("Sec-WebSocket-Version") != "13" or not _is_nonce(request.headers.get("Sec-WebSocket-Key")):
        raise NoUpgrade(
            "A WebSocket begins with Sec-WebSocket-Version: 13 and a Sec-WebSocket-Key of 16 bytes in base64."
        )
    request.environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)  # none is agreed to: what is small stays small


def attempt() -> None:
    """The runner of a running attempt, by the attempt's own token."""
    opened = training_jobs.token_opens(bearer() or "")
    if opened is None:
        raise Unauthorized("This token opens nothing: the attempt is over.")
    g.attempt = opened


def uploader() -> Response | None:
    """A member, or the runner of a running attempt."""
    if (bearer() or "").startswith("tj_"):
        attempt()
        return None
    return signed_in()


def key() -> ApiKey | None:
    """The API key of this request, if it was made with one."""
    found: ApiKey | None = g.get("api_key")
    return found


def bearer() -> str | None:
    """What the Authorization header carries."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else None


def _by_bearer(_request: Any) -> User | None:
    token = bearer()
    found = api_keys.identify(token) if token else None
    g.api_key = found
    return found.user if found else None


def _is_nonce(given: str | None) -> bool:
    try:
        return len(base64.b64decode(given or "", validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _refuse_key_in_address() -> None:
    """A key in an address is in logs and histories from then on, so it is worth nothing any more."""
    exposed = [api_keys.revoke_exposed(given) for _, given in request.args.items(multi=True)]
    if any(exposed):
        raise Unauthorized(
            "A key does not belong into an address, where logs keep it; this one is revoked. Make a new one and send it "
            "as Authorization: Bearer KEY.",
            code="key_in_address",
        )


def _refuse_foreign_site() -> None:
    """After Go's CrossOriginProtection: a browser says where a request comes from, and what says nothing is no browser."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        if site not in ("same-origin", "none"):
            raise ForeignSite("This request came from another site and was not carried out.")
        return
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.host:
        raise ForeignSite("This request came from another site and was not carried out.")
