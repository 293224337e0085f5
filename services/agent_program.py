"""The agent as one downloadable file and as a wheel, built once for each version of its source and each address of the site."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from agent import build
from services.gateways import gateways

SOURCE = Path(__file__).parent.parent / "agent"


def built() -> Path:
    """The program with this site's address inside; built when it is not there yet."""
    return _built("train_agent", ".py", build.build)


def built_wheel() -> Path:
    """The wheel with this site's address inside; built when it is not there yet. Its name for pip is `build.WHEEL_NAME`."""
    return _built("trainyard_agent", ".whl", build.build_wheel)


def _built(name: str, suffix: str, write: Callable[[Path, str], None]) -> Path:
    settings = gateways().settings
    hashed = hashlib.sha256(settings.socket_url.encode())
    for path in sorted(SOURCE.rglob("*.py")):
        hashed.update(path.read_bytes())
    target = settings.var_dir / "agent" / f"{name}-{hashed.hexdigest()[:16]}{suffix}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.partial")
        write(partial, settings.socket_url)
        os.replace(partial, target)
    return target
