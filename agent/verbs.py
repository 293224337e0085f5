"""What each verb of the command line does with its settled options. Each returns the exit code."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from . import config_file
from .arguments import Usage
from .config import hours_of, key_of, max_jobs_of, name_of, passed_names, server_of
from .settings import Timings

FAILED = 1


def connect(options: argparse.Namespace) -> int:
    """Be the agent until asked to leave."""
    import asyncio

    from .daemon import Agent
    from .daemon.options import Options
    from .roots import BadRoot, allowed_roots
    from .screen import open_screen
    from .workspace import FOLDER, Workspace, WorkspaceTaken

    server_url, key, home = server_of(options), key_of(options), options.home
    jobs, hours, environment = max_jobs_of(options), hours_of(options), passed_names(options)
    try:
        roots = allowed_roots(options.root, Path.home(), home / FOLDER)
        workspace = Workspace(home, server_url)
        workspace.lock()
    except (BadRoot, WorkspaceTaken) as refusal:
        raise Usage(str(refusal)) from None
    except OSError as error:
        raise Usage(
            f"The agent cannot keep its files in {home}: {error.strerror}. Give it a folder with --home."
        ) from None
    _warn_root()
    names = tuple(os.path.abspath(os.path.expanduser(root)) for root in options.root)  # noqa: PTH100, PTH111 - links stay
    chosen = Options(
        server_url, key, name_of(options), tuple(roots), jobs, options.allow_scripts, names, environment, hours
    )
    screen = open_screen()
    try:
        asyncio.run(Agent(chosen, workspace, screen, Timings.from_environment(os.environ)).run())
    finally:
        screen.close()
        workspace.release()
    return 0


def _warn_root() -> None:
    if os.geteuid() == 0:
        print(
            "Warning: running as root. Jobs have every right on this machine; an account of their own is safer.",
            file=sys.stderr,
        )


def run(options: argparse.Namespace) -> int:
    """Carry out one job from a file, without a server."""
    from .alone import BadSpec, run_alone

    try:
        return run_alone(options.spec, options.folder, Timings.from_environment(os.environ))
    except BadSpec as refusal:
        raise Usage(str(refusal)) from None


def upload(options: argparse.Namespace) -> int:
    """Bring a data file or a trained model to the platform."""
    from .upload import NotUploaded, upload_data
    from .upload_model import is_model, upload_model

    server_url, key = server_of(options), key_of(options)
    try:
        if is_model(options.path):
            told = upload_model(server_url, key, options.path, options.name, options.description, options.base_model)
        else:
            told = upload_data(server_url, key, options.path, options.name, options.kind, options.mapping)
    except NotUploaded as refusal:
        raise Usage(str(refusal)) from None
    print(told)
    return 0


def doctor(options: argparse.Namespace) -> int:
    """Look at everything a training needs; 1 when something has to be mended."""
    from .doctor import examine

    server = server_of(options) if options.server_url else None
    return 0 if examine(server, options) else FAILED


def status(options: argparse.Namespace) -> int:
    """Say what is going on here; 1 when no agent runs."""
    from .status import as_text
    from .status import status as look

    found = look(options.home)
    print(json.dumps(found, indent=2) if options.format == "json" else as_text(found))
    return 0 if found["running"] else FAILED


def stop(options: argparse.Namespace) -> int:
    """Ask the agent to leave; 1 when something runs still."""
    from . import leaving

    try:
        print(leaving.stop(options.home, jobs=options.jobs))
    except leaving.NotStopped as fault:
        print(fault, file=sys.stderr)
        return FAILED
    except PermissionError:
        raise Usage("The agent belongs to another account of this machine. Stop it from there.") from None
    return 0


def config(options: argparse.Namespace) -> int:
    """Print a configuration file."""
    print(config_file.template(options.home or "~"), end="")
    return 0


def service(options: argparse.Namespace) -> int:
    """Print a service file; what to do with it goes to the other stream, so that the file can be redirected."""
    from . import service_unit
    from .runner.children import program

    server_of(options)
    max_jobs_of(options)
    hours_of(options)
    passed_names(options)
    form = options.format or ("launchd" if sys.platform == "darwin" else "systemd")
    command, environment = program({}, "connect", *service_unit.arguments(options))
    print(service_unit.FORMS[form](command, environment, options.home), end="")
    print(service_unit.advice(form, options, has_key=_key_is_in_file(options)), file=sys.stderr)
    return 0


def _key_is_in_file(options: argparse.Namespace) -> bool:
    from .workspace import FOLDER

    path = Path(options.config).expanduser() if options.config else options.home / FOLDER / config_file.NAME
    return path.exists() and "api_key" in config_file.read(path)


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "connect": connect, "run": run, "upload": upload, "doctor": doctor, "status": status, "stop": stop,
    "config": config, "service": service,
}  # fmt: skip
