"""The recipe in a plain script: loads it once, then forks for each line of standard input and trains. Nothing reports."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from agent import recipes  # noqa: E402


def train(given: dict[str, Any]) -> int:
    """Carry out `{"folder", "data", "parameters"}`; 0 when it was completed."""
    assignment = recipes.Assignment(
        parameters=given["parameters"], data=Path(given["data"]), mapping=None, base_model=recipes.YARD_TINY,
        base_name=recipes.YARD_TINY, folder=Path(given["folder"]), name="plain", report=lambda kind, **fields: None,
        stop_requested=lambda: False,
    )  # fmt: skip
    return 0 if recipes.load("language").train(assignment) == "completed" else 1


def main() -> None:
    """Answer each line with the exit code of its training."""
    recipes.load("language")
    print("warm", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            with open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), 1)
            os._exit(train(json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
