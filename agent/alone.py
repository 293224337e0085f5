"""The verb `run`: one job from a JSON file on this machine, without a server. The same runner, a depot of local
files."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from . import hardware, recipes, runner, settings
from .protocol import JobSpec
from .screen import Progress
from .scripts.terms import Terms
from .settings import Timings
from .spool import Spool, SpoolReader


class BadSpec(Exception):
    """The file does not describe a job; `str()` says what is wrong."""


class LocalDepot:
    """Everything is here already; the result stays where the recipe wrote it."""

    def fetch_data(self, spec: JobSpec, folder: Path, say: runner.Say) -> Path:
        return Path(spec.data["path"])

    def fetch_base(self, spec: JobSpec, folder: Path, say: runner.Say) -> str:
        return spec.base_model

    def deliver(self, spec: JobSpec, output: Path, say: runner.Say) -> None:
        return None


def run_alone(path: Path, folder: Path | None, timings: Timings) -> int:
    """Carry out the job that the file describes and print how it goes; 0 when it was completed or stopped.

    Run again with the same folder it goes on from the last checkpoint. Raises BadSpec.
    """
    spec = read_spec(path)
    missing = hardware.missing() if spec.recipe != "script" else []
    if missing:
        raise BadSpec(f"This Python lacks {', '.join(missing)}. Install it with: {hardware.install_command()}")
    home = (folder or Path(spec.name.replace("/", "-"))).expanduser().resolve()
    attempts = home / "attempts"
    attempts.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(p.name) for p in attempts.iterdir() if p.name.isdigit()), default=0)
    spool = Spool(attempts / str(number) / "spool")
    teller = _Teller(SpoolReader(spool.folder))
    final = runner.run(
        spec, home, spool, LocalDepot(), runner.SpawnedChild(home, settings.without_key(os.environ)), _Keys().order,
        timings=timings, terms=_own_terms(spec, home).as_dict(),
    )  # fmt: skip
    teller.close()
    spool.close()
    if final.outcome == "failed":
        print(f"Failed ({final.cause}). {final.message} {final.advice}", file=sys.stderr)
        return 1
    where = home / (runner.OUTPUT if final.outcome == "completed" else "checkpoints")
    print(f"{final.outcome.capitalize()}. The result lies in {where}")
    return 0


def read_spec(path: Path) -> JobSpec:
    """Read and check the file: name, data (a path, relative to the file), and optionally recipe, mapping, base_model
    and parameters. Raises BadSpec."""
    given = _object(path)
    unknown = set(given) - {"name", "recipe", "data", "mapping", "base_model", "parameters"}
    if unknown:
        raise BadSpec(f"{path}: there is no field {sorted(unknown)[0]!r}.")
    recipe = given.get("recipe", "language")
    if recipe not in recipes.CATALOG:
        raise BadSpec(f"{path}: there is no recipe {recipe!r}. There are: {', '.join(recipes.CATALOG)}.")
    base = str(given.get("base_model", recipes.YARD_TINY if recipe != "script" else recipes.NO_BASE_MODEL))
    parameters = given.get("parameters", {})
    if not isinstance(parameters, dict):
        raise BadSpec(f"{path}: `parameters` must be an object.")
    resolved, errors = recipes.check(recipe, parameters, base)
    if errors:
        raise BadSpec(f"{path}: {next(iter(errors.values()))}")
    if not isinstance(given.get("data"), str):
        raise BadSpec(f"{path}: `data` must name the data file.")
    data = (path.parent / given["data"]).expanduser().resolve()
    if not (data.is_dir() if recipe == "script" else data.is_file()):
        raise BadSpec(f"{path}: there is no {'folder' if recipe == 'script' else 'file'} {data}.")
    return JobSpec(
        job=0, attempt=1, name=str(given.get("name") or path.stem), recipe=recipe, parameters=resolved,
        data={"kind": "file", "path": str(data)}, mapping=given.get("mapping"), base_model=base, base_name=base,
    )  # fmt: skip


def _own_terms(spec: JobSpec, home: Path) -> Terms:
    """Whoever starts a script at their own terminal allows it everything they may do themselves."""
    roots = ("/",) if spec.recipe == "script" else ()
    return Terms(roots, environment=tuple(os.environ), environments=str(home / "environments"))


def _object(path: Path) -> dict[str, Any]:
    try:
        given = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BadSpec(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise BadSpec(f"{path} is not JSON: {error}.") from None
    if not isinstance(given, dict):
        raise BadSpec(f"{path} must hold one JSON object.")
    return given


class _Keys:
    """Ctrl-C stops with a checkpoint, pressed again it ends at once."""

    def __init__(self) -> None:
        self._presses = 0
        signal.signal(signal.SIGINT, self._press)
        signal.signal(signal.SIGTERM, self._press)

    def order(self) -> str | None:
        return (None, "stop", "kill")[min(self._presses, 2)]

    def _press(self, _number: int, _frame: FrameType | None) -> None:
        self._presses += 1


class _Teller:
    """Prints the log as it comes, and on a terminal how far the job is."""

    def __init__(self, reader: SpoolReader) -> None:
        self._reader, self._progress, self._after = reader, Progress(), 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _follow(self) -> None:
        shown = time.monotonic()
        while not self._over.wait(0.3):
            self._print_log()
            if self._progress.follow(self._reader) and sys.stdout.isatty() and time.monotonic() - shown > 2:
                shown = time.monotonic()
                print(f"— {self._progress.sentence()}", flush=True)
        self._print_log()

    def _print_log(self) -> None:
        _, items = self._reader.read("log", self._after, 1 << 22)
        self._after += len(items)
        for item in items:
            sys.stdout.write(item["text"])
        sys.stdout.flush()
