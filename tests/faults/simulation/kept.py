"""Seeds that found something once, (row, seed): what it was. They are played in every run."""

from __future__ import annotations

KEPT: dict[tuple[int, int], str] = {
    (1, 0): "after a few cuts an agent stayed away for up to a minute, drawn from a window that had grown",
    (20, 1): "an acknowledgement that was overtaken made the agent send everything again: 4,300 frames instead of 30",
    (25, 19): "a power cut took a record that had been sent, and the next one was given its number",
    (20, 10): "records that came before their accept were refused as stale, and the agent ended its own training",
}
