"""Rule 5: an answer is never dropped in silence."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.training.truncation import CUT, DROPPED, SHORTENED, SPLIT, WHOLE, Piece, fit

BEGIN = 7


def piece(*stretches: tuple[int, bool]) -> Piece:
    """Stretches of (length, supervised), after the token that begins every text; tokens are numbered from 100."""
    mask = np.concatenate([[False], *(np.full(length, taught) for length, taught in stretches)]).astype(bool)
    return Piece(np.array([BEGIN, *range(100, 100 + len(mask) - 1)], dtype=np.int32), mask)


PROMPT, ANSWER = False, True


def test_what_fits_stays_whole_without_what_follows_the_answer() -> None:
    [kept], outcome = fit(piece((5, PROMPT), (3, ANSWER), (4, PROMPT)), 9, "keep_tail", BEGIN, prose=False)
    assert outcome == WHOLE
    assert kept.tokens.tolist() == [BEGIN, *range(100, 108)]


def test_keep_tail_leaves_out_the_beginning_of_the_prompt() -> None:
    [kept], outcome = fit(piece((20, PROMPT), (5, ANSWER)), 10, "keep_tail", BEGIN, prose=False)
    assert outcome == SHORTENED
    assert kept.tokens.tolist() == [BEGIN, *range(116, 125)]
    assert kept.supervised.sum() == 5


def test_an_answer_too_long_by_itself_is_cut_at_its_end_and_keeps_some_prompt() -> None:
    [kept], outcome = fit(piece((20, PROMPT), (50, ANSWER)), 17, "keep_tail", BEGIN, prose=False)
    assert outcome == CUT
    assert kept.tokens.tolist() == [BEGIN, *range(116, 132)]
    assert kept.supervised.sum() == 12


def test_an_earlier_answer_that_lost_its_beginning_is_context() -> None:
    row = piece((10, PROMPT), (10, ANSWER), (3, PROMPT), (4, ANSWER))
    [kept], _ = fit(row, 13, "keep_tail", BEGIN, prose=False)
    assert kept.tokens[kept.supervised].tolist() == [123, 124, 125, 126]


def test_an_earlier_answer_that_is_whole_stays_learnt() -> None:
    row = piece((10, PROMPT), (2, ANSWER), (3, PROMPT), (4, ANSWER))
    [kept], _ = fit(row, 12, "keep_tail", BEGIN, prose=False)
    assert kept.supervised.sum() == 6


def test_drop_leaves_the_row_out() -> None:
    assert fit(piece((20, PROMPT), (5, ANSWER)), 10, "drop", BEGIN, prose=False) == ([], DROPPED)


def test_split_keeps_every_target_once() -> None:
    row = piece((20, PROMPT), (50, ANSWER))
    windows, outcome = fit(row, 16, "split", BEGIN, prose=False)
    assert outcome == SPLIT
    taught = np.concatenate([window.tokens[window.supervised] for window in windows])
    assert taught.tolist() == row.tokens[row.supervised].tolist()


def test_plain_text_is_split_where_a_prompt_would_be_shortened() -> None:
    windows, outcome = fit(piece((50, ANSWER)), 16, "keep_tail", BEGIN, prose=True)
    assert outcome == SPLIT
    assert sum(int(window.supervised.sum()) for window in windows) == 50


STRETCHES = st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=6).filter(
    lambda stretches: any(taught for _, taught in stretches)
)


@given(STRETCHES, st.integers(16, 60), st.sampled_from(["keep_tail", "drop", "split"]), st.booleans(), st.booleans())
def test_nothing_is_longer_than_asked_and_something_is_always_learnt(
    stretches: list[tuple[int, bool]], longest: int, policy: str, prose: bool, begins: bool
) -> None:
    row = piece(*stretches)
    before = row.supervised.copy()
    pieces, outcome = fit(row, longest, policy, BEGIN if begins else None, prose)
    assert (row.supervised == before).all()
    assert bool(pieces) == (outcome != DROPPED)
    for part in pieces:
        assert len(part.tokens) == len(part.supervised) <= longest
        assert part.supervised.any() and not part.supervised[0]
    if outcome == SHORTENED and not prose:
        last = row.tokens[: np.flatnonzero(row.supervised)[-1] + 1][-1]
        assert pieces[0].tokens[-1] == last
