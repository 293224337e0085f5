"""How often the doors that guess passwords or make accounts may be tried, counted in Redis."""

from __future__ import annotations

from flask import Flask, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address

from services.config import Settings

limiter = Limiter(get_remote_address, in_memory_fallback_enabled=True, strategy="moving-window")

LOG_IN_BY_ACCOUNT = "10 per minute; 100 per hour"
LOG_IN_BY_ADDRESS = "60 per minute; 600 per hour"
SIGN_UP = "30 per minute; 300 per hour"
FORGET = "5 per minute; 30 per hour"


def init_app(app: Flask, settings: Settings) -> None:
    """Count in the yard's Redis; while it is away, in this process."""
    url = settings.redis_url.replace("unix://", "redis+unix://", 1)
    app.config.setdefault("RATELIMIT_STORAGE_URI", url)
    app.config.setdefault("RATELIMIT_STORAGE_OPTIONS", {"socket_connect_timeout": 2})
    limiter.init_app(app)


def by_account() -> str:
    """Whoever tries, from one address, to get into one account."""
    given = request.get_json(silent=True) if request.is_json else request.form
    email = given.get("email") if hasattr(given, "get") else ""
    return f"{get_remote_address()} {str(email).strip().lower()[:254]}"
