"""What can be typed: the verbs and their options. What holds when something is not typed is decided in `config`."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import __version__, settings

VERBS = ("connect", "run", "upload", "doctor", "status", "stop", "config", "service")
HIDDEN_VERBS = ("supervise", "child")


class Usage(Exception):
    """What was typed cannot be done; `str()` says why and what to type."""


def parser() -> argparse.ArgumentParser:
    """The command line. Options that were not typed are None, so that the file and the defaults can stand in."""
    whole = argparse.ArgumentParser(
        prog="train_agent.py",
        description="Trains your models on this machine: connects to a Trainyard server and carries out its jobs.",
        epilog="Without a verb it connects. `train_agent.py connect --help` shows the options.",
    )
    whole.add_argument("--version", action="version", version=__version__)
    verbs = whole.add_subparsers(metavar="VERB", dest="verb")
    connect = verbs.add_parser("connect", help="connect and wait for jobs (the default)")
    _server_options(connect)
    _agent_options(connect)
    _run(verbs.add_parser("run", help="carry out one job from a JSON file, without a server"))
    _upload(verbs.add_parser("upload", help="upload a data file as a data set, or a trained model as a model"))
    doctor = verbs.add_parser("doctor", help="check this machine and the way to the server")
    _server_options(doctor)
    _agent_options(doctor)
    status = verbs.add_parser("status", help="show whether an agent runs here and how far its jobs are")
    _place(status)
    status.add_argument("--format", choices=("text", "json"), default="text", help="how it is written (default: text)")
    stop = verbs.add_parser("stop", help="ask the agent that runs here to leave; its jobs train on")
    _place(stop)
    stop.add_argument("--jobs", action="store_true", help="stop the jobs first, with checkpoints")
    config = verbs.add_parser("config", help="print a configuration file with every setting explained")
    _home(config)
    service = verbs.add_parser("service", help="print a service file that starts the agent with the options given")
    _server_options(service)
    _agent_options(service)
    service.add_argument("--format", choices=("systemd", "launchd"), help="which one (default: this system's)")
    return whole


def _server_options(parser: argparse.ArgumentParser, key: str = "a key from the site's Agents page") -> None:
    parser.add_argument("--api-key", metavar="KEY", help=f"{key} (or {settings.API_KEY})")
    parser.add_argument("--server-url", metavar="URL", help=f"ws://HOST:PORT or wss://HOST (or {settings.SERVER_URL})")
    parser.add_argument(
        "--insecure",
        action=argparse.BooleanOptionalAction,
        help="allow an unencrypted connection to another machine",
    )


def _home(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--home",
        metavar="FOLDER",
        help="where the agent keeps its files, in .trainyard (default: your home)",
    )


def _place(parser: argparse.ArgumentParser) -> None:
    _home(parser)
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="a configuration file (default: .trainyard/agent.toml if it is there); what is typed wins over it",
    )


def _agent_options(parser: argparse.ArgumentParser) -> None:
    _place(parser)
    parser.add_argument(
        "--root",
        action="append",
        metavar="FOLDER",
        help="a folder jobs may read data and models from; may be given again",
    )
    parser.add_argument("--name", help="how the site calls this machine (default: its host name)")
    parser.add_argument("--max-jobs", type=int, metavar="N", help="how many jobs at a time (default: 1)")
    parser.add_argument("--jobs", dest="max_jobs", type=int, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--hours",
        action="append",
        metavar="FROM-TO",
        help="take new jobs only then, such as 20:00-08:00, by this machine's clock; may be given again",
    )
    parser.add_argument(
        "--allow-scripts",
        action=argparse.BooleanOptionalAction,
        help="let jobs run scripts that lie inside a --root",
    )
    parser.add_argument(
        "--pass-env",
        action="append",
        metavar="NAME",
        help="an environment variable that scripts of jobs are given, such as HF_TOKEN; may be given again",
    )


def _run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "spec",
        type=Path,
        metavar="SPEC",
        help='a file such as {"name": "first", "data": "rows.jsonl", "parameters": {"max_steps": 50}}',
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="where checkpoints and the result go (default: a folder with the job's name)",
    )


def _upload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="a data file; or a folder with a trained model, or a .safetensors file",
    )
    _server_options(parser, "a key that may do everything, from the site's page /account")
    _place(parser)
    parser.add_argument("--name", help="name of the data set or model (default: the file's or folder's)")
    parser.add_argument(
        "--kind",
        help="of data: conversation, code_generation, error_fixing or refactoring; script for a zip of a training script",
    )
    parser.add_argument(
        "--mapping",
        help='of data: which columns are what, as JSON: {"prompt": "question", "completion": "answer"}',
    )
    parser.add_argument("--description", help="of a model: what it is, in a few sentences")
    parser.add_argument("--base-model", metavar="NAME", help="of a model: what it was trained from")
