"""The workers of this server in the admin's panel, and what the sandbox of each really keeps."""

from __future__ import annotations

from typing import Any

from flask import Blueprint
from werkzeug.wrappers import Response

from models.workers import Worker
from routes.admin import plain
from routes.answers import answer
from services import price_list, workers

bp = Blueprint("admin_workers", __name__)


@bp.get("", endpoint="index")
def index() -> Response:
    shown = {
        "workers": [_about(worker) for worker in workers.list_all()],
        "least_lane": workers.least_lane(), "script_lane": workers.script_lane(), "promised": _promised(),
    }  # fmt: skip
    return answer(plain(shown), page="admin/workers.html", **shown)


def _promised() -> dict[str, Any]:
    """The plan that promises the most jobs at once on the server, and how many."""
    most = max(price_list.plans(), key=lambda plan: plan.limits["server_jobs"])
    return {"plan": most.display_name, "server_jobs": most.limits["server_jobs"]}


def _about(worker: Worker) -> dict[str, Any]:
    report = worker.report
    return {
        "name": worker.name, "host": worker.host, "pid": worker.pid, "accelerator": worker.accelerator,
        "lane": worker.lane, "lane_name": worker.lane_name, "seen_at": worker.seen_at, "is_present": workers.is_present(worker),
        "walls": report.get("walls", []), "todo": report.get("todo", []), "facts": report.get("facts", {}),
    }  # fmt: skip
