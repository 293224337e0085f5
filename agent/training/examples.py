"""Rows become examples: rendered and tokenised once, with a mask of what is learnt, shortened, counted, held out."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from agent.errors import JobFailed
from agent.recipes import held_out_target
from agent.training import truncation
from agent.training.templates import Rendered, Renderer, UnusableRow

_TOGETHER = 256
_MOST_REFUSED = 0.01
_NAMED_LINES = 5


class Row(Protocol):
    """What is read from a data file: a conversation or a text, and the line it begins on."""

    @property
    def line(self) -> int: ...
    @property
    def messages(self) -> list[dict[str, Any]] | None: ...
    @property
    def text(self) -> str | None: ...


@dataclass
class Examples:
    """All examples of a job in flat arrays, so that millions of them stay small and quick to index.

    Example i is tokens[offsets[i]:offsets[i + 1]]; `supervised` runs beside it. `rows[i]` counts the rows it comes
    from, `lines[i]` is where that row begins in the file, and `keys[i]` is the same for rows that say the same
    thing.
    """

    tokens: array[int] = field(default_factory=lambda: array("i"))
    supervised: bytearray = field(default_factory=bytearray)
    offsets: array[int] = field(default_factory=lambda: array("q", [0]))
    rows: array[int] = field(default_factory=lambda: array("q"))
    lines: array[int] = field(default_factory=lambda: array("q"))
    keys: array[int] = field(default_factory=lambda: array("Q"))
    counts: Counter[str] = field(default_factory=Counter)
    refused: list[tuple[int, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.lines)

    def add(self, piece: truncation.Piece, row: int, line: int, key: int) -> None:
        """Append one example."""
        self.tokens.frombytes(np.ascontiguousarray(piece.tokens, dtype=np.int32).tobytes())
        self.supervised += np.ascontiguousarray(piece.supervised, dtype=np.bool_).tobytes()
        self.offsets.append(len(self.tokens))
        self.rows.append(row)
        self.lines.append(line)
        self.keys.append(key)

    def piece(self, index: int) -> truncation.Piece:
        """Tokens and mask of one example, as views."""
        start, stop = self.offsets[index], self.offsets[index + 1]
        tokens = np.frombuffer(self.tokens, dtype=np.int32)[start:stop]
        return truncation.Piece(tokens, np.frombuffer(self.supervised, dtype=np.bool_)[start:stop])

    def length(self, index: int) -> int:
        """Tokens of one example."""
        return self.offsets[index + 1] - self.offsets[index]

    def lengths(self) -> np.ndarray:
        """Tokens per example: int64 [examples]."""
        return np.diff(np.frombuffer(self.offsets, dtype=np.int64))

    def targets(self) -> np.ndarray:
        """Supervised tokens per example: int64 [examples]."""
        totals = np.concatenate([[0], np.cumsum(np.frombuffer(self.supervised, dtype=np.bool_), dtype=np.int64)])
        return np.diff(totals[np.frombuffer(self.offsets, dtype=np.int64)])

    def fingerprint(self) -> str:
        """SHA-256 over every token and every mask bit: equal only for the same data, template and truncation."""
        digest = hashlib.sha256()
        for column in (self.tokens, self.supervised, self.offsets):
            digest.update(memoryview(column).cast("B"))
        return digest.hexdigest()

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the training examples and of the held-out ones, each in the order of the file.

        The rows with the smallest keys are held out, so it does not depend on their order or on a seed. Rows that say
        the same, and pieces of one row, share a key and stay on one side.
        """
        keys = np.frombuffer(self.keys, dtype=np.uint64)
        _, first_pieces = np.unique(np.frombuffer(self.rows, dtype=np.int64), return_index=True)
        distinct, rows = np.unique(keys[first_pieces], return_counts=True)
        wanted = held_out_target(int(rows.sum()))
        chosen = []
        for key, count in zip(distinct, rows, strict=True):
            if wanted <= 0:
                break
            if count <= wanted:
                chosen.append(key)
                wanted -= count
        held = np.isin(keys, np.array(chosen, dtype=np.uint64))
        return np.flatnonzero(~held), np.flatnonzero(held)


def build(
    rows: Iterable[Row],
    tokenizer: PreTrainedTokenizerBase,
    longest: int,
    policy: str,
    between: Callable[[], None] = lambda: None,
) -> Examples:
    """Turn rows into examples of at most `longest` tokens.

    `between` is called every few hundred rows and may raise to end the work. JobFailed (data) if more than 1 % of the
    rows have nothing to learn in them, or if no example is left.
    """
    examples = Examples()
    renderer = Renderer(tokenizer)
    used = 0
    for chunk in _chunks(rows, _TOGETHER):
        between()
        examples.counts["rows"] += len(chunk)
        for row, piece in _tokenise(chunk, renderer, tokenizer, examples.refused):
            used += 1
            pieces, outcome = truncation.fit(piece, longest, policy, tokenizer.bos_token_id, prose=row.messages is None)
            examples.counts[outcome] += 1
            key = _key(row)
            for part in pieces:
                examples.add(part, used, row.line, key)
    _refuse_hopeless(examples, longest)
    return examples


def explain_truncation(counts: Counter[str], longest: int) -> str:
    """What the limit on length did, as a sentence."""
    told = {
        truncation.SHORTENED: "the beginning of the prompt was left out of {}",
        truncation.CUT: "the answer was too long by itself and was cut at its end in {}",
        truncation.DROPPED: "{} were left out",
        truncation.SPLIT: "{} were split into several examples",
    }
    parts = [sentence.format(f"{counts[outcome]:,}") for outcome, sentence in told.items() if counts[outcome]]
    if not parts:
        return f"Every row fits into {longest:,} tokens."
    longer = sum(counts[outcome] for outcome in told)
    return f"{longer:,} of {counts['rows']:,} rows are longer than {longest:,} tokens: {', '.join(parts)}."


def spans(piece: truncation.Piece, tokenizer: PreTrainedTokenizerBase, most: int = 4096) -> list[list[Any]]:
    """An example as a person reads it: [text, supervised] for each stretch, of at most `most` tokens together."""
    tokens, supervised = piece.tokens[:most], piece.supervised[:most]
    borders = [0, *(np.flatnonzero(np.diff(supervised)) + 1).tolist(), len(tokens)]
    return [
        [tokenizer.decode(tokens[start:stop].tolist(), clean_up_tokenization_spaces=False), bool(supervised[start])]
        for start, stop in zip(borders, borders[1:], strict=False)
    ]


def _tokenise(
    rows: list[Row], renderer: Renderer, tokenizer: PreTrainedTokenizerBase, refused: list[tuple[int, str]]
) -> Iterator[tuple[Row, truncation.Piece]]:
    """Whole renderings go through the tokenizer, as they will at inference; the mask follows from the offsets."""
    rendered: list[tuple[Row, Rendered]] = []
    for row in rows:
        try:
            rendered.append((row, _render(row, renderer)))
        except UnusableRow as reason:
            refused.append((row.line, str(reason)))
    if not rendered:
        return
    texts = [text.text for _, text in rendered]
    batch = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    for (row, text), encoding in zip(rendered, batch.encodings or [], strict=True):
        tokens = np.array(encoding.ids, dtype=np.int32)
        supervised = np.zeros(len(tokens), dtype=np.bool_)
        for start, end in text.spans:
            supervised[_token_at(encoding, start, end) : _token_at(encoding, end, len(text.text))] = True
        supervised[:1] = False
        if supervised.any():
            yield row, truncation.Piece(tokens, supervised)
        else:
            refused.append((row.line, "it is empty once it is tokenised"))


def _render(row: Row, renderer: Renderer) -> Rendered:
    return renderer.prose(row.text or "") if row.messages is None else renderer.render(row.messages)


def _token_at(encoding: Any, character: int, stop: int) -> int:
    """The first token that begins at or after a character; characters before `stop` that no token covers are skipped.

    A token that began earlier and reaches over the border belongs to what stands before it.
    """
    while character < stop:
        token = encoding.char_to_token(character)
        if token is not None:
            return int(token) + int(encoding.token_to_chars(token)[0] < character)
        character += 1
    return len(encoding.ids)


def _key(row: Row) -> int:
    """64 bits of a hash over what the row says: capitals, spacing and forms of the same character do not count."""
    parts = [row.text] if row.messages is None else [f"{m['role']}\n{m['content']}" for m in row.messages]
    said = json.dumps([" ".join(unicodedata.normalize("NFKC", part or "").casefold().split()) for part in parts])
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:8], "big")


def _refuse_hopeless(examples: Examples, longest: int) -> None:
    total, refused = examples.counts["rows"], examples.refused
    if not total:
        raise JobFailed("data", "The data file has no usable row.", "Choose a data set with at least one row.")
    if len(refused) > total * _MOST_REFUSED:
        named = "; ".join(f"line {line}: {reason}" for line, reason in refused[:_NAMED_LINES])
        raise JobFailed(
            "data",
            f"{len(refused):,} of {total:,} rows have nothing to learn in them. {named}.",
            "Mend or remove these rows, or choose a base model whose chat template fits them. "
            "Up to one row in a hundred is left out without stopping the job.",
        )
    if not len(examples):
        raise JobFailed(
            "data",
            f"Every one of the {total:,} rows is longer than {longest:,} tokens, so all of them were left out.",
            "Raise the longest example, or choose keep_tail or split for rows that are too long.",
        )


def _chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk
