"""The verb `doctor`: looks at everything a training needs and says for each what is fine or what to do."""

from __future__ import annotations

import argparse

from . import choices, machine, place, server

Finding = tuple[bool | None, str, str]
"""Whether it is fine (None: a note), what was looked at, and a sentence: with what to do where it is not fine."""

_MARKS = {True: "ok  ", None: "note", False: "FIX "}


def examine(server_url: str | None, options: argparse.Namespace) -> bool:
    """Print one line for each thing examined; True when a job could run here now."""
    findings: list[Finding] = [
        *machine.findings(options.home, options.allow_scripts),
        *place.findings(options.home),
        *choices.findings(options),
        *server.findings(server_url, options.api_key),
    ]
    width = max(len(name) for _, name, _ in findings)
    for fine, name, words in findings:
        print(f"{_MARKS[fine]} {name:<{width}}  {words}")
    return all(fine is not False for fine, _, _ in findings)
