"""A quality score for a data set, with the parts it is made of, from one pass over its rows.

The score begins at 100; each part takes away up to its weight (`_WEIGHTS`), in proportion to how bad it is.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from agent.formats import Row

HASHES_KEPT = 500_000
"""Distinct rows that are remembered to find repeated ones; above that a sample of them is (about 60 MB)."""

BARS = 20
"""Bars of the chart of lengths; the last one holds all rows longer than the 99th percentile."""

_WEIGHTS = {"duplicates": 70, "empty_answers": 70, "cut_answers": 40, "length_spread": 20}
_LABELS = {
    "duplicates": "Duplicates",
    "empty_answers": "Empty answers",
    "cut_answers": "Cut answers",
    "length_spread": "Length spread",
}
_WORST_SHARE = {"duplicates": 0.5, "empty_answers": 0.1, "cut_answers": 0.5}
"""The share of rows or answers at which a part has the score 0; in between it is linear."""

_EVEN_SPREAD, _WORST_SPREAD = 4.0, 40.0
"""95th percentile over median of the lengths: up to the first the score is 100, from the second on 0."""

_PLACEHOLDERS = frozenset(("n/a", "null", "none", "nan", "undefined", "tbd", "todo", "-", "--", "...", "\u2026", "?"))


class Quality:
    """Collects figures over rows: `add` each row once, then ask for the `result`.

    Memory is bounded whatever the number of rows: 64-bit hashes of at most `HASHES_KEPT` rows, and
    lengths counted to three digits.
    """

    def __init__(self) -> None:
        self._rows = 0
        self._answers = 0
        self._empty = 0
        self._cut = 0
        self._lengths: Counter[int] = Counter()
        self._longest = 0
        self._seen = _Repeats(HASHES_KEPT)

    def add(self, row: Row) -> None:
        """Counts one row. Answers are the messages of the assistant that are learned from."""
        self._rows += 1
        self._seen.add(_normalised(row))
        length = sum(len(text) for text in contents(row))
        self._lengths[_three_digits(length)] += 1
        self._longest = max(self._longest, length)
        for message in row.messages or []:
            if message["role"] == "assistant" and message.get("weight", 1):
                self._answers += 1
                if is_empty(message["content"]):
                    self._empty += 1
                elif is_cut(message["content"]):
                    self._cut += 1

    def result(self) -> dict[str, Any]:
        """`{"score": 0..100, "parts": [...], "histogram": {"edges", "counts"}}`.

        A part is `{"name", "label", "value", "score": 0..100, "explanation"}`; its value is a share from 0 to
        1, for `length_spread` a ratio. Plain text has no answers, so it has two parts only. Edges are
        in characters, one more than there are counts. Without rows the score is 0 and the lists are empty.
        """
        if not self._rows:
            return {"score": 0, "parts": [], "histogram": {"edges": [], "counts": []}}
        parts = [self._duplicates()]
        if self._answers:
            parts += [self._empty_answers(), self._cut_answers()]
        parts.append(self._length_spread())
        lost = sum(_WEIGHTS[part["name"]] * (100 - part["score"]) / 100 for part in parts)
        return {"score": max(0, round(100 - lost)), "parts": parts, "histogram": self._histogram()}

    def _duplicates(self) -> dict[str, Any]:
        share = self._seen.share()
        about = "About " if self._seen.sampled else ""
        count = f"{about}{round(share * self._rows):,} of {self._rows:,} rows ({_percent(share)})"
        return _share_part(
            "duplicates",
            share,
            f"{count} repeat another row, apart from case and spaces; a model learns repeated rows by heart.",
        )

    def _empty_answers(self) -> dict[str, Any]:
        share = self._empty / self._answers
        return _share_part(
            "empty_answers",
            share,
            f"{self._empty:,} of {self._answers:,} answers ({_percent(share)}) are blank or a placeholder such as N/A.",
        )

    def _cut_answers(self) -> dict[str, Any]:
        share = self._cut / self._answers
        return _share_part(
            "cut_answers",
            share,
            f"{self._cut:,} of {self._answers:,} answers ({_percent(share)}) seem to break off: they end "
            "inside a sentence, a bracket or a block of code; numbers, lists and labels count as whole.",
        )

    def _length_spread(self) -> dict[str, Any]:
        middle, long = self._percentile(0.5), self._percentile(0.95)
        ratio = long / max(middle, 1)
        spread = math.log(max(ratio, _EVEN_SPREAD) / _EVEN_SPREAD) / math.log(_WORST_SPREAD / _EVEN_SPREAD)
        return {
            "name": "length_spread",
            "label": _LABELS["length_spread"],
            "value": round(ratio, 2),
            "score": max(0, round(100 * (1 - spread))),
            "explanation": f"Half of the rows have up to {middle:,} characters and 95 % up to {long:,}, "
            f"{ratio:.1f} times as many; up to {_EVEN_SPREAD:g} times is even, much longer rows cost memory.",
        }

    def _percentile(self, share: float) -> int:
        """The length that at least `share` of the rows do not exceed."""
        wanted, below = share * self._rows, 0
        for length, count in sorted(self._lengths.items()):
            below += count
            if below >= wanted:
                return length
        return 0

    def _histogram(self) -> dict[str, list[int]]:
        """Bars of equal width up to the 99th percentile, and when there are longer rows one more for them."""
        width = _round_width((self._percentile(0.99) + 1) / (BARS - 1))
        full = self._percentile(0.99) // width + 1
        edges = [number * width for number in range(full + 1)]
        if self._longest > edges[-1]:
            edges.append(self._longest)
        counts = [0] * (len(edges) - 1)
        for length, count in self._lengths.items():
            counts[min(length // width, len(counts) - 1)] += count
        return {"edges": edges, "counts": counts}


class _Repeats:
    """Counts how often each content occurs, in bounded memory.

    When there are too many distinct contents, only those whose hash ends in `_zeros` zero bits are counted:
    every copy of a content is in the sample or none is, so the share found there is that of the whole.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._zeros = 0
        self._counts: dict[int, int] = {}

    @property
    def sampled(self) -> bool:
        return self._zeros > 0

    def add(self, content: str) -> None:
        digest = int.from_bytes(blake2b(content.encode(), digest_size=8).digest(), "big")
        if digest & ((1 << self._zeros) - 1):
            return
        self._counts[digest] = self._counts.get(digest, 0) + 1
        while len(self._counts) > self._limit:
            self._zeros += 1
            mask = (1 << self._zeros) - 1
            self._counts = {digest: count for digest, count in self._counts.items() if not digest & mask}

    def share(self) -> float:
        """The share of rows that repeat a row which is there already."""
        total = sum(self._counts.values())
        return (total - len(self._counts)) / total if total else 0.0


def contents(row: Row) -> Iterator[str]:
    """The texts of a row, without its roles."""
    if row.text is not None:
        yield row.text
    for message in row.messages or []:
        yield message["content"]


def count_tokens(row: Row) -> int:
    """Tokens of a row for the tokenizer of `yard-tiny`, whose tokens are the bytes of the text in UTF-8.

    What a chat template adds is not counted. Other tokenizers make fewer tokens of the same text, for
    English about a quarter as many.
    """
    return sum(len(text) if text.isascii() else len(text.encode()) for text in contents(row))


def is_empty(answer: str) -> bool:
    """Whether an answer says nothing: blank, or one of the placeholders that exports leave behind."""
    return answer.strip().lower() in _PLACEHOLDERS or not answer.strip()


_CODE = re.compile(
    r"^\s*(def |class |import |from \S+ import|return\b|elif |else:|try:|async |@\w+|#include|function\b|"
    r"const |let |var |public |private |static |func |fn |package |using |SELECT\b|INSERT\b|</?\w+[^>]*>|"
    r"[})\]]+[;,]?$)"
    r"|[;{}]$|^\w[\w.\[\]]* [-+*/|]?= \S|\w\(.*\)$",
    re.MULTILINE,
)
_STRING = re.compile(r""" "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' """, re.VERBOSE)
_GOES_ON = re.compile(r"(?:[,:\\(\[{\u3001\uff0c]|\s[=+*/&|<-]|[^\W\d_]-)$")
_LIST_LINE = re.compile(r"^\s*(?:[-*+\u2022#>|]|\d+[.)]|[A-Za-z][.)])\s*\S?")
_SENTENCE_END = re.compile(r"[.!?\u2026][\"'\u201d\u2019)\]*_]*(?:\s|$)|[\u3002\uff01\uff1f]")
_NEVER_LAST = frozenset(
    (
        *(
            "a",
            "an",
            "the",
            "and",
            "or",
            "but",
            "as",
            "at",
            "because",
            "by",
            "for",
            "from",
            "if",
            "in",
            "into",
        ),
        *("is", "are", "was", "were", "of", "on", "our", "than", "that", "their", "to", "when", "where"),
        *("which", "while", "with", "your"),
    )
)
_WORDS_OF_A_SENTENCE = 4


def is_cut(answer: str) -> bool:
    """Whether an answer seems to break off. The rule, in this order:

    1. A block of code fenced by ``` that is never closed is cut.
    2. What ends in a comma, a colon, an opening bracket, an operator or a hyphenated half word is cut.
    3. Code (outside fences) is cut when it opens more brackets than it closes, strings left out, and
       whole otherwise.
    4. What ends in anything but a letter is whole: a full stop, a closing bracket or quotation mark, and
       also a digit, since a cut number cannot be told from a whole one ("#### 42").
    5. A last line that is an item of a list, a heading or a row of a table, or that ends in a path or
       an address, is whole; so is one of a text most of whose lines end without punctuation (verse, names).
    6. What ends in an English word that no sentence ends in ("and", "the", "of") is cut.
    7. What is left ends in a word: cut when a sentence was ended before on its last line, or when the
       other lines end as sentences; whole otherwise, since a label ("Paris") needs no full stop.
    """
    text = answer.rstrip()
    prose = text
    if "```" in text:
        if len(re.findall(r"^\s*```", text, re.MULTILINE)) % 2:
            return True
        prose = re.sub(r"^\s*```.*?^\s*```[^\n]*$", "", text, flags=re.MULTILINE | re.DOTALL).rstrip()
    if not prose or text.endswith("```"):
        return False
    if _GOES_ON.search(prose[-8:]):
        return True
    ends_in_word, open_brackets = prose[-1].isalpha(), _opens_more(prose)
    if (ends_in_word or open_brackets) and _is_code(prose):
        return open_brackets and _opens_more(_STRING.sub("", prose))
    return ends_in_word and _breaks_off(prose)


def _is_code(text: str) -> bool:
    """Whether at least a third of the lines read like code."""
    return len(_CODE.findall(text)) * 3 >= sum(1 for line in text.split("\n") if line.strip())


def _opens_more(text: str) -> bool:
    return sum(text.count(mark) for mark in "([{") > sum(text.count(mark) for mark in ")]}")


def _breaks_off(prose: str) -> bool:
    """Rules 5 to 7 of `is_cut`, for prose that ends in a letter."""
    *others, last = [line.rstrip() for line in prose.split("\n") if line.strip()]
    words = last.split()
    if _LIST_LINE.match(last) or re.search(r"[/\\@_.]\w", words[-1]):
        return False
    ended = [line.endswith(":") or bool(_SENTENCE_END.search(line[-3:])) for line in others]
    if others and sum(ended) * 2 < len(others):
        return False
    if len(words) >= _WORDS_OF_A_SENTENCE and words[-1].lower() in _NEVER_LAST:
        return True
    return bool(_SENTENCE_END.search(last)) or (bool(others) and len(words) >= _WORDS_OF_A_SENTENCE)


def _normalised(row: Row) -> str:
    """The content of a row without differences of case and white space, with the roles of its messages."""
    if row.text is not None:
        return " ".join(row.text.casefold().split())
    return "\n".join(
        f"{message['role']}: {' '.join(message['content'].casefold().split())}" for message in row.messages or []
    )


def _share_part(name: str, share: float, explanation: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": _LABELS[name],
        "value": round(share, 4),
        "score": max(0, round(100 * (1 - share / _WORST_SHARE[name]))),
        "explanation": explanation,
    }


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _three_digits(number: int) -> int:
    step: int = 10 ** max(0, len(str(number)) - 3)
    return number // step * step


def _round_width(at_least: float) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50, ... that is not below `at_least`."""
    scale = 1
    while True:
        for digit in (1, 2, 5):
            if digit * scale >= at_least:
                return digit * scale
        scale *= 10
