"""Curves out of what a training script prints, without touching the script.

`Curves` is fed the bytes of its output and answers with points; `HelperLines` does the same for the pipe into which the
helper `trainyard.py` writes. `RULES` names the printed forms that are understood, `Counting` is what one attempt of a
script tells the next about how it counts.
"""

from __future__ import annotations

from .helper_lines import HelperLines
from .output import Curves
from .points import MAX_STEP, RULES, Point
from .steps import Counting

__all__ = ["MAX_STEP", "RULES", "Counting", "Curves", "HelperLines", "Point"]
