"""The command line: connect (the default), run, upload, doctor; supervise and child are for the agent itself."""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from . import __version__, settings
from .errors import Fatal
from .settings import Timings

VERBS = ("connect", "run", "upload", "doctor", "supervise", "child")
REFUSED = 2


class Usage(Exception):
    """What was typed cannot be done; `str()` says why and what to type."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0, 1 when something failed, 2 when what was asked is refused."""
    if os.name == "nt":
        print(
            "The agent runs on Linux and macOS. On Windows, start it inside WSL: wsl --install",
            file=sys.stderr,
        )
        return REFUSED
    typed = list(sys.argv[1:] if arguments is None else arguments)
    if not typed or (typed[0] not in VERBS and typed[0] not in ("-h", "--help", "--version")):
        typed.insert(0, "connect")
    try:
        if typed[0] == "child":
            from .child import spawned

            return spawned(int(typed[1]), int(typed[2]))
        if typed[0] == "supervise":
            from .supervisor import supervise

            return supervise(Path(typed[1]))
        options = _parser().parse_args(typed)
        return int(options.carry_out(options))
    except (Usage, Fatal) as refusal:
        print(refusal, file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="train_agent.py",
        description="Trains your models on this machine: connects to a Trainyard server and carries out its jobs.",
        epilog="Without a verb it connects. `train_agent.py connect --help` shows the options.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(metavar="VERB")
    connect = verbs.add_parser("connect", help="connect and wait for jobs (the default)")
    _server_options(connect)
    connect.add_argument(
        "--root",
        action="append",
        default=[],
        metavar="FOLDER",
        help="a folder jobs may read data and models from; may be given again",
    )
    connect.add_argument(
        "--name",
        default=socket.gethostname(),
        help="how the site calls this machine (default: its host name)",
    )
    connect.add_argument(
        "--home",
        type=Path,
        default=Path.home(),
        metavar="FOLDER",
        help="where the agent keeps its files, in .trainyard (default: your home)",
    )
    connect.add_argument("--jobs", type=int, default=1, metavar="N", help="how many jobs at a time (default: 1)")
    connect.add_argument("--allow-scripts", action="store_true", help="let jobs run scripts that lie inside a --root")
    connect.set_defaults(carry_out=_connect)
    run = verbs.add_parser("run", help="carry out one job from a JSON file, without a server")
    run.add_argument(
        "spec",
        type=Path,
        metavar="SPEC",
        help='a file such as {"name": "first", "data": "rows.jsonl", "parameters": {"max_steps": 50}}',
    )
    run.add_argument(
        "--folder",
        type=Path,
        help="where checkpoints and the result go (default: a folder with the job's name)",
    )
    run.set_defaults(carry_out=_run)
    upload = verbs.add_parser("upload", help="upload a data file as a data set (needs a key of scope full)")
    upload.add_argument("path", type=Path)
    _server_options(upload)
    upload.add_argument("--name", help="name of the data set (default: the file's)")
    upload.add_argument("--kind", help="conversation, code_generation, error_fixing or refactoring")
    upload.add_argument(
        "--mapping", help='which columns are what, as JSON: {"prompt": "question", "completion": "answer"}'
    )
    upload.set_defaults(carry_out=_upload)
    doctor = verbs.add_parser("doctor", help="check this machine and the way to the server")
    _server_options(doctor)
    doctor.add_argument("--home", type=Path, default=Path.home(), metavar="FOLDER")
    doctor.set_defaults(carry_out=_doctor)
    return parser


def _server_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--api-key", metavar="KEY", help=f"a key from the site's Agents page (or {settings.API_KEY})")
    parser.add_argument("--server-url", metavar="URL", help=f"ws://HOST:PORT or wss://HOST (or {settings.SERVER_URL})")
    parser.add_argument("--insecure", action="store_true", help="allow an unencrypted connection to another machine")


def _connect(options: argparse.Namespace) -> int:
    import asyncio

    from .daemon import Agent
    from .daemon.options import Options
    from .roots import BadRoot, allowed_roots
    from .screen import open_screen
    from .workspace import FOLDER, Workspace, WorkspaceTaken

    server_url, key = server_of(options), _key_of(options)
    if options.jobs < 1:
        raise Usage("--jobs must be 1 or more.")
    home = options.home.expanduser().resolve()
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
    if os.geteuid() == 0:
        print(
            "Warning: running as root. Jobs have every right on this machine; an account of their own is safer.",
            file=sys.stderr,
        )
    screen = open_screen()
    names = tuple(os.path.abspath(os.path.expanduser(root)) for root in options.root)  # noqa: PTH100, PTH111 - links stay
    chosen = Options(server_url, key, options.name[:80], tuple(roots), options.jobs, options.allow_scripts, names)
    try:
        asyncio.run(Agent(chosen, workspace, screen, Timings.from_environment(os.environ)).run())
    finally:
        screen.close()
        workspace.release()
    return 0


def _run(options: argparse.Namespace) -> int:
    from .alone import BadSpec, run_alone

    try:
        return run_alone(options.spec, options.folder, Timings.from_environment(os.environ))
    except BadSpec as refusal:
        raise Usage(str(refusal)) from None


def _upload(options: argparse.Namespace) -> int:
    from .upload import NotUploaded, upload_data

    try:
        print(
            upload_data(
                server_of(options),
                _key_of(options),
                options.path,
                options.name,
                options.kind,
                options.mapping,
            )
        )
    except NotUploaded as refusal:
        raise Usage(str(refusal)) from None
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import examine

    key = options.api_key or os.environ.get(settings.API_KEY)
    server = server_of(options) if options.server_url or _default_server() else None
    return 0 if examine(server, key, options.home.expanduser()) else 1


def server_of(options: argparse.Namespace) -> str:
    """The server's ws address, from the option, the environment or the file itself. Raises Usage."""
    from .addresses import is_loopback

    given = options.server_url or _default_server()
    if not given:
        raise Usage("Which server? Give its address with --server-url ws://HOST:PORT; the Agents page shows it.")
    scheme, _, rest = given.strip().rstrip("/").partition("://")
    scheme = {"http": "ws", "https": "wss"}.get(scheme, scheme)
    parts = urlsplit(f"{scheme}://{rest}")
    try:
        named = re.fullmatch(r"[\w.:-]+", parts.hostname or "") is not None
        valid = scheme in ("ws", "wss") and named and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or parts.path or parts.query or parts.username:
        raise Usage(f"{given} is not an address of a server. It looks like ws://localhost:5000 or wss://example.com.")
    if scheme == "ws" and not is_loopback(parts.hostname) and not options.insecure:
        raise Usage(
            f"The connection to {parts.hostname} would not be encrypted: anybody on the way could read your key. Use "
            f"wss://{parts.netloc}, or add --insecure if you trust the whole network between here and there."
        )
    return f"{scheme}://{parts.netloc}"


def _default_server() -> str | None:
    """What the environment says, else the address that the site wrote into the downloaded file."""
    from .build import carried_address

    return os.environ.get(settings.SERVER_URL) or carried_address()


def _key_of(options: argparse.Namespace) -> str:
    key = (options.api_key or os.environ.get(settings.API_KEY) or "").strip()
    if not key:
        raise Usage("Which key? Make one on the site's Agents page and give it with --api-key KEY.")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise Usage("The key holds characters that no key has. Copy it again from the Agents page.")
    return key


if __name__ == "__main__":
    sys.exit(main())
