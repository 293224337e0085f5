"""What happens to an example that is longer than the model is to read. Nothing is lost without being counted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WHOLE, SHORTENED, CUT, DROPPED, SPLIT = "whole", "shortened", "cut", "dropped", "split"


@dataclass(frozen=True)
class Piece:
    """Token ids and, for each, whether it is a target: int32 [tokens], bool [tokens]. The first never is one."""

    tokens: np.ndarray
    supervised: np.ndarray


def fit(piece: Piece, longest: int, policy: str, first_token: int | None, prose: bool) -> tuple[list[Piece], str]:
    """Bring one example to at most `longest` tokens by `policy` and name what happened to it.

    keep_tail keeps the end of the prompt and the whole last answer; only an answer that is too long by itself is
    cut, at its end. drop leaves the example out. split makes consecutive examples that overlap by one token, so
    that each target is kept once. Plain text (`prose`) has no prompt to shorten, so keep_tail splits it.
    `first_token` is the token that begins every text (or None); it stays when the beginning is left out.
    """
    # What follows the last target is never predicted and never looked back at.
    end = int(np.flatnonzero(piece.supervised)[-1]) + 1
    whole = Piece(piece.tokens[:end], piece.supervised[:end])
    if end <= longest:
        return [whole], WHOLE
    if policy == "drop":
        return [], DROPPED
    if policy == "split" or prose:
        return _split(whole, longest), SPLIT
    return _keep_tail(whole, longest, first_token)


def _split(piece: Piece, longest: int) -> list[Piece]:
    windows = []
    for start in range(0, len(piece.tokens) - 1, longest - 1):
        window = _window(piece, start, start + longest)
        if window.supervised.any():
            windows.append(window)
    return windows


def _keep_tail(piece: Piece, longest: int, first_token: int | None) -> tuple[list[Piece], str]:
    end = len(piece.tokens)
    head = int(first_token is not None and piece.tokens[0] == first_token)
    room = longest - head
    answer = int(np.flatnonzero(~piece.supervised)[-1]) + 1
    if end - answer < room:
        start, outcome = end - room, SHORTENED
    else:
        # Not even the answer fits. A quarter of the room stays for the prompt, or the answer would answer nothing.
        start, outcome = answer - min(answer - head, room // 4), CUT
    window = _window(piece, start, start + room, head)
    if piece.supervised[start] and piece.supervised[start - 1]:
        # An earlier answer that has lost its beginning is context now, no longer something to learn.
        lost = int(np.argmin(window.supervised[head:]))
        window.supervised[head : head + lost] = False
    return [window], outcome


def _window(piece: Piece, start: int, stop: int, head: int = 0) -> Piece:
    """Tokens [start, stop), after the first `head` tokens of the example."""
    tokens = np.concatenate([piece.tokens[:head], piece.tokens[start:stop]])
    supervised = np.concatenate([piece.supervised[:head], piece.supervised[start:stop]])
    supervised[0] = False
    return Piece(tokens, supervised)
