"""Packs the agent into the one file that the site offers: a zip that Python runs under any name (PEP 441).

It carries this package and the pure-Python parts of what it needs, and the site's address as the default server. The
same sources give the same bytes. Nothing compiled goes in, so one file fits every system.
"""

from __future__ import annotations

import importlib.util
import io
import json
import pkgutil
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

SHEBANG = b"#!/usr/bin/env python3\n"
SITE = "site.json"
# Package -> parts of it that are left out. rich needs markdown_it and pygments only for Markdown and tracebacks,
# which the agent does not use; websockets falls back to Python where its compiled speedups are absent.
CARRIED: dict[str, tuple[str, ...]] = {
    "websockets": (
        "legacy",
        "trio",
        "sync",
        "server.py",
        "asyncio/server.py",
        "asyncio/router.py",
        "cli.py",
        "__main__.py",
    ),
    "rich": ("__main__.py",),
}
_EARLIEST = (1980, 1, 1, 0, 0, 0)
_PYTHON = (3, 11)

# Runs on every Python that can open a zip, the 2 of old systems included: only then can it say what is wrong.
_MAIN = """\
import sys

if sys.version_info < {python}:
    sys.exit(
        "This agent needs Python {shown} or newer, and this one is " + sys.version.split()[0] + ". "
        "Start it with a newer one, such as: python{shown} " + sys.argv[0]
    )

from agent.__main__ import main

sys.exit(main())
"""


def build(path: Path, server_url: str | None = None) -> None:
    """Write the program to `path`; `server_url`, such as wss://example.com, is where it connects unless told otherwise."""
    packed = io.BytesIO()
    packed.write(SHEBANG)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(_contents(server_url).items()):
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    path.write_bytes(packed.getvalue())
    path.chmod(0o755)


def carried_address() -> str | None:
    """The server's address that was written into this file; None outside of one."""
    try:
        text = pkgutil.get_data(__package__ or "agent", SITE)
        address = json.loads(text)["server_url"] if text else None
    except (OSError, ValueError, KeyError):
        return None
    return address if isinstance(address, str) else None


def _contents(server_url: str | None) -> dict[str, bytes]:
    main = _MAIN.format(python=_PYTHON, shown=".".join(map(str, _PYTHON)))
    contents = {
        "__main__.py": main.encode(),
        f"agent/{SITE}": json.dumps({"server_url": server_url}).encode(),
    }
    for name, path in _sources("agent", Path(__file__).parent, ()):
        contents[name] = path.read_bytes()
    for package, left_out in CARRIED.items():
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise RuntimeError(f"The package {package} is not installed, so the agent cannot be packed with it.")
        for name, path in _sources(package, Path(spec.origin).parent, left_out):
            contents[name] = path.read_bytes()
        contents.update(_licences(package))
    return contents


def _sources(package: str, folder: Path, left_out: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    for path in folder.rglob("*.py"):
        inside = path.relative_to(folder).as_posix()
        if inside not in left_out and not inside.startswith(tuple(f"{name}/" for name in left_out)):
            yield f"{package}/{inside}", path


def _licences(package: str) -> dict[str, bytes]:
    """The licence texts of a carried package: both licences ask for them to go along."""
    found = {}
    for file in metadata.files(package) or ():
        if "licen" in file.name.lower():
            found[f"licences/{package}-{file.name}.txt"] = Path(str(file.locate())).read_bytes()
    return found


if __name__ == "__main__":
    build(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
