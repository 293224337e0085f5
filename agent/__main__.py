"""The command line: connect (the default), run, upload, doctor, status, stop, config, service.

supervise and child are for the agent itself. Exit codes: 0 done; 1 something failed, or `status` found no agent; 2 what was
asked is refused, and asking again changes nothing; 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .arguments import HIDDEN_VERBS, VERBS, Usage, parser
from .errors import Fatal

REFUSED, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code."""
    if os.name == "nt":
        print(
            "The agent runs on Linux and macOS. On Windows, start it inside WSL: wsl --install",
            file=sys.stderr,
        )
        return REFUSED
    typed = list(sys.argv[1:] if arguments is None else arguments)
    if not typed or typed[0] not in (*VERBS, *HIDDEN_VERBS, "-h", "--help", "--version"):
        typed.insert(0, "connect")
    try:
        return _hidden(typed) if typed[0] in HIDDEN_VERBS else _carried_out(typed)
    except (Usage, Fatal) as refusal:
        print(refusal, file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED


def _hidden(typed: list[str]) -> int:
    if typed[0] == "child":
        from .child import spawned

        return spawned(int(typed[1]), int(typed[2]))
    from .supervisor import supervise

    return supervise(Path(typed[1]))


def _carried_out(typed: list[str]) -> int:
    options = parser().parse_args(typed)
    from . import verbs
    from .config import settled

    if options.verb not in ("run", "config"):
        options = settled(options, os.environ)
    return verbs.VERBS[options.verb](options)


if __name__ == "__main__":
    sys.exit(main())
