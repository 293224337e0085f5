"""What whoever runs a job allows a script: on a member's machine the member, on the server its operator.

It is decided where the job runs and never comes with the job, so no server can widen it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Terms:
    """`roots` are the folders a script and its interpreter may lie in, `environment` the names of variables it may be
    given, `environments` the folder in which virtual environments are kept. `sandbox` is set on the server: the lane
    it must reach and its limits, and then the script comes as an archive."""

    roots: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    environments: str = ""
    sandbox: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> Terms:
        """The terms an assignment carries; a missing one allows nothing."""
        lists = {name: tuple(given.get(name) or ()) for name in ("roots", "environment")}
        return cls(**lists, environments=str(given.get("environments") or ""), sandbox=dict(given.get("sandbox") or {}))
