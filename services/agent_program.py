"""The agent as one downloadable file, built once for each version of its source and each address of the site."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from agent import build
from services.gateways import gateways

SOURCE = Path(__file__).parent.parent / "agent"


def built() -> Path:
    """The program with this site's address inside; built when it is not there yet."""
    settings = gateways().settings
    hashed = hashlib.sha256(settings.socket_url.encode())
    for path in sorted(SOURCE.rglob("*.py")):
        hashed.update(path.read_bytes())
    target = settings.var_dir / "agent" / f"train_agent-{hashed.hexdigest()[:16]}.py"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.partial")
        build.build(partial, settings.socket_url)
        os.replace(partial, target)
    return target
