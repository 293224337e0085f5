"""Packs the agent: into the one file that the site offers, a zip that Python runs under any name (PEP 441), and into a wheel.

The file carries this package and the pure-Python parts of what it needs; the wheel carries the package alone and names what it
needs, with the command `trainyard-agent` (PEP 427, and the core metadata of PEP 566 and PEP 639). Both hold the site's address
as the default server. The same sources give the same bytes. Nothing compiled goes in, so one file fits every system.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import pkgutil
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from . import __version__

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
NEEDED = ("rich>=13.7,<16", "websockets>=15,<18")
WHEEL_NAME = f"trainyard_agent-{__version__}-py3-none-any.whl"
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
    path.write_bytes(SHEBANG + _zipped(_contents(server_url)))
    path.chmod(0o755)


def build_wheel(path: Path, server_url: str | None = None) -> None:
    """Write the wheel to `path`, whose name must be WHEEL_NAME before pip takes it."""
    contents = {name: file.read_bytes() for name, file in _sources("agent", Path(__file__).parent, ())}
    contents[f"agent/{SITE}"] = _site(server_url)
    about = f"trainyard_agent-{__version__}.dist-info"
    contents[f"{about}/METADATA"] = _METADATA.format(
        version=__version__, python=_shown_python(), needed="".join(f"Requires-Dist: {one}\n" for one in NEEDED)
    ).encode()
    contents[f"{about}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: agent.build\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    contents[f"{about}/entry_points.txt"] = b"[console_scripts]\ntrainyard-agent = agent.__main__:main\n"
    record = "".join(f"{name},sha256={_sum(content)},{len(content)}\n" for name, content in sorted(contents.items()))
    contents[f"{about}/RECORD"] = f"{record}{about}/RECORD,,\n".encode()
    path.write_bytes(_zipped(contents))


_METADATA = """\
Metadata-Version: 2.1
Name: trainyard-agent
Version: {version}
Summary: Trains models on this machine for a Trainyard server
License: MIT
Requires-Python: >={python}
{needed}
The program for members' machines: `trainyard-agent --help` shows what it does. Training itself also needs torch and a few
more packages; the agent connects without them and names the one command that installs them.
"""


def _zipped(contents: dict[str, bytes]) -> bytes:
    """A zip that depends on nothing but what goes in: sorted names, one time, one set of rights. (For a wheel,
    sorting happens to bring the dist-info last, as PEP 427 recommends.)
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return packed.getvalue()


def _sum(content: bytes) -> str:
    """As RECORD writes it: URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def carried_address() -> str | None:
    """The server's address that was written into this file; None outside of one."""
    try:
        text = pkgutil.get_data(__package__ or "agent", SITE)
        address = json.loads(text)["server_url"] if text else None
    except (OSError, ValueError, KeyError):
        return None
    return address if isinstance(address, str) else None


def _contents(server_url: str | None) -> dict[str, bytes]:
    main = _MAIN.format(python=_PYTHON, shown=_shown_python())
    contents = {"__main__.py": main.encode(), f"agent/{SITE}": _site(server_url)}
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


def _site(server_url: str | None) -> bytes:
    return json.dumps({"server_url": server_url}).encode()


def _shown_python() -> str:
    return ".".join(map(str, _PYTHON))


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


def main(arguments: list[str]) -> None:
    """`FILE [SERVER_URL]`: write the program there, and the wheel beside it."""
    program, server_url = Path(arguments[0]), arguments[1] if len(arguments) > 1 else None
    program.parent.mkdir(parents=True, exist_ok=True)
    build(program, server_url)
    build_wheel(program.with_name(WHEEL_NAME), server_url)


if __name__ == "__main__":
    main(sys.argv[1:])
