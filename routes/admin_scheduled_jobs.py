"""What runs by itself, in the admin's panel: the renewals to come, the schedule, and what needs a hand."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Any

from flask import Blueprint, flash, request, url_for
from werkzeug.wrappers import Response

from models.accounts import User
from models.base import now
from routes.admin import Act, plain, why
from routes.answers import answer, form, read, wants_json
from routes.guards import actor
from services import admin, clock
from services.errors import Invalid, NotFound

bp = Blueprint("admin_scheduled_jobs", __name__)
AT_ONCE = 50


class Forced(Act):
    name: str


@bp.get("", endpoint="index")
def index() -> Response:
    shown = _shown()
    return answer(plain(shown), page="admin/scheduled_jobs.html", **shown)


@bp.post("/force", endpoint="force")
@form("admin/scheduled_jobs.html", lambda: _shown())
def force() -> Response:
    given = read(Forced)
    name = given.name.strip()
    told = _force_renewal(name, given) if name.startswith(clock.JOB_PREFIX) else _force_entry(name, given)
    if not wants_json():
        flash(told["sentence"], "success" if told["ok"] else "danger")
    return answer(told, to=url_for("admin_scheduled_jobs.index"))


@bp.get("/events/<id>/again", endpoint="ask_again")
def ask_again(id: str) -> Response:
    shown = {"event": _dead_event(actor(), id)}
    if shown["event"] is None:
        raise NotFound("No message of this name was given up.")
    return answer(plain(shown), page="admin/try_again.html", **shown)


def _again() -> dict[str, Any]:
    return {"event": _dead_event(actor(), (request.view_args or {})["id"])}


@bp.post("/events/<id>/again", endpoint="again")
@form("admin/try_again.html", _again)
def again(id: str) -> Response:
    admin.try_event_again(actor(), id, why(read(Act)))
    if not wants_json():
        flash("The message is back in the inbox; the clock takes it up within seconds.", "success")
    return answer({"id": id, "state": "pending"}, to=url_for("admin_scheduled_jobs.index"))


def _dead_event(asking: User, id: str) -> dict[str, Any] | None:
    return next((event for event in admin.dead_events(asking) if event["id"] == id), None)


def _shown() -> dict[str, Any]:
    after = _after()
    waiting = clock.upcoming(AT_ONCE + 1, after)
    rows, runs = waiting[:AT_ONCE], clock.runs()
    named = admin.names([one.user_id for one in rows])
    last = rows[-1] if len(waiting) > AT_ONCE else None
    return {
        "faults": clock.faults(), "dead_events": admin.dead_events(actor()), "paged": after is not None,
        "next": f"{last.next_reset_at.isoformat()}~{last.id}" if last and last.next_reset_at else None,
        "upcoming": [
            {"job": f"{clock.JOB_PREFIX}{one.id}", "at": one.next_reset_at, "user_id": one.user_id,
             "username": named.get(one.user_id), "plan": one.plan.display_name, "credits": one.plan.monthly_credits,
             "status": one.status, "is_due": one.next_reset_at is not None and one.next_reset_at <= now()}
            for one in rows
        ],
        "entries": [_entry(entry, runs.get(entry.name)) for entry in clock.SCHEDULE],
    }  # fmt: skip


def _entry(entry: clock.Entry, run: Any) -> dict[str, Any]:
    return {
        "name": entry.name, "about": entry.about, "every_seconds": entry.seconds,
        "started_at": run.started_at if run else None, "ended_at": run.ended_at if run else None,
        "count": run.count if run else None, "total": run.total if run else None, "error": run.error if run else None,
        "failed_at": run.failed_at if run else None,
    }  # fmt: skip


def _after() -> tuple[datetime, int] | None:
    """Where the page before ended."""
    at, _, number = request.args.get("after", "").partition("~")
    if not at:
        return None
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is not None and number.isascii() and number.isdigit() and len(number) < 10:
            return moment, int(number)
    raise Invalid.of(after="`after` is what the page before gave as `next`.")


def _force_renewal(name: str, given: Forced) -> dict[str, Any]:
    number = name.removeprefix(clock.JOB_PREFIX)
    known = int(number) if number.isascii() and number.isdigit() and len(number) < 10 else 0
    opened = admin.force_renewal(actor(), known, why(given))
    sentence = f"{name} opened {opened:,} periods." if opened else f"{name} had nothing to open: its time has not come."
    return {"name": name, "ok": True, "count": opened, "sentence": sentence}


def _force_entry(name: str, given: Forced) -> dict[str, Any]:
    """Run an entry now; one that fails leaves its error in its own row, which is what is told."""
    if name not in {entry.name for entry in clock.SCHEDULE}:
        sentence = f"There is no entry {name[:60]}. Take one from the table, or {clock.JOB_PREFIX} and a number."
        raise NotFound(sentence, fields={"name": sentence})
    admin.audit(actor(), "force_entry", why(given), target=name, before={}, after={"asked": True})
    count = 0
    with contextlib.suppress(Exception):
        count = clock.force(name)
    error = clock.runs()[name].error
    sentence = f"{name} failed: {error}" if error else f"{name} ran and did {count:,}."
    return {"name": name, "ok": error is None, "count": count, "sentence": sentence}
