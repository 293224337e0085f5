"""The first page of a member: plan, running jobs, machines, last models, and what to do next."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, render_template, url_for

from models.training_jobs import RUNNING_STATES
from routes.agents import shown_agents
from routes.guards import actor
from routes.model_versions import shown as shown_model
from routes.subscriptions import shown as shown_subscription
from services import datasets, model_versions, subscriptions, training_jobs

MACHINES = 8

bp = Blueprint("dashboard", __name__)


@bp.get("")
def show() -> str:
    user = actor()
    open_jobs = training_jobs.list_for(user, limit=10, states=("queued", "paused", *RUNNING_STATES))
    models, machines = model_versions.list_for(user, limit=5), shown_agents(user, limit=MACHINES + 1)
    return render_template(
        "dashboard/show.html", subscription=shown_subscription(subscriptions.current(user)),
        limits=subscriptions.limits_with_use(user), jobs=training_jobs.summaries(open_jobs),
        agents=machines[:MACHINES], has_more_agents=len(machines) > MACHINES,
        models=[shown_model(version) for version in models],
        first_steps=_first_steps(bool(datasets.list_for(user, limit=1)), bool(machines), bool(models)),
    )  # fmt: skip


def _first_steps(has_data: bool, has_machine: bool, has_model: bool) -> list[dict[str, Any]]:
    return [
        {"label": "Bring a data file, or a training script of your own", "done": has_data or has_model,
         "url": url_for("datasets.new")},
        {"label": "Connect your own machine, or choose a plan with server training", "done": has_machine,
         "url": url_for("agents.index")},
        {"label": "Train your first model", "done": has_model, "url": url_for("training_jobs.new")},
    ]  # fmt: skip
