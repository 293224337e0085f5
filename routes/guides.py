"""The guides: how to set a machine up, train, bring a script, find what is wrong, and what the agent may do."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, render_template

from services.errors import NotFound
from services.gateways import gateways

bp = Blueprint("guides", __name__)


@dataclass(frozen=True)
class Guide:
    """One guide: the last part of its address, its title, what it is about in a sentence, its icon."""

    name: str
    title: str
    about: str
    icon: str


GUIDES = (
    Guide("setup", "Set up a machine", "From nothing to a machine that waits for work, in about five minutes.", "device-desktop"),
    Guide("training", "Train a model", "From a data file to weights you can take home.", "chart-line"),
    Guide("scripts", "Bring your own script", "Curves, logs, stop and resume for a script you already have.", "activity"),
    Guide("troubleshooting", "When something is wrong", "What you see, what it means, what mends it.", "alert-circle"),
    Guide(
        "what-the-agent-may-do",
        "What the agent may do",
        "What a server can ask of your machine, and what it never can.",
        "shield-lock",
    ),
)  # fmt: skip


@bp.get("")
def index() -> str:
    return render_template("guides/index.html", guides=GUIDES)


@bp.get("/<name>")
def show(name: str) -> str:
    place = next((place for place, guide in enumerate(GUIDES) if guide.name == name), None)
    if place is None:
        raise NotFound("There is no such guide. /guides lists them.")
    settings = gateways().settings
    return render_template(
        f"guides/{GUIDES[place].name.replace('-', '_')}.html", guides=GUIDES, guide=GUIDES[place],
        following=GUIDES[place + 1] if place + 1 < len(GUIDES) else None, site=settings.public_url.rstrip("/"),
        server_url=settings.socket_url,
    )  # fmt: skip
