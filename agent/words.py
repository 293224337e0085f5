"""Amounts and lists as a person reads them."""

from __future__ import annotations


def listed(names: list[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def beginning(text: str, most: int) -> str:
    """The beginning of a text in at most `most` characters, cut between words: half a secret would not be masked."""
    return text if len(text) <= most else f"{text[: most - 1].rpartition(' ')[0]} …".lstrip()


def file_size(size: int | None) -> str:
    """`3.4 kB`, `12.0 MB`, `1.5 GB`; a question mark when nobody knows."""
    if size is None:
        return "?"
    if size >= 1e9:
        return f"{size / 1e9:,.1f} GB"
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
