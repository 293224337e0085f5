"""One look into an uploaded script: is the zip sound, which files train, what does its yard.toml say.

Runs as a process of its own, as all reading of what members bring does: `python -m services.script_inspection` reads the
path of the zip from standard input and writes one JSON object. Nothing of the archive is unpacked to the disk here.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from agent.scripts import archive
from agent.scripts import manifest as manifests
from services.errors import Invalid

LONGEST_SECONDS = 120
MEMORY_BYTES = 1024**3
MOST_SCRIPTS = 500
MOST_FILES_SHOWN = 200


def inspect(path: Path) -> dict[str, Any]:
    """What a script's archive holds, as a version of a data set keeps it. Raises Invalid with what is wrong in it."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "services.script_inspection"], input=str(path), capture_output=True, text=True,
            cwd=Path(__file__).parent.parent, timeout=LONGEST_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Invalid.of(file="Reading this archive took longer than two minutes. Pack fewer files.") from None
    if done.returncode != 0:
        if "MemoryError" in done.stderr:
            raise Invalid.of(file="Reading this archive needs more memory than the server gives. Pack fewer files.")
        raise RuntimeError(f"reading an archive ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    if "error" in found:
        raise Invalid(found["error"], {"file": found["error"]}, code="data")
    return found


def answer(path: Path) -> dict[str, Any]:
    """What the archive holds, or `error`, the sentence that says what is wrong in it."""
    try:
        return _look(path)
    except archive.BadArchive as error:
        return {"error": error.message}
    except manifests.BadManifest as error:
        return {"error": str(error)}


def _look(path: Path) -> dict[str, Any]:
    entries = archive.contents(path)
    lone = archive.lone_folder(entry.name for entry in entries)
    top = f"{lone}/" if lone else ""
    names = [entry.name.removeprefix(top) for entry in entries]
    text = archive.read(path, top + manifests.NAME, manifests.MOST_BYTES + 1) if manifests.NAME in names else b""
    manifest = manifests.parse(text)
    manifests.requirements_of(manifest, names.__contains__)
    scripts = [name for name in names if name.endswith(".py")][:MOST_SCRIPTS]
    if manifest.entry or not scripts:
        manifests.entry_of(manifest, names)
    quality = {
        "score": None, "manifest": text.decode(), "scripts": scripts, "bytes_unpacked": sum(entry.size for entry in entries),
        "files": [[name, entry.size] for name, entry in zip(names, entries, strict=True)][:MOST_FILES_SHOWN],
    }  # fmt: skip
    return {"format": "script", "rows": len(entries), "tokens": 0, "quality": quality, "bad_count": 0, "bad_rows": []}


def main() -> None:
    """Answer one question from standard input."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    json.dump(answer(Path(sys.stdin.read())), sys.stdout)


if __name__ == "__main__":
    main()
