"""What a kept file may be called: one rule for the agent that brings it and the server that keeps it.

A name is safe as a path on any system, in an address and in a command: no part leads out of its folder, is hidden, begins
like an option or ends where Windows would cut it.
"""

from __future__ import annotations

import re

LONGEST_NAME = 200  # letters, as the server's table of files takes them
MOST_PARTS = 8
_PART = re.compile(r"[A-Za-z0-9_]([\w.=+,@()\[\]~ -]{0,98}[\w=+,@()\[\]~-])?", re.ASCII)


def name_fault(name: str) -> str | None:
    """Why a file of this name cannot be kept, as the rest of a sentence; None when it can."""
    if len(name) > LONGEST_NAME:
        return f"its name has {len(name)} letters, at most {LONGEST_NAME} are taken"
    parts = name.split("/")
    if len(parts) > MOST_PARTS:
        return f"it lies {len(parts)} names deep, at most {MOST_PARTS} are taken"
    if not all(map(_PART.fullmatch, parts)):
        return (
            "a name, and that of each folder, is at most 100 letters of a-z, digits, spaces and . - _ = + , @ ( ) [ ] ~, "
            "begins with a letter, a digit or _, and does not end with a dot or a space"
        )
    return None
