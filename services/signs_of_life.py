"""Signs of life of the machines that are connected to this process, stored together.

A commit for each would be most of what idle machines cost: with a thousand of them the web would do nothing else on a slow disk.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime

from flask import current_app
from sqlalchemy import bindparam, update

from models.agents import Agent
from models.base import db, now, transaction

TOGETHER_SECONDS = 2.0  # far below the silence after which a machine counts as away
_NAME = "signs_of_life"
# What was noted while the sign waited, by a new socket or the end of one, is newer and stays.
_STORE = (
    update(Agent)
    .where(Agent.id == bindparam("agent"), Agent.last_seen_at < bindparam("at"))
    .values(last_seen_at=bindparam("at"))
)


@dataclass
class _Signs:
    waiting: dict[int, datetime] = field(default_factory=dict)  # agent -> when, not stored yet
    stored_at: float = float("-inf")


def note(agent_id: int) -> None:
    """Note that a machine is there. The first sign after a pause is stored at once, with all that wait; the others with
    the next one that comes, of whichever machine."""
    signs = _signs()
    signs.waiting[agent_id] = now()
    if time.monotonic() - signs.stored_at < TOGETHER_SECONDS:
        return
    signs.stored_at = time.monotonic()
    taken, signs.waiting = signs.waiting, {}
    try:
        with transaction():
            db.session.connection().execute(_STORE, [{"agent": agent, "at": at} for agent, at in sorted(taken.items())])
    except BaseException:
        signs.waiting = taken | signs.waiting
        raise


def _signs() -> _Signs:
    signs: _Signs = current_app.extensions.setdefault(_NAME, _Signs())
    return signs
