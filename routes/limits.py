"""How often the doors that guess passwords or make accounts may be tried, and how fast one key may ask; counted in Redis."""

from __future__ import annotations

import contextlib
from typing import Any

from flask import Flask, Response, request
from flask_limiter import ApplicationLimit, Limiter
from flask_limiter.util import get_remote_address

from routes.guards import bearer
from services import secrets
from services.config import Settings

BY_KEY = "200 per second"


def _token() -> str:
    return secrets.digest(bearer() or "")[:32]


def _is_not_counted() -> bool:
    """Who sends no token is no program; and a thousand machines may come back at once with one key."""
    return bearer() is None or request.blueprint == "agents_socket"


limiter = Limiter(
    get_remote_address, in_memory_fallback_enabled=True, strategy="moving-window",
    swallow_errors=True,  # of two that find Redis hanging at once, the library lets only the first fall back
    application_limits=[ApplicationLimit(BY_KEY, key_function=_token, exempt_when=_is_not_counted)],
)  # fmt: skip

LOG_IN_BY_ACCOUNT = "10 per minute; 100 per hour"
LOG_IN_FAILED = "100 per hour"  # for one account, wherever from
LOG_IN_BY_ADDRESS = "60 per minute; 600 per hour"
SIGN_UP = "30 per minute; 300 per hour"
FORGET = "5 per minute; 30 per hour"


def init_app(app: Flask, settings: Settings) -> None:
    """Count in the yard's Redis; while it is away, in this process."""
    url = settings.redis_url.replace("unix://", "redis+unix://", 1)
    app.config.setdefault("RATELIMIT_STORAGE_URI", url)
    app.config.setdefault("RATELIMIT_STORAGE_OPTIONS", {"socket_connect_timeout": 0.5, "socket_timeout": 0.5})
    limiter.init_app(app)


def by_account() -> str:
    """Whoever tries, from one address, to get into one account.

    Raises nothing: the limiter takes any error for one of Redis, and counts in this process from then on.
    """
    given: Any = None
    if request.is_json:
        with contextlib.suppress(RecursionError):
            given = request.get_json(silent=True)
    elif request.mimetype != "multipart/form-data":
        given = request.form
    email = given.get("email") if hasattr(given, "get") else ""
    return f"{get_remote_address()} {str(email).strip().lower()[:254]}"


def by_account_anywhere() -> str:
    """Whoever tries to get into one account."""
    return f"anywhere {by_account().partition(' ')[2]}"


def has_failed(response: Response) -> bool:
    """Whether it was a wrong try."""
    return response.status_code == 401
