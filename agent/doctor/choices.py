"""Doctor, what the options and the configuration file decide: folders, scripts, variables, hours."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from ..arguments import Usage
from ..config import hours_of, passed_names
from ..roots import BadRoot, allowed_roots
from ..words import listed
from ..workspace import FOLDER

Finding = tuple[bool, str, str]


def findings(options: argparse.Namespace) -> list[Finding]:
    """The options that `connect` would be given."""
    return [*_roots(options), _scripts(options), *_environment(options), _hours(options)]


def _roots(options: argparse.Namespace) -> Iterator[Finding]:
    if not options.root:
        yield True, "roots", "none: jobs use data sets of the site alone; add --root FOLDER for files of this machine"
    for text in options.root:
        try:
            (root,) = allowed_roots([text], Path.home(), options.home / FOLDER)
        except BadRoot as fault:
            yield False, "roots", str(fault)
            continue
        fine = os.access(root, os.R_OK | os.X_OK)
        yield fine, "roots", str(root) if fine else f"{root} cannot be read: check who owns it and its permissions"


def _scripts(options: argparse.Namespace) -> Finding:
    if not options.allow_scripts:
        return True, "scripts", "not allowed: jobs that run a script are refused; --allow-scripts allows them"
    if options.root:
        return True, "scripts", "allowed, inside the roots"
    return False, "scripts", "allowed, but without --root there is no folder they may lie in: add --root FOLDER"


def _environment(options: argparse.Namespace) -> Iterator[Finding]:
    try:
        names = passed_names(options)
    except Usage as fault:
        yield False, "variables", str(fault)
        return
    unset = [name for name in names if name not in os.environ]
    if unset:
        yield (
            False,
            "variables",
            f"{listed(unset)} should be passed to scripts and is not set: export it before the start",
        )
    elif names:
        yield True, "variables", f"{listed(list(names))} passed to scripts"


def _hours(options: argparse.Namespace) -> Finding:
    try:
        hours, local = hours_of(options), datetime.now()
    except Usage as fault:
        return False, "hours", str(fault)
    if not hours.windows:
        return True, "hours", "new jobs are taken at any time"
    now = "new jobs are taken now" if hours.is_open(local) else f"new jobs are taken from {hours.opens_at(local)} on"
    return True, "hours", f"{', '.join(map(str, hours.windows))}: {now}"
