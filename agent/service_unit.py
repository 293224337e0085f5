"""The verb `service`: a systemd unit, or a launchd list on macOS, that starts the agent with the options given.

The key is never in it: other programs can read the command line of a process. When the service ends, jobs train on
(KillMode=process, AbandonProcessGroup), and a refusal (exit code 2) does not make it start again and again.
"""

from __future__ import annotations

import argparse
import os
import plistlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .workspace import FOLDER

LABEL = "trainyard-agent"
_PLAIN = re.compile(r"[A-Za-z0-9_./:=@+,~-]+")


def arguments(options: argparse.Namespace) -> list[str]:
    """The options of `connect` that say what was given, the key left out. What the configuration file says stays there, so
    that changing it has an effect."""
    said = argparse.Namespace(**{name: value for name, value in vars(options).items() if name in options.given})
    typed = []
    if options.config:
        typed += ["--config", _whole(options.config)]
    for name in ("server_url", "home", "name", "max_jobs"):
        if getattr(said, name, None) is not None:
            typed += [_option(name), str(getattr(said, name))]
    typed += [word for root in getattr(said, "root", []) for word in ("--root", _whole(root))]
    for name in ("hours", "pass_env"):
        typed += [word for value in getattr(said, name, []) for word in (_option(name), value)]
    typed += [_option(name) for name in ("allow_scripts", "insecure") if getattr(said, name, False)]
    return typed + [f"--no-{name.replace('_', '-')}" for name in options.switched_off]


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _whole(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 - links stay


def systemd(command: Sequence[str], environment: Mapping[str, str], home: Path) -> str:
    """A unit for the account's own systemd (systemd.service(5), systemd.unit(5))."""
    lines = [f"Environment={_quoted(f'{name}={value}')}\n" for name, value in sorted(environment.items())]
    return (
        "[Unit]\n"
        "Description=Trainyard agent: trains on this machine\n"
        "\n"
        "[Service]\n"
        f"ExecStart={' '.join(_quoted(part, dollar=True) for part in command)}\n"
        f"{''.join(lines)}"
        "# For variables of --pass-env, a line each: HF_TOKEN=... The key stands in agent.toml.\n"
        f"EnvironmentFile=-{_escaped(str(home / FOLDER / 'agent.env'))}\n"
        "UMask=0077\n"
        "# Jobs train on when the agent is stopped or started again.\n"
        "KillMode=process\n"
        "Restart=on-failure\n"
        "RestartSec=10\n"
        "# 2: what was asked is refused, and starting again would not change it.\n"
        "RestartPreventExitStatus=2\n"
        "\n"
        "[Install]\n"
        "WantedBy=default.target\n"
    )


def launchd(command: Sequence[str], environment: Mapping[str, str], home: Path) -> str:
    """A list for launchd (launchd.plist(5))."""
    log = str(home / FOLDER / "agent.log")
    content = {
        "Label": LABEL, "ProgramArguments": list(command), "EnvironmentVariables": dict(environment),
        "RunAtLoad": True, "KeepAlive": {"SuccessfulExit": False}, "ThrottleInterval": 60, "AbandonProcessGroup": True,
        "StandardOutPath": log, "StandardErrorPath": log, "Umask": 0o077,
    }  # fmt: skip
    return plistlib.dumps(content).decode()


FORMS: dict[str, Callable[[Sequence[str], Mapping[str, str], Path], str]] = {"systemd": systemd, "launchd": launchd}


def advice(form: str, options: argparse.Namespace, *, has_key: bool) -> str:
    """Where the file goes and how the service is started, with the place of the key when it is nowhere yet."""
    if form == "launchd":
        place = f"~/Library/LaunchAgents/{LABEL}.plist"
        steps = [f"Save this as {place}, then: launchctl bootstrap gui/{os.getuid()} {place}"]
    else:
        place = f"~/.config/systemd/user/{LABEL}.service"
        steps = [f"Save this as {place}, then: systemctl --user daemon-reload && systemctl --user enable --now {LABEL}"]
        steps.append('To let it run while you are logged out: loginctl enable-linger "$USER"')
    if not has_key:
        folder = options.home / FOLDER
        steps.append(
            f'The key is not in it. Write api_key = "..." into {options.config or folder / "agent.toml"} '
            "and make that file yours alone: chmod 600."
        )
    return "\n".join(f"# {step}" for step in steps)


def _quoted(part: str, *, dollar: bool = False) -> str:
    """One word of a unit file: quoted where needed, specifiers and, in a command, variables taken as they stand."""
    text = _escaped(part)
    if dollar:
        text = text.replace("$", "$$")
    if _PLAIN.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
