"""The verb `status`: whether an agent runs on this machine, whether it is connected, and how far its jobs are.

It reads the agent's folder and nothing else, so it answers without a server, and for jobs whose agent has left.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .held_job import HeldJob
from .running import open_attempts, running
from .words import duration
from .workspace import FOLDER, AttemptFolder


def status(home: Path) -> dict[str, Any]:
    """What is going on, with the names that `status --format json` prints. Times are ISO 8601, in UTC."""
    folder = home / FOLDER
    agent = running(folder)
    told = {(job["job"], job["attempt"]): job for job in (agent or {}).get("jobs", [])}
    jobs = [told.get((one.job, one.number)) or _looked_at(one) for one in open_attempts(folder)]
    shown: dict[str, Any] = {"running": agent is not None, "folder": str(folder), "jobs": jobs}
    if agent is not None:
        shown["since"] = datetime.fromtimestamp(agent["since"], UTC).isoformat(timespec="seconds")
        for name in ("pid", "version", "server_url", "name", "state", "sentence", "hours"):
            shown[name] = agent.get(name)
    return shown


def as_text(shown: dict[str, Any]) -> str:
    """The same for a person."""
    if shown["running"]:
        lines = [shown["sentence"], f"Agent {shown['version']}, process {shown['pid']}, since {shown['since']}."]
        if shown["hours"] and not shown["hours"]["open"]:
            lines.append(f"It takes new jobs from {shown['hours']['opens_at']} on.")
    else:
        lines = [f"No agent is running with the folder {shown['folder']}."]
    lines += [_line(job) for job in shown["jobs"]]
    return "\n".join(lines if shown["jobs"] else [*lines, "No job is running."])


def _looked_at(attempt: AttemptFolder) -> dict[str, Any]:
    """A job that no agent speaks for now, as its own folder tells."""
    held = HeldJob(attempt, _name_of(attempt))
    try:
        shown = held.shown()
    finally:
        held.close()
    if shown["state"] == "running" and not attempt.is_supervised():
        shown["state"] = "interrupted"
    return shown


def _name_of(attempt: AttemptFolder) -> str:
    try:
        return str(json.loads((attempt.job_folder / "job.json").read_text("utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return "job"


def _line(job: dict[str, Any]) -> str:
    head = f"Job {job['job']} ({job['name']}), attempt {job['attempt']}:"
    if job["state"] == "finished":
        return f"{head} over, the server has not been told everything yet."
    parts = [str(job["stage"])]
    if job["total_steps"] and job["stage"] == "train":
        parts.append(f"step {job['step']:,} of {job['total_steps']:,}, {job['percent']} %")
    if job["seconds_left"] is not None:
        parts.append(f"{duration(job['seconds_left'])} left")
    if job["state"] == "interrupted":
        parts.append("interrupted, the next start of the agent takes it up")
    return f"{head} {', '.join(parts)}."
