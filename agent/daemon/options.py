"""What the person who started the agent decided."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..hours import Hours


@dataclass(frozen=True)
class Options:
    """What the person who started the agent decided.

    `jobs` is how many at a time; `root_names` are the roots as they were typed, links not followed; `environment` names
    the environment variables that scripts of jobs may be given; `hours` is when new jobs are taken.
    """

    server_url: str
    key: str
    name: str
    roots: tuple[Path, ...]
    jobs: int = 1
    allow_scripts: bool = False
    root_names: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    hours: Hours = field(default_factory=Hours)
