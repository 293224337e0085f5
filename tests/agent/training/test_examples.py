"""Rows become examples: refused rows, what truncation did, and the held-out split (rules 2, 5 and 6)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from agent.errors import JobFailed
from agent.training import yard_tiny
from agent.training.examples import Examples, build, explain_truncation, spans
from tests.agent.training.small_models import chat

BYTES = yard_tiny.tokenizer()


@dataclass
class Line:
    messages: list[dict[str, Any]] | None = None
    text: str | None = None
    line: int = 1


def answered(number: int, prompt: str = "What is it?", answer: str | None = None) -> Line:
    return Line(chat(prompt, answer or f"It is {number}."), line=number)


UNANSWERED = chat("A question without an answer?")


def made(rows: list[Line], longest: int = 512, policy: str = "keep_tail") -> Examples:
    return build(rows, BYTES, longest, policy)


def test_an_example_knows_the_line_of_its_row() -> None:
    examples = made([answered(3), answered(8)])
    assert list(examples.lines) == [3, 8] and len(examples) == 2
    assert [examples.length(0), examples.length(1)] == examples.lengths().tolist()


def test_targets_count_the_supervised_tokens() -> None:
    examples = made([answered(1, answer="abc"), answered(2, answer="é")])
    assert examples.targets().tolist() == [4, 3]  # the bytes of the answer and its end token


def test_one_unusable_row_in_a_hundred_is_left_out_by_line() -> None:
    rows = [answered(n) for n in range(1, 100)] + [Line(UNANSWERED, line=100)]
    examples = made(rows)
    assert len(examples) == 99
    assert [line for line, _ in examples.refused] == [100]


def test_more_unusable_rows_fail_the_job_and_name_lines_and_reason() -> None:
    rows = [answered(n) for n in range(1, 99)] + [Line(UNANSWERED, line=99), Line(UNANSWERED, line=100)]
    with pytest.raises(JobFailed) as failure:
        made(rows)
    assert failure.value.cause == "data"
    assert failure.value.message.startswith("2 of 100 rows have nothing to learn in them. line 99: no answer")


def test_no_row_at_all_fails_the_job() -> None:
    with pytest.raises(JobFailed, match="no usable row"):
        made([])


def test_dropping_every_row_fails_the_job() -> None:
    with pytest.raises(JobFailed, match="Every one of the 2 rows is longer than 16 tokens"):
        made([answered(1), answered(2)], longest=16, policy="drop")


def test_what_truncation_did_is_told_by_numbers() -> None:
    rows = [answered(1), answered(2, prompt="Long " * 20), answered(3, answer="long " * 20)]
    counts = made(rows, longest=48).counts
    assert (counts["whole"], counts["shortened"], counts["cut"]) == (1, 1, 1)
    assert explain_truncation(counts, 48) == (
        "2 of 3 rows are longer than 48 tokens: the beginning of the prompt was left out of 1, "
        "the answer was too long by itself and was cut at its end in 1."
    )
    assert explain_truncation(made(rows).counts, 512) == "Every row fits into 512 tokens."


def test_the_work_can_be_ended_between_rows() -> None:
    def ended() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        build((answered(n) for n in range(10**9)), BYTES, 512, "keep_tail", between=ended)


def test_no_row_is_held_out_of_a_small_data_set() -> None:
    training, held_out = made([answered(n) for n in range(99)]).split()
    assert len(training) == 99 and len(held_out) == 0


def test_two_percent_are_held_out_whatever_the_order_of_the_rows() -> None:
    rows = [answered(n) for n in range(400)]
    examples = made(rows)
    training, held_out = examples.split()
    assert len(held_out) == 8 and len(training) == 392
    random.Random(1).shuffle(rows)
    shuffled = made(rows)
    assert {shuffled.lines[i] for i in shuffled.split()[1]} == {examples.lines[i] for i in held_out}


def test_rows_that_say_the_same_stay_on_one_side() -> None:
    forms = ("It is {}.", "it  IS {}.", "Ｉt is {}. ")  # spacing, capitals, a full-width letter
    rows = [answered(3 * n + k, answer=form.format(n)) for n in range(200) for k, form in enumerate(forms)]
    examples = made(rows)
    training, held_out = examples.split()
    assert 0 < len(held_out) <= 12
    sides = [{examples.lines[i] // 3 for i in side} for side in (training, held_out)]
    assert not sides[0] & sides[1]


def test_pieces_of_one_row_stay_on_one_side() -> None:
    rows = [answered(n, answer=f"{n} " * 40) for n in range(200)]
    examples = made(rows, longest=64, policy="split")
    training, held_out = examples.split()
    assert len(held_out) > 4
    assert not {examples.rows[i] for i in training} & {examples.rows[i] for i in held_out}


def test_rows_of_one_line_are_still_different_rows() -> None:
    """A JSON file may have all its rows on its first line."""
    rows = [Line(chat("?", f"It is {n}."), line=1) for n in range(200)]
    assert len(made(rows).split()[1]) == 4


def test_a_row_repeated_too_often_is_not_held_out() -> None:
    rows = [answered(n, answer="Always the same.") for n in range(300)]
    training, held_out = made(rows).split()
    assert len(training) == 300 and len(held_out) == 0


def test_the_fingerprint_is_of_tokens_mask_and_borders() -> None:
    same = [answered(1), answered(2)]
    assert made(same).fingerprint() == made(same).fingerprint()
    assert made(same).fingerprint() != made([answered(1), answered(3)]).fingerprint()
    unlearnt = chat("What is it?", "It is 1.", "What is it?", "It is 2.")
    relabelled = [dict(unlearnt[0]), {**unlearnt[1], "weight": 0}, *unlearnt[2:]]
    assert made([Line(unlearnt)]).fingerprint() != made([Line(relabelled)]).fingerprint()


def test_an_example_is_shown_with_what_is_learnt() -> None:
    examples = made([answered(1, prompt="Wie heißt du?", answer="Müller")])
    assert spans(examples.piece(0), BYTES) == [
        ["<|begin|>user\nWie heißt du?<|end|>assistant\n", False],
        ["Müller<|end|>", True],
    ]
    assert sum(len(text) for text, _ in spans(examples.piece(0), BYTES, most=12)) <= 20


def test_millions_of_examples_would_stay_small() -> None:
    examples = made([answered(n) for n in range(50)])
    bytes_per_token = (len(examples.tokens) * 4 + len(examples.supervised)) / len(examples.tokens)
    assert bytes_per_token == 5
    assert examples.piece(0).tokens.dtype == np.int32
