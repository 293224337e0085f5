"""The verb `upload` for data: a data file becomes a data set of the member's, resumable and checked like any other upload."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from .addresses import http_base
from .transfers.retries import persistently
from .transfers.server import Refused, Server
from .transfers.uploads import upload

GIVE_UP_AFTER = 600.0


class NotUploaded(Exception):
    """It did not become a data set; `str()` says why."""


def upload_data(server_url: str, key: str, path: Path, name: str | None, kind: str | None, mapping: str | None) -> str:
    """Upload the file and return a sentence about the data set it became. Raises NotUploaded."""
    if not path.is_file():
        raise NotUploaded(f"There is no file {path}.")
    server = Server(http_base(server_url), key)
    order = {"name": name or path.stem, **({"kind": kind} if kind else {}), **_mapping(mapping)}
    say = Sayer()
    try:
        order["file"] = upload(server, path, path.name, say)
        say.finish()
        made = persistently(lambda: server.request("POST", "/api/datasets", order).json(), say, GIVE_UP_AFTER)
    except Refused as refusal:
        raise NotUploaded(why_refused(refusal, server)) from None
    except TimeoutError as error:
        raise NotUploaded(f"The server could not be reached: {error}.") from None
    bad = made.get("bad_rows") or []
    lines = [_became(made), f"{server.base}/datasets/{made.get('id')}"]
    lines += [f"  line {row['line']} is left out: {row['reason']}" for row in bad[:10]]
    lines += [f"  and {len(bad) - 10} more lines are left out"] if len(bad) > 10 else []
    return "\n".join(lines)


def _became(made: dict[str, Any]) -> str:
    if made.get("kind") == "script":
        return f"Data set {made.get('id')}: a training script."
    rows = made.get("rows")
    return f"Data set {made.get('id')}: {rows:,} {'row' if rows == 1 else 'rows'}, format {made.get('format')}."


def why_refused(refusal: Refused, server: Server) -> str:
    """The server's sentence, with the option that mends it here; for a key that may not upload, where to make another."""
    if refusal.code in ("mapping_needed", "mapping"):
        return f"{refusal} Give it with --mapping."
    if refusal.code == "wrong_scope":
        return (
            f"This key only connects a machine. Make one that may do everything on {server.base}/account, and give it "
            "with --api-key."
        )
    return str(refusal)


def _mapping(text: str | None) -> dict[str, dict[str, str]]:
    if text is None:
        return {}
    try:
        mapping = json.loads(text)
    except ValueError:
        mapping = None
    if not isinstance(mapping, dict) or not all(isinstance(value, str) for value in mapping.values()):
        raise NotUploaded('--mapping must be JSON such as {"prompt": "question", "completion": "answer"}.')
    return {"mapping": mapping}


class Sayer:
    """Prints what the transfer says, at most once a second, and what it said last when a file has arrived."""

    def __init__(self) -> None:
        self._at, self._held = 0.0, ""

    def __call__(self, message: str) -> None:
        if message:
            self._held = message
            if time.monotonic() - self._at >= 1.0:
                self.finish()

    def finish(self) -> None:
        """Print what was held back."""
        if self._held:
            print(self._held, file=sys.stderr, flush=True)
            self._at, self._held = time.monotonic(), ""
