"""Reports in the admin's panel, each table as a page and as CSV with the same rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from typing import Any

from flask import Blueprint, request, stream_with_context
from werkzeug.wrappers import Response

from models.base import now
from routes.admin import chosen_members, plain
from routes.answers import answer, wants_json
from routes.guards import actor
from services import admin
from services.errors import Invalid

bp = Blueprint("admin_reports", __name__)
BEGINS_A_FORMULA = ("=", "+", "-", "@", "\t", "\r")

# table -> the columns of its file: name, and where it is in a row; `_cents` become dollars, `share` a percentage
COLUMNS: dict[str, dict[str, str]] = {
    "plans": {"plan": "plan", "version": "version", "members": "members", "share_percent": "share", "mrr_usd": "mrr_cents"},
    "top-members": {"user_id": "user_id", "username": "username", "email": "email", "credits": "credits", "days": "days"},
    "months": {"month": "month", "mrr_usd": "mrr_cents", "credits": "credits", "revenue_usd": "revenue_cents"},
    "day": {
        "day": "day", "members": "members", "joined": "joined", "mrr_usd": "mrr_cents", "credits": "credits",
        "payments": "payments", "revenue_usd": "revenue_cents",
    },
    "members": {
        "user_id": "id", "username": "username", "email": "email", "role": "role", "plan": "plan_name",
        "version": "plan_version", "source": "source", "status": "status", "interval": "interval",
        "available": "available", "held": "held", "used_30_days": "used", "next_reset_at": "next_reset_at",
        "created_at": "created_at", "suspended_at": "suspended_at",
    },
}  # fmt: skip
ROWS: dict[str, Callable[[date | None], Iterable[dict[str, Any]]]] = {
    "plans": lambda on: admin.distribution(actor(), on),
    "top-members": lambda on: admin.top_members(actor(), on),
    "months": lambda on: admin.months(actor(), on),
    "day": lambda on: [admin.day(actor(), on or now().date())],
    "members": lambda _: admin.everybody(actor(), chosen_members()),
}


@bp.get("", endpoint="index")
def index() -> Response:
    on, errors = None, {}
    try:
        on = _day()
    except Invalid as error:
        if wants_json():
            raise
        errors = error.fields
    shown = {
        "day": admin.day(actor(), on or now().date()), "plans": ROWS["plans"](on), "top_members": ROWS["top-members"](on),
        "months": ROWS["months"](on),
    }  # fmt: skip
    return answer(
        plain(shown), 422 if errors else 200, page="admin/reports.html", asked=on, errors=errors, today=now().date(), **shown
    )  # fmt: skip


@bp.get('/<any(plans,"top-members",months,day,members):table>.csv', endpoint="table")
def table(table: str) -> Response:
    on = _day()
    response = Response(stream_with_context(_csv(table, ROWS[table](on))), mimetype="text/csv")
    name = f"trainyard-{table}{f'-{on}' if on else ''}.csv"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def cell(value: Any) -> str:
    """What stands in a file; a text that a spreadsheet would take for a formula gets an apostrophe in front."""
    text = "" if value is None else str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(BEGINS_A_FORMULA) else text


def _csv(table: str, rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    columns = COLUMNS[table]
    yield _line(columns)
    for row in rows:
        yield _line(cell(_value(key, row[key])) for key in columns.values())


def _value(key: str, value: Any) -> Any:
    if key.endswith("_cents"):
        return f"{value / 100:.2f}" if value >= 0 else value / 100
    return round(value * 100, 1) if key == "share" else plain(value)


def _line(cells: Iterable[str]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue()


def _day() -> date | None:
    """`?day=`. Raises Invalid."""
    asked = request.args.get("day", "")
    if not asked:
        return None
    try:
        on = date.fromisoformat(asked)
    except ValueError:
        on = date.max
    if not date(2000, 1, 1) <= on <= now().date():
        raise Invalid.of(day="Choose today or a day that is over, as 2026-11-21.")
    return on
