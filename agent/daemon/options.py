"""What the person who started the agent decided."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What the person who started the agent decided. `root_names` are the roots as they were typed, links not followed."""

    server_url: str
    key: str
    name: str
    roots: tuple[Path, ...]
    jobs: int = 1
    allow_scripts: bool = False
    root_names: tuple[str, ...] = ()
