"""Machines of members: their list, the set-up page, and the program itself."""

from __future__ import annotations

import shlex
from typing import Any

from flask import Blueprint, Response, redirect, send_file, url_for
from werkzeug.wrappers import Response as AnyResponse

from agent import __version__
from agent.build import WHEEL_NAME
from models.accounts import User
from models.agents import Agent
from routes.answers import answer, page_of_list, wants_json
from routes.api_keys import shown_keys
from routes.guards import actor
from services import agent_program, agents
from services.gateways import gateways
from services.training_jobs import iso

bp = Blueprint("agents", __name__)
program = Blueprint("agent_program", __name__)


@bp.get("")
def index() -> AnyResponse:
    if wants_json():
        return answer(_shown(agents.list_for(actor(), *page_of_list())))
    return answer(None, page="agents/index.html", **context())


@bp.get("/<int:id>")
def show(id: int) -> AnyResponse:
    return answer(_shown([agents.get_for(actor(), id)])[0], to=url_for("agents.index"))


@program.get("/train_agent.py")
@program.get("/train_agent.pyz", endpoint="pyz")
def download() -> Response:
    return send_file(agent_program.built(), mimetype="application/octet-stream", as_attachment=True,
                     download_name="train_agent.py", max_age=0)  # fmt: skip


@program.get(f"/{WHEEL_NAME}")
def wheel() -> Response:
    return send_file(agent_program.built_wheel(), mimetype="application/octet-stream", as_attachment=True,
                     download_name=WHEEL_NAME, max_age=0)  # fmt: skip


@program.get("/trainyard_agent.whl")
def newest_wheel() -> AnyResponse:
    """The address that stays; pip wants the wheel's whole name."""
    return redirect(url_for("agent_program.wheel"))


def context(new_key: str | None = None, name: str = "") -> dict[str, Any]:
    """What the page of machines shows; a key that was made just now is called as its machine will be."""
    return {
        "agents": shown_agents(actor()), "server_url": gateways().settings.socket_url,
        "site_url": gateways().settings.public_url, "new_key": new_key, "new_name": shlex.quote(name),
        "keys": shown_keys(actor(), "agent"), "offered_version": __version__,
    }  # fmt: skip


def shown_agents(user: User, limit: int = 200) -> list[dict[str, Any]]:
    """The newest machines of a member as the API gives them."""
    return _shown(agents.list_for(user, limit))


def _shown(known: list[Agent]) -> list[dict[str, Any]]:
    busy = agents.busy_ids(known)
    return [
        {
            "id": agent.id, "name": agent.name,
            "status": ("busy" if agent.id in busy else "online") if agents.is_connected(agent) else "offline",
            "ready": agent.ready, "missing": agent.missing, "advice": agent.advice, "machine": agent.machine,
            "version": agent.version, "last_seen_at": iso(agent.last_seen_at), "created_at": iso(agent.created_at),
        }
        for agent in known
    ]  # fmt: skip
