"""What the agent is told from outside. The only place that reads its own environment variables.

`TRAINYARD_API_KEY` and `TRAINYARD_SERVER_URL` stand in for the options of the same name. `TRAINYARD_TIMINGS` is for
tests: a JSON object that shortens waits, by the names of `Timings`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields

API_KEY = "TRAINYARD_API_KEY"
SERVER_URL = "TRAINYARD_SERVER_URL"
TIMINGS = "TRAINYARD_TIMINGS"
JOB_MARK = "TRAINYARD_JOB_MARK"
HUB_TOKEN = "HF_TOKEN"  # noqa: S105 - its name


@dataclass(frozen=True)
class Timings:
    """Every wait, in seconds."""

    gather: float = 0.25  # records are gathered this long before they are spooled
    orders: float = 0.2  # how often a runner looks for an order
    look: float = 0.15  # how often the agent looks into a spool
    sync: float = 1.0  # how much a power cut may cost
    figures: float = 5.0  # between two readings of memory and load
    saving: float = 60.0  # the most that a checkpoint under way may delay a stop
    cancel: float = 2.0  # between being asked to end and being made to
    pipes: float = 5.0  # how long pipes are read that a descendant keeps open
    greeting: float = 15.0  # from the connection to the welcome
    silence: float = 45.0  # without any frame a connection is dead
    backoff: float = 15.0  # the longest window between two tries
    healthy: float = 60.0  # a connection this old ends the backing off
    refused: float = 600.0  # between two tries with a key that was refused
    request: float = 30.0  # one HTTP request without a byte
    heartbeat: float = 5.0  # the shortest heartbeat a server may ask for

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Timings:
        known = {field.name for field in fields(cls)}
        given = json.loads(environment.get(TIMINGS) or "{}")
        return cls(**{name: float(value) for name, value in given.items() if name in known})


def without_key(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for supervisors and training: the agent's key is not in it."""
    return {name: value for name, value in environment.items() if name != API_KEY}


def for_training(environment: Mapping[str, str], allowed: Collection[str]) -> dict[str, str]:
    """The environment of a training that a server has ordered. Which model is fetched the server says, and gets it back
    trained: so the member's token for the Hugging Face Hub opens none, unless they allowed HF_TOKEN."""
    given = without_key(environment)
    return given if HUB_TOKEN in allowed else {**given, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
