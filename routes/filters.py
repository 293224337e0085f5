"""How times, money, credits, bytes and measured values are written on pages: here and nowhere else."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

from flask import Flask, current_app, request, url_for
from markupsafe import Markup, escape

from models.credits import Wallet
from routes.guards import visitor
from routes.subscriptions import till
from services import credits as wallets

# js/format.js writes values alike, digit for digit.
VALUE_LEAST, VALUE_MOST = Decimal("0.001"), 1_000_000
VALUE_PLACES = ((100, 1), (10, 2), (1, 3), (Decimal("0.1"), 4), (Decimal("0.01"), 5), (0, 6))


def init_app(app: Flask) -> None:
    """Make the filters and globals known to every template."""
    for function in (ago, exact, day, money, credits, bytes_, duration, number, value):
        app.add_template_filter(function, function.__name__.rstrip("_"))
    app.add_template_global(Assets(Path(app.static_folder or "")).url, "asset")
    app.add_template_global(lambda: uuid.uuid4().hex, "idempotency_key")
    app.context_processor(_shared)


def _shared() -> dict[str, Any]:
    user = visitor()
    member = {"id": user.id, "username": user.username, "email": user.email, "role": user.role} if user else None
    has_panel = user is not None and user.role != "member" and "admin.dashboard" in current_app.view_functions
    return {
        "member": member,
        "has_admin_panel": has_panel,
        "wallet_now": _wallet_now,
        "form": {},
        "errors": {},
        **till(),
    }


def _wallet_now() -> Wallet | None:
    """The visitor's credits as the last operation left them: one row, read only by pages that show them."""
    user = visitor()
    return wallets.wallet_of(user.id) if user else None


class Assets:
    """Addresses of static files with a hash of their content, so that browsers may keep them for ever."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[
            str, tuple[float, str]
        ] = {}  # path -> when the file changed, the address below the site's root

    def url(self, path: str) -> str:
        """The address of one file under static/."""
        changed = (self._folder / path).stat().st_mtime
        known = self._known.get(path)
        if known is None or known[0] != changed:
            digest = sha256((self._folder / path).read_bytes()).hexdigest()[:12]
            address = url_for("static", filename=path, v=digest).removeprefix(request.script_root)
            known = self._known[path] = (changed, address)
        return request.script_root + known[1]


def ago(at: str | datetime | None) -> Markup:
    """`3 min ago`, with the exact time on hover."""
    moment = _instant(at)
    if moment is None:
        return Markup("never")
    seconds = (datetime.now(UTC) - moment).total_seconds()
    text = f"in {_rough(-seconds)}" if seconds < -1 else "just now" if seconds < 10 else f"{_rough(seconds)} ago"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(moment.isoformat(), exact(moment), text)


def exact(at: str | datetime | None) -> str:
    """`21 Nov 2026, 14:03 UTC`."""
    moment = _instant(at)
    return f"{moment.day} {moment:%b %Y, %H:%M} UTC" if moment else ""


def day(at: str | datetime | None) -> str:
    """`21 Nov 2026`."""
    moment = _instant(at)
    return f"{moment.day} {moment:%b %Y}" if moment else ""


def money(cents: int) -> str:
    """`$9.99`."""
    return f"${cents / 100:,.2f}"


def credits(count: int | None) -> str:
    """`1,000 credits`."""
    return f"{count or 0:,} {'credit' if count == 1 else 'credits'}"


def bytes_(count: float | None) -> str:
    """`2.1 MB`, in powers of ten."""
    if count is None:
        return ""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f}".removesuffix(".0") + f" {unit}"
    return f"{int(count)} B"


def duration(seconds: float | None) -> str:
    """`3 min 20 s`."""
    if seconds is None:
        return ""
    whole = int(seconds)
    days, hours, minutes, rest = whole // 86400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def number(value: float | None) -> Markup | str:
    """`1,234`."""
    return "" if value is None else str(escape(f"{value:,}"))


def value(measured: float | None) -> str:
    """A loss or another measured value in about four significant digits: `2.315`, `0.02315`, `2.32e-4`."""
    if measured is None:
        return "–"
    exact = Decimal(measured or 0)  # no minus before a zero
    size = abs(exact)
    if not size:
        return "0"
    if not VALUE_LEAST <= size < VALUE_MOST:
        return f"{Context(prec=3, rounding=ROUND_HALF_UP).create_decimal(exact):.2e}"
    places = next(places for least, places in VALUE_PLACES if size >= least)
    return f"{exact.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP):f}"


def _instant(at: str | datetime | None) -> datetime | None:
    return datetime.fromisoformat(at) if isinstance(at, str) else at


def _rough(seconds: float) -> str:
    for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {name}"
    return f"{int(seconds)} s"
