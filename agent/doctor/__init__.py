"""The verb `doctor`: looks at everything a training needs and says for each what is fine or what to do."""

from __future__ import annotations

import argparse

from . import choices, machine, place, server

Finding = tuple[bool, str, str]
"""Whether it is fine, what was looked at, and a sentence: with what to do where it is not fine."""


def examine(server_url: str | None, options: argparse.Namespace) -> bool:
    """Print one line for each thing examined; True when a job could run here now."""
    findings: list[Finding] = [
        *machine.findings(options.home),
        *place.findings(options.home),
        *choices.findings(options),
        *server.findings(server_url, options.api_key),
    ]
    width = max(len(name) for _, name, _ in findings)
    for fine, name, words in findings:
        print(f"{'ok  ' if fine else 'FIX '} {name:<{width}}  {words}")
    return all(fine for fine, _, _ in findings)
