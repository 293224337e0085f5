"""The register of members' machines: enrolling, listing, telling whether one is there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from sqlalchemy import bindparam, func, select, update

from agent import protocol
from models.accounts import User
from models.agents import Agent
from models.base import add, after_commit, db, now, transaction
from models.training_jobs import RUNNING_STATES, TrainingJob
from services import secrets
from services.errors import Conflict, Invalid, NotFound
from services.gateways import gateways

RECONNECTS_WITHIN = timedelta(seconds=10)  # a socket that ended is usually opened again within this
LONGEST_PATH = 4096
SILENCE = timedelta(seconds=45)  # after this without a frame a machine counts as away
_OF_MACHINE = select(Agent).where(Agent.user_id == bindparam("user"), Agent.machine_id == bindparam("machine"))


def version_misfit(spoken: int) -> tuple[str, str] | None:
    """Why an agent that speaks this version of the protocol cannot be served, as a code and a sentence with the command that
    mends it; None when it can. The current version and the two before it are spoken."""
    oldest, newest = protocol.OLDEST_PROTOCOL, protocol.PROTOCOL_VERSION
    if oldest <= spoken <= newest:
        return None
    served = f"version {newest}" if oldest == newest else f"versions {oldest} to {newest}"
    command = f"curl -fO {gateways().settings.public_url}/train_agent.py"
    if spoken < oldest:
        why = "It is too old for this server"
        return "too_old", f"{why}, which speaks {served} of the protocol. Download it again and start it: {command}"
    why = "It is newer than this server"
    return "too_new", f"{why}, which speaks {served} of the protocol. Take the one this server offers: {command}"


def enrol(user_id: int, key_id: int, hello: dict[str, Any], session: str) -> Agent:
    """Make the machine of a hello known, or know it again, and let `session`, opened with this key, speak for it.

    A second agent with the same id, or one with another secret, is refused with Conflict: somebody copied the folder.
    """
    with transaction():
        agent = db.session.scalar(_OF_MACHINE, {"user": user_id, "machine": hello["agent"]})
        if agent is None:
            agent = Agent(user_id=user_id, machine_id=hello["agent"], secret_digest=secrets.digest(hello["secret"]))
        elif _is_another(agent, hello):
            raise Conflict(
                "Another agent with this id is connected, or was a moment ago. If this folder was copied from another "
                "machine, delete agent.json in it; otherwise it goes on by itself within a minute.",
                code="cloned",
            )
        agent.api_key_id, agent.session = key_id, session
        agent.name, agent.version = _text(hello["name"], 80) or "machine", _text(hello["version"], 20)
        agent.boot, agent.last_seen_at = _text(hello["boot"], 64), now()
        describe(agent, hello)
        if agent.id is None:
            add(agent)
        return agent


def _is_another(agent: Agent, hello: dict[str, Any]) -> bool:
    """Whether a hello comes from a copy: with another secret, or while the agent that has this id is connected."""
    if not secrets.same(agent.secret_digest, secrets.digest(hello["secret"])):
        return True
    return is_connected(agent) and agent.boot != _text(hello["boot"], 64)


def describe(agent: Agent, told: dict[str, Any]) -> None:
    """Take over what a hello or a heartbeat says about the machine."""
    agent.machine = _machine(told.get("machine", agent.machine or {}))
    agent.ready = bool(told.get("ready", agent.ready))
    agent.missing = [_text(name, 60) for name in told.get("missing", agent.missing or [])][:20]
    if "advice" in told:
        agent.advice = _text(told["advice"], 2000) or None


def seen(agent_id: int, session: str, told: dict[str, Any]) -> bool:
    """Take over news about the machine, which is a sign of life; False when another session speaks for it now."""
    with transaction():
        agent = db.session.get(Agent, agent_id)
        if agent is None or agent.session != session:
            return False
        agent.last_seen_at = now()
        describe(agent, told)
        return True


def leave(sessions: Sequence[str]) -> None:
    """The sockets of these sessions have ended."""
    if sessions:
        with transaction():
            left = update(Agent).where(Agent.session.in_(sessions)).values(session=None, last_seen_at=now())
            db.session.execute(left, execution_options={"synchronize_session": False})


def speaking(agent_ids: Iterable[int]) -> dict[int, str | None]:
    """Which session speaks for each of these machines now."""
    rows = db.session.execute(select(Agent.id, Agent.session).where(Agent.id.in_(set(agent_ids))))
    return {row.id: row.session for row in rows}


def list_for(actor: User, limit: int = 200, before: int | None = None) -> list[Agent]:
    """The machines of a member, newest first."""
    query = select(Agent).where(Agent.user_id == actor.id).order_by(Agent.id.desc()).limit(limit)
    return list(db.session.scalars(query.where(Agent.id < before) if before is not None else query))


def count_ready(actor: User) -> int:
    """How many machines of a member are connected and have what training needs."""
    mine = (Agent.user_id == actor.id, Agent.ready, Agent.session.is_not(None), Agent.last_seen_at > now() - SILENCE)
    return db.session.scalar(select(func.count()).select_from(Agent).where(*mine)) or 0


def get_for(actor: User, agent_id: int) -> Agent:
    """One machine of this member. Raises NotFound."""
    agent = db.session.get(Agent, agent_id)
    if agent is None or agent.user_id != actor.id:
        raise NotFound("You have no such machine.")
    return agent


def is_connected(agent: Agent) -> bool:
    """Whether the machine has given a sign of life lately."""
    return agent.session is not None and now() - agent.last_seen_at < SILENCE


def busy_ids(agents: list[Agent]) -> set[int]:
    """Which of these machines work on a job now."""
    query = select(TrainingJob.agent_id).where(
        TrainingJob.agent_id.in_([agent.id for agent in agents]), TrainingJob.state.in_(RUNNING_STATES)
    )
    return {agent_id for agent_id in db.session.scalars(query) if agent_id is not None}


def path_fault(agent: Agent, path: str) -> str | None:
    """Why this machine will not use a path, as far as its name tells; links are followed on the machine itself."""
    flavour = PureWindowsPath if agent.machine["os"].startswith("Windows") else PurePosixPath
    named = flavour(path)
    if len(path) > LONGEST_PATH or not path.isprintable():
        return "This is not a path."
    if path.startswith("~/"):
        return None
    if not named.is_absolute():
        return f"Give the whole path on {agent.name}, from / or ~/ on."
    roots = [flavour(root) for root in agent.machine["roots"]]
    if ".." not in named.parts and any(named.is_relative_to(root) for root in roots):
        return None
    allowed = f"It may use {', '.join(str(root) for root in roots)}." if roots else "It was started without --root."
    return f"{path} is outside the folders that the agent on {agent.name} may use. {allowed}"


def nudge(agent_id: int) -> None:
    """After the commit, let whoever holds the machine's socket look for orders."""
    after_commit(gateways().hints.publish, f"agent:{agent_id}")


def _machine(told: Any) -> dict[str, Any]:
    """The figures of a machine that are kept, cut to a sensible size: they come from outside."""
    if not isinstance(told, dict):
        raise Invalid("The machine's description must be an object.")
    gpus = [
        {"name": _text(gpu.get("name"), 120), "memory_bytes": _number(gpu.get("memory_bytes"))}
        for gpu in _list(told.get("gpus"))
        if isinstance(gpu, dict)
    ]
    return {
        "os": _text(told.get("os"), 120), "python": _text(told.get("python"), 40),
        "torch": _text(told.get("torch"), 40) or None, "gpus": gpus[:64],
        "memory_bytes": _number(told.get("memory_bytes")), "disk_free_bytes": _number(told.get("disk_free_bytes")),
        "roots": [_text(root, 1000) for root in _list(told.get("roots"))][:50], "scripts": bool(told.get("scripts")),
        "hours": _hours(told.get("hours")),
    }  # fmt: skip


def _hours(told: Any) -> dict[str, Any] | None:
    """When the machine takes new jobs, by its own clock; None for always."""
    if not isinstance(told, dict) or not isinstance(told.get("windows"), list) or not told["windows"]:
        return None
    windows = [_text(window, 11) for window in told["windows"]][:10]
    return {"windows": windows, "open": bool(told.get("open")), "opens_at": _text(told.get("opens_at"), 5) or None}


def _text(given: Any, most: int) -> str:
    """A text that any database keeps: no NUL, no lone surrogates."""
    if not isinstance(given, str):
        return ""
    return given.replace("\0", "").encode("utf-8", "replace").decode()[:most]


def _list(given: Any) -> list[Any]:
    return given if isinstance(given, list) else []


def _number(given: Any) -> int | None:
    return given if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 2**60 else None
