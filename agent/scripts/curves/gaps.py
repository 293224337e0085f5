"""The text between two numbers of a line: the unit of the number before it, the name of the number behind it.

A line is cut at its numbers. What is left between them repeats from line to line, so each text is understood once and
remembered, which makes reading a line about as cheap as cutting it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from .names import HELD_OUT, QUALIFIERS, TRAINING, Kind, kind_of
from .points import normalised

# A number stands alone: not inside a word (`conv2d`), a version (`1.2.3`) or a date (`2026-01-31`).
NUMBER = re.compile(
    r"(?<![\w.@+\-])([-+]?+(?:(?:[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])(?:\.[0-9]*+)?+|[0-9]++(?:\.[0-9]*+)?+|\.[0-9]++)"
    r"(?:e[-+]?[0-9]++)?+"
    r"|nan(?!\w)|inf(?:inity)?+(?!\w)))",
    re.IGNORECASE,
)

_LOOKED_AT = 80  # characters of a gap that may hold the name
_SLASH = re.compile(r"\s*+(?:/|\bof\b|\bout of\b)\s*+")
_UNIT = re.compile(
    r"\s?+(?:ms|us|µs|ns|s|secs?|seconds?|min(?:utes?|s)?|h(?:rs?|ours?)?|days?|[kKMGT]i?[Bb]|bytes|it/s|s/it)(?![\w/])"
)
_COUNTED = re.compile(r"\s*+(batch|step|iter|iteration|epoch|update|episode)(?:e?s)?+(?!\w)", re.IGNORECASE)
_BREAKS = re.compile(r"[,;|:()\[\]{}<>\t=!?\"*#]+|\s{2,}|\s[-–—]+\s|->|➜|→")
_WRAPPED = re.compile(r"(?:tensor|array|(?:np|numpy|torch)\.\w{1,12})$")
_GROUP = re.compile(
    r"(?<![\w/.\-])(train(?:ing)?|val(?:id(?:at(?:ion|ing))?)?|test(?:ing)?|eval(?:uat(?:ion|ing))?|dev)(?=[\s:\])|,]|$)"
)
_GROUP_BEHIND = re.compile(r"\((?:train|val|valid|test)\)$")
# Where in the code a line was written: `| INFO     | yolox.core.trainer:` and `| INFO | __main__:main:` (loguru), `trainer.py:`.
_LOCATION = re.compile(r"(?:\|\s*+[A-Z]++\s*+\|\s*+(?:[\w.<>-]++:){1,2}+|[\w.-]{0,60}\.py:)$")
_OWNER = re.compile(r"([\w.-]{1,40}+)'s\s")
_WORD = re.compile(r"[A-Za-z_µ][\w@/.'%+-]*")


class Gap(NamedTuple):
    """`unit` is "", "%" or "?" (the number before is not a plain one); `counted` names what the number before counts.

    `group` is train, val, test or eval where the gap says which data the numbers behind it are about; `apart` whether
    the name itself says so in a word of its own. `owner` is the set of data that LightGBM names: `valid_0's auc`.
    """

    unit: str
    counted: Kind | None
    slash: bool
    name: str
    kind: Kind | None
    separated: bool
    group: str | None
    apart: bool
    owner: str
    opens: bool


def understood(gap: str) -> Gap:
    """The meaning of a gap."""
    if len(gap) > _LOOKED_AT + 16:
        gap = gap[:16] + "\t" + gap[-_LOOKED_AT:]
    return _understood(gap)


@lru_cache(maxsize=8192)
def _understood(gap: str) -> Gap:
    slash, location = _SLASH.fullmatch(gap) is not None, _LOCATION.search(gap)
    if slash or location:
        name, separated, before = "", False, gap[: location.start()] if location else ""
    else:
        name, separated, before = _name_at_the_end(gap)
    kind = Kind.NEVER if location else kind_of(name) if name else None
    group, apart = _group(name, before)
    counted, owners = _COUNTED.match(gap), _OWNER.findall(gap)
    return Gap(
        unit=_unit(gap),
        counted=kind_of(counted.group(1)) if counted and kind not in (Kind.STEP, Kind.BATCH, Kind.EPOCH) else None,
        slash=slash,
        name=name if kind in (Kind.STEP, Kind.BATCH, Kind.EPOCH) else normalised(name),
        kind=kind,
        separated=separated,
        group=group,
        apart=apart,
        owner=owners[-1].lower() if owners else "",
        opens=gap.rstrip().endswith(("[", "|", "(")),
    )


def _unit(gap: str) -> str:
    if gap.startswith(("%", " %")):
        return "%"
    first, second = gap[:1], gap[1:2]
    broken = (
        first.isalnum()
        or first in ("_", "@", "\\")
        or gap in (":", "-")
        or (first in (".", "-", "+", ":") and (second.isalnum() or second in ("-", ".", "_")))
        or _UNIT.match(gap) is not None
    )
    return "?" if broken else ""


def _name_at_the_end(gap: str) -> tuple[str, bool, str]:
    """The name that a gap ends with, whether `:` or `=` stands behind it, and what is in front of it."""
    text = gap.rstrip(" \t[({\"'~≈$")
    wrapped = _WRAPPED.search(text[-24:]) if gap.endswith("(") else None
    if wrapped:
        text = text[: len(text) - len(wrapped.group())].rstrip(" \t[({\"'")
    bare = text.removesuffix("->").rstrip(" \t:=\"'")
    separated = len(bare) < len(text) and any(sign in text[len(bare) :] for sign in ":=>")
    of_group = _GROUP_BEHIND.search(bare)
    bare = (bare[: of_group.start()] if of_group else bare).rstrip("]) \t")
    start = max((found.end() for found in _BREAKS.finditer(bare)), default=0)
    words = [word for word in bare[start:].split() if _WORD.match(word)][-6:]
    words = _with_name(words) if separated else _with_known_name(words)
    if not words:
        return "", separated, bare
    return " ".join(words), separated, of_group.group() if of_group else bare[: bare.rfind(words[0])]


def _with_name(words: list[str]) -> list[str]:
    """`INFO root average loss` -> `average loss`: the last word, and the words before it that qualify it."""
    for count in range(min(3, len(words)), 1, -1):
        if kind_of(" ".join(words[-count:])) in (Kind.STEP, Kind.BATCH, Kind.EPOCH):
            return words[-count:]
    first = len(words) - 1
    while first > 0 and words[first - 1].lower().strip("._'") in QUALIFIERS:
        first -= 1
    return words[max(first, 0) :]


def _with_known_name(words: list[str]) -> list[str]:
    """Without a sign between name and number the last word has to be one of those that name a curve or a step."""
    if words and words[-1].lower() in ("is", "was"):
        words = words[:-1]
    words = _with_name(words)
    return (
        words
        if words and kind_of(words[-1]) not in (Kind.UNKNOWN, Kind.NEVER) or len(words) > 1 and _known(words)
        else []
    )


def _known(words: list[str]) -> bool:
    return kind_of(" ".join(words)) not in (Kind.UNKNOWN, Kind.NEVER) and kind_of(words[-1]) is not Kind.NEVER


def _group(name: str, before: str) -> tuple[str | None, bool]:
    for word in name.lower().split()[:-1]:
        word = word.strip(".")
        if word in HELD_OUT or word in TRAINING:
            return HELD_OUT.get(word, "train"), True
    found = _GROUP.findall(before.lower())
    return (HELD_OUT.get(found[-1], "train"), False) if found else (None, False)
