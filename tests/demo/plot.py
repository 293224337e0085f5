"""A curve drawn with braille characters, each of which is two dots wide and four high."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# The bit of each dot in a cell, by row and column (Unicode chapter 21.1, block U+2800).
_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_EMPTY = 0x2800


def plotted(points: Sequence[tuple[int, float | None]], width: int, height: int) -> list[str]:
    """`height` + 2 lines of text: the curve on `width` x `height` cells, the values at the left, the steps below.

    Points without a value are left out; without any, one line says so.
    """
    known = [(step, value) for step, value in points if value is not None]
    if not known:
        return ["no values"]
    low, high = min(value for _, value in known), max(value for _, value in known)
    labels = [f"{high:.2f}", *[""] * (height - 2), f"{low:.2f}"] if height > 1 else [f"{high:.2f}"]
    margin = max(len(label) for label in labels)
    rows = _drawn(_dots(known, 2 * width, 4 * height), width, height)
    lines = [f"{label:>{margin}} ┤{row}" for label, row in zip(labels, rows, strict=True)]
    first, last = f"{known[0][0]:,}", f"{known[-1][0]:,} steps"
    return [*lines, f"{'':>{margin}} └{'─' * width}", f"{'':>{margin}}  {first}{last:>{width - len(first)}}"]


def _dots(points: Sequence[tuple[int, float]], across: int, down: int) -> set[tuple[int, int]]:
    """Every dot of the line through the points, as (column, row) from the upper left."""
    steps, values = [step for step, _ in points], [value for _, value in points]
    wide, tall = max(steps[-1] - steps[0], 1), (max(values) - min(values)) or 1.0
    places = [
        ((step - steps[0]) * (across - 1) / wide, (max(values) - value) * (down - 1) / tall) for step, value in points
    ]
    found = {(round(places[0][0]), round(places[0][1]))}
    for start, end in zip(places, places[1:], strict=False):
        found.update(_line(start, end))
    return found


def _line(start: tuple[float, float], end: tuple[float, float]) -> Iterator[tuple[int, int]]:
    count = max(1, round(max(abs(end[0] - start[0]), abs(end[1] - start[1]))))
    for i in range(count + 1):
        share = i / count
        yield round(start[0] + share * (end[0] - start[0])), round(start[1] + share * (end[1] - start[1]))


def _drawn(dots: set[tuple[int, int]], width: int, height: int) -> list[str]:
    cells = [[_EMPTY] * width for _ in range(height)]
    for column, row in dots:
        cells[row // 4][column // 2] |= _BITS[row % 4][column % 2]
    return ["".join(map(chr, row)) for row in cells]
