"""Where an agent's job gets its data and base model from, and where its results go."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..addresses import http_base
from ..artifact_names import name_fault
from ..errors import JobFailed
from ..protocol import JobSpec
from ..roots import PathRefused, resolve_inside
from ..runner import Say, Withdrawn
from ..workspace import Task
from .downloads import download
from .retries import persistently
from .server import Refused, Server
from .uploads import upload

_GONE = (401, 403, 404, 409, 410)


class ServerDepot:
    """The depot of an agent's job: the server's data and base models, local files inside the roots, uploads."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._server = Server(http_base(task.server_url), task.spec.token, task.timings.request)

    def fetch_data(self, spec: JobSpec, folder: Path, say: Say) -> Path:
        """Download the data set, or check again that the local file lies inside a root. Raises JobFailed, Withdrawn."""
        if spec.data["kind"] == "local":
            return self._local(str(spec.data["path"]), "folder" if spec.recipe == "script" else "file", "data")
        name = re.sub(r"[^A-Za-z0-9_.-]", "_", str(spec.data["name"]))[-80:].lstrip(".") or "data"
        with self._refusals("data"):
            return download(
                self._server,
                str(spec.data["path"]),
                folder / "data" / name,
                spec.data["sha256"],
                say,
                spec.data["bytes"],
            )

    def fetch_base(self, spec: JobSpec, folder: Path, say: Say) -> str:
        """Bring a model of the member's, or check a local folder; yard-tiny and hub ids are the recipe's to load."""
        if spec.base_model.startswith("folder:"):
            return f"folder:{self._local(spec.base_model.removeprefix('folder:'), 'folder', 'base_model')}"
        if spec.base_model != "model":
            return spec.base_model
        with self._refusals("base_model"):
            for file in spec.base_files:
                name = safe_name(str(file["name"]))
                download(
                    self._server,
                    quote(str(file["path"]), safe="/%"),
                    folder / "base" / name,
                    file["sha256"],
                    say,
                    file["bytes"],
                )
        return f"folder:{folder / 'base'}"

    def deliver(self, spec: JobSpec, output: Path, say: Say) -> None:
        """Upload every file under `output` and have them published together. Raises JobFailed, Withdrawn."""
        files = sorted(path for path in output.rglob("*") if path.is_file()) if output.is_dir() else []
        if not files:
            raise JobFailed("platform", "The training wrote no files to keep.", "Press Try again; the log may say why.")
        with self._refusals("member_machine"):
            entries = []
            for file in files:
                name = file.relative_to(output).as_posix()
                entries.append({"name": name, "upload": upload(self._server, file, name, say)})
            address = f"/api/agents/jobs/{spec.job}/attempts/{spec.attempt}/artifacts"
            persistently(lambda: self._server.request("POST", address, {"files": entries}), say)

    def _local(self, text: str, kind: Any, cause: str) -> Path:
        try:
            return resolve_inside(text, [Path(root) for root in self._task.terms.roots], kind)
        except PathRefused as refusal:
            raise JobFailed(cause, str(refusal), "Mend that on the machine, then press Try again.") from None

    @contextlib.contextmanager
    def _refusals(self, cause: str) -> Iterator[None]:
        """Turn what the server refuses into the end of the job."""
        try:
            yield
        except Refused as refusal:
            if refusal.status in _GONE:
                raise Withdrawn(f"The server does not want this attempt any more: {refusal}") from None
            raise JobFailed(cause, str(refusal), "Mend what the server names, then press Try again.") from None
        except ValueError as error:
            raise JobFailed(
                cause, f"The server named a file that cannot be stored: {error}.", "Tell the operator."
            ) from None
        except TimeoutError as error:
            raise JobFailed(
                "member_machine",
                f"The server could not be reached: {error}.",
                "Check the connection, then press Try again.",
            ) from None


def safe_name(name: str) -> str:
    """A relative path of plain names as it came from the server. ValueError for anything that could lead elsewhere."""
    if name_fault(name):
        raise ValueError(f"{name[:200]!r} is not a plain file name")
    return name
