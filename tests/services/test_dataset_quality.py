"""The quality score of a data set and its parts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.formats import Row
from services import dataset_quality
from services.dataset_quality import Quality, count_tokens, is_cut, is_empty


def pair(prompt: str, answer: str, **more: Any) -> Row:
    return Row(1, messages=[{"role": "user", "content": prompt}, {"role": "assistant", "content": answer, **more}])


def result(*rows: Row) -> dict[str, Any]:
    quality = Quality()
    for row in rows:
        quality.add(row)
    return quality.result()


def part(found: dict[str, Any], name: str) -> dict[str, Any]:
    [one] = [part for part in found["parts"] if part["name"] == name]
    return one


def test_clean_rows_have_the_full_score() -> None:
    found = result(*(pair(f"What is {n} + 1?", f"It is {n + 1}.") for n in range(50)))
    assert found["score"] == 100
    assert [one["name"] for one in found["parts"]] == [
        "duplicates",
        "empty_answers",
        "cut_answers",
        "length_spread",
    ]
    assert all(one["score"] == 100 and one["explanation"].endswith(".") for one in found["parts"])


def test_without_rows_there_is_nothing_to_say() -> None:
    assert result() == {"score": 0, "parts": [], "histogram": {"edges": [], "counts": []}}


def test_duplicates_are_found_apart_from_case_and_spaces() -> None:
    found = result(pair("Name?", "Ann."), pair(" name?", "ANN."), pair("Name?", "Ben."), pair("Name?", "Cleo."))
    assert part(found, "duplicates")["value"] == 0.25
    assert part(found, "duplicates")["explanation"].startswith("1 of 4 rows (25.0 %)")
    assert found["score"] == 65


def test_the_same_words_from_other_roles_are_no_duplicate() -> None:
    asked = Row(1, messages=[{"role": "system", "content": "Name?"}, {"role": "assistant", "content": "Ann."}])
    assert part(result(pair("Name?", "Ann."), asked), "duplicates")["value"] == 0


def test_share_of_duplicates_holds_when_only_a_sample_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_quality, "HASHES_KEPT", 500)
    rows = [pair(f"question {n}", "Yes.") for n in range(4000)]
    found = part(result(*rows, *rows), "duplicates")
    assert found["value"] == 0.5
    assert found["explanation"].startswith("About 4,000 of 8,000 rows")


@pytest.mark.parametrize("answer", ["", " \n", "N/A", "null", "...", "TODO "])
def test_empty_answers(answer: str) -> None:
    assert is_empty(answer)
    found = result(pair("a", answer), *(pair(str(n), "Yes.") for n in range(19)))
    assert part(found, "empty_answers")["value"] == 0.05
    assert part(found, "empty_answers")["score"] == 50


@pytest.mark.parametrize("answer", ["no", "0", "[]", "A", "\N{THUMBS UP SIGN}"])
def test_short_answers_are_not_empty(answer: str) -> None:
    assert not is_empty(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "The capital of France is Paris. It has been",
        "It is the seat of government and of the",
        "Here are the steps:",
        "First, mix the flour,",
        "The result (see the table on the",
        "This is a hyphen-",
        "```python\nx = 1",
        "Use this:\n```\nx = 1\n```\nIt works. That is because",
        "def area(r):\n    return multiply(r, [1, 2",
        "x = [",
    ],
)
def test_answers_that_break_off(answer: str) -> None:
    assert is_cut(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "Paris",
        "positive",
        "It is done.",
        'She said "yes"',
        "Is it (really)",
        "Natalia sold 48 + 24 = 72 clips in all.\n#### 72",
        "The price is 3.50",
        "1. flour\n2. sugar\n3. a pinch of salt",
        "Roses are red\nViolets are blue\nSugar is sweet\nAnd so are you",
        "See https://example.org/page",
        "It is there. Read README.md",
        "```python\nx = 1\n```",
        "def area(r):\n    return r * r",
        "def smile():\n    print(':(')\n    return value",
        "SELECT name FROM members",
        "SGVsbG8gd29ybGQ=",
        "\u6771\u4eac\u3067\u3059\u3002",
        "I like it \N{SLIGHTLY SMILING FACE}",
        "Text.\n\n## Summary",
    ],
)
def test_answers_that_are_whole(answer: str) -> None:
    assert not is_cut(answer)


def test_cut_answers_count_only_what_is_learned() -> None:
    found = result(pair("a", "It is. And it"), pair("b", "It is. And it", weight=0), pair("c", "Yes."))
    assert part(found, "cut_answers")["value"] == 0.5
    assert part(found, "cut_answers")["explanation"].startswith("1 of 2 answers")


def test_plain_text_has_no_answers_to_judge() -> None:
    found = result(Row(1, text="Once upon a time"), Row(3, text="there was a"))
    assert [one["name"] for one in found["parts"]] == ["duplicates", "length_spread"]
    assert found["score"] == 100


def test_length_spread_compares_the_longest_rows_with_the_middle() -> None:
    even = result(*(pair("q", "a" * 99) for _ in range(90)), *(pair("q", "a" * 299) for _ in range(10)))
    assert part(even, "length_spread")["value"] == 3
    assert part(even, "length_spread")["score"] == 100
    uneven = result(*(pair("q", "a" * 99) for _ in range(90)), *(pair("q", "a" * 3999) for _ in range(10)))
    assert part(uneven, "length_spread")["value"] == 40
    assert part(uneven, "length_spread")["score"] == 0
    assert "up to 100 characters and 95 % up to 4,000" in part(uneven, "length_spread")["explanation"]


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60))
@settings(max_examples=100, deadline=None)
def test_histogram_holds_every_row_once(lengths: list[int]) -> None:
    histogram = result(*(Row(1, text="x" * length) for length in lengths))["histogram"]
    edges, counts = histogram["edges"], histogram["counts"]
    assert sum(counts) == len(lengths)
    assert len(edges) == len(counts) + 1
    assert edges == sorted(set(edges))
    assert len(counts) <= dataset_quality.BARS + 1
    assert edges[0] == 0
    assert edges[-1] >= max(lengths)


@given(st.lists(st.tuples(st.text(max_size=30), st.text(max_size=60)), max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_rows_give_scores_within_bounds(pairs: list[tuple[str, str]]) -> None:
    found = result(*(pair(prompt, answer) for prompt, answer in pairs))
    assert 0 <= found["score"] <= 100
    assert all(0 <= one["score"] <= 100 for one in found["parts"])


def test_tokens_are_the_bytes_of_the_contents() -> None:
    assert count_tokens(pair("caf\u00e9", "ok")) == 7
    assert count_tokens(Row(1, text="\N{SLIGHTLY SMILING FACE}a")) == 5
