"""What credits were spent on, and every line of the ledger, for programs."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, jsonify, request
from werkzeug.wrappers import Response

from routes.guards import actor
from services import credits, subscriptions, usage
from services.errors import Invalid
from services.training_jobs import iso

bp = Blueprint("usage", __name__)
MOST_DAYS = 400
MOST_LINES = 200


@bp.get("/stats")
def stats() -> Response:
    return jsonify(usage.stats(actor().id, days_asked()))


@bp.get("/history")
def history() -> Response:
    subscriptions.current(actor())  # opens what is due, so that the lines add up to the balance
    limit, cursor = request.args.get("limit", "50"), request.args.get("cursor")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 10 and int(limit) >= 1):
        raise Invalid.of(limit=f"`limit` is a whole number from 1 to {MOST_LINES}.")
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 16):
        raise Invalid.of(cursor="`cursor` is what the page before gave as `next`.")
    lines, following = credits.history(actor().id, min(int(limit), MOST_LINES), int(cursor) if cursor else None)
    return jsonify({"items": [line(one) for one in lines], "next": str(following) if following else None})


def days_asked() -> int:
    """`?days=`. Raises Invalid."""
    days = request.args.get("days", "30")
    if not (days.isascii() and days.isdigit() and len(days) < 5 and 1 <= int(days) <= MOST_DAYS):
        raise Invalid.of(days=f"`days` is a whole number from 1 to {MOST_DAYS}.")
    return int(days)


def line(one: dict[str, Any]) -> dict[str, Any]:
    """One line of the ledger: what it did to the credits (`credits`) and what was there then."""
    return {
        "at": iso(one["at"]), "kind": one["kind"], "credits": one["change"], "balance_after": one["balance_after"],
        "lot": one["lot"], "job_id": one["job_id"], "note": one["what"], "amount": one["amount"],
    }  # fmt: skip
