"""Fetch the vendored front-end files again and rewrite their checksums.

``python static/vendor/refresh.py`` packs every package of ``VENDOR.json`` at its version with the ``npm`` client
(which asks the registry it is configured for), copies the named files and licence texts, and writes each sha256.
To move to another version, change ``version`` in ``VENDOR.json`` and run this again.
``--check`` fetches nothing and compares what lies on disk with the checksums.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "static" / "vendor" / "VENDOR.json"


def pack(name: str, version: str, folder: Path) -> Path:
    """Fetch one package with ``npm pack`` and unpack it; returns its ``package`` folder."""
    target = folder / f"{name.replace('/', '-')}-{version}"
    if not target.exists():
        target.mkdir()
        answer = subprocess.run(
            ["npm", "pack", "--silent", f"{name}@{version}"], cwd=target, check=True, capture_output=True, text=True
        )
        with tarfile.open(target / answer.stdout.split()[-1]) as archive:
            archive.extractall(target, filter="data")
    return target / "package"


def sprite(outlines: Path, icons: list[str], licence: str) -> str:
    """One SVG of ``<symbol>`` elements, drawn from the single files in ``outlines``."""
    holder = next(line for line in licence.splitlines() if line.startswith("Copyright"))
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg"><!-- Tabler Icons, MIT. {holder} -->']
    for icon in sorted(icons):
        drawing = (outlines / f"{icon}.svg").read_text()
        shapes = re.findall(r"<(?:path|circle|rect|line|polyline)\b[^>]*/>", drawing)
        visible = "".join(" ".join(shape.split()) for shape in shapes if 'd="M0 0h24v24H0z"' not in shape)
        parts.append(
            f'<symbol id="{icon}" viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.75"'
            f' stroke-linecap="round" stroke-linejoin="round">{visible}</symbol>'
        )
    return "\n".join([*parts, "</svg>", ""])


def sha256(path: Path) -> str:
    """Checksum of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refresh(entries: list[dict[str, Any]]) -> None:
    """Copy every file and licence anew and write the checksums into ``VENDOR.json``."""
    with tempfile.TemporaryDirectory() as scratch:
        for entry in entries:
            package = pack(entry["name"], entry["version"], Path(scratch))
            target = ROOT / entry["file"]
            target.parent.mkdir(parents=True, exist_ok=True)
            if "icons" in entry:
                licence = (package / entry["licence_source"]).read_text()
                target.write_text(sprite(package / entry["source"], entry["icons"], licence))
            else:
                target.write_bytes(without_source_map((package / entry["source"]).read_bytes()))
            if entry["licence_source"]:
                kept = ROOT / entry["licence_file"]
                kept.parent.mkdir(parents=True, exist_ok=True)
                kept.write_bytes((package / entry["licence_source"]).read_bytes())
            entry["sha256"] = sha256(target)
            print(f"{entry['name']} {entry['version']}  {entry['file']}  {entry['sha256'][:12]}")
    LIST.write_text(json.dumps(entries, indent=2) + "\n")


def without_source_map(content: bytes) -> bytes:
    """Drop the pointer to a source map that is not shipped, which a browser's tools would look for in vain."""
    return re.sub(rb"\n?(?://[#@] ?sourceMappingURL=\S+|/\*[#@] ?sourceMappingURL=\S+ ?\*/)\s*$", b"\n", content)


def changed(entries: list[dict[str, Any]]) -> list[str]:
    """Files that are missing or differ from their checksum."""
    paths = [(entry["file"], entry["sha256"]) for entry in entries]
    return [name for name, expected in paths if not (ROOT / name).exists() or sha256(ROOT / name) != expected]


def main() -> int:
    """Run the command line; returns the exit status."""
    entries = json.loads(LIST.read_text())
    if "--check" not in sys.argv[1:]:
        refresh(entries)
    wrong = changed(entries)
    for name in wrong:
        print(f"{name} is missing or differs from its checksum: run python static/vendor/refresh.py", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
