from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.recipes import CATALOG, check, held_out_target, load, steps_for, total_steps

ROOT = Path(__file__).parents[3]


def resolved(base_model: str | None = None, **given: Any) -> dict[str, Any]:
    values, errors = check("language", given, base_model)
    assert errors == {}
    return values


def refused(**given: Any) -> dict[str, str]:
    return check("language", given)[1]


def test_nothing_given_is_lora_for_one_epoch() -> None:
    assert resolved() == {
        "method": "lora", "epochs": 1.0, "max_steps": None, "learning_rate": 2e-4, "lora_rank": 16, "batch_size": 8,
        "max_length": 512, "truncation": "keep_tail", "seed": 42,
    }  # fmt: skip


def test_full_training_has_no_rank_and_takes_smaller_steps() -> None:
    values = resolved(method="full")
    assert values["lora_rank"] is None and values["learning_rate"] == 5e-5


def test_the_untrained_base_takes_larger_steps_unless_told_otherwise() -> None:
    assert resolved("yard-tiny")["learning_rate"] == 0.003
    assert resolved("yard-tiny", method="full")["learning_rate"] == 0.002
    assert resolved("yard-tiny", learning_rate=0.001)["learning_rate"] == 0.001


def test_steps_replace_epochs() -> None:
    values = resolved(max_steps=60)
    assert values["max_steps"] == 60 and values["epochs"] is None


@pytest.mark.parametrize(
    "field, value",
    [
        ("learning_rate", -1), ("learning_rate", 0), ("learning_rate", math.nan), ("learning_rate", math.inf),
        ("learning_rate", "0.001"), ("learning_rate", True), ("learning_rate", 1.5), ("epochs", 0), ("epochs", 1001),
        ("epochs", -math.inf), ("max_steps", 0), ("max_steps", 2.5), ("max_steps", 1_000_001), ("max_steps", 10**400),
        ("batch_size", False), ("batch_size", 1025), ("max_length", 15), ("max_length", [512]), ("lora_rank", 257),
        ("seed", -1), ("seed", 2**32), ("method", "qlora"), ("method", 1), ("truncation", "keep_head"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_by_its_field(field: str, value: object) -> None:
    errors = refused(**{field: value})
    assert list(errors) == [field]
    assert errors[field].endswith(".")


def test_a_sentence_names_the_range() -> None:
    assert refused(learning_rate=-1)["learning_rate"] == "Learning rate must be a number from 0.00000001 to 1."
    assert refused(max_steps=0)["max_steps"] == "Steps must be a whole number from 1 to 1,000,000."


def test_whole_numbers_may_come_as_floats_of_json() -> None:
    assert resolved(batch_size=4.0)["batch_size"] == 4


def test_unknown_settings_are_refused() -> None:
    assert "There is no setting called optimiser" in refused(optimiser="sgd")["optimiser"]


def test_epochs_and_steps_together_are_refused() -> None:
    assert list(refused(epochs=1, max_steps=10)) == ["max_steps"]


def test_a_rank_without_lora_is_refused() -> None:
    assert list(refused(method="full", lora_rank=8)) == ["lora_rank"]


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "method": st.sampled_from(["lora", "full"]),
        "learning_rate": st.floats(1e-8, 1.0),
        "batch_size": st.integers(1, 1024),
        "max_length": st.integers(16, 32_768),
        "truncation": st.sampled_from(["keep_tail", "drop", "split"]),
        "seed": st.integers(0, 2**32 - 1),
    },
)


@given(VALUES, st.one_of(st.just({}), st.builds(lambda n: {"max_steps": n}, st.integers(1, 1_000_000))))
def test_resolved_parameters_resolve_to_themselves(values: dict[str, Any], end: dict[str, int]) -> None:
    once = resolved(**values, **end)
    assert resolved(**once) == once


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner), max_leaves=3
)


@given(st.dictionaries(st.sampled_from([p.name for p in CATALOG["language"].parameters]) | st.text(), JSON))
def test_whatever_comes_is_resolved_or_refused_with_sentences(given: dict[str, Any]) -> None:
    values, errors = check("language", given)
    assert all(text.endswith(".") for text in errors.values())
    if not errors:
        assert math.isfinite(values["learning_rate"]) and isinstance(values["batch_size"], int)


def test_every_parameter_explains_itself() -> None:
    for parameter in CATALOG["language"].parameters:
        assert parameter.label and parameter.explanation.endswith(".")
        assert bool(parameter.choices) == (parameter.kind == "choice")


def test_steps_follow_from_rows() -> None:
    values = resolved(batch_size=8)
    assert total_steps(4000, values) == 490  # 80 rows are held out
    assert total_steps(50, values) == 7
    assert total_steps(1, values) == 1
    assert total_steps(4000, resolved(max_steps=60)) == 60


def test_part_of_an_epoch_is_part_of_its_steps() -> None:
    assert steps_for(80, resolved(epochs=1.1)) == 11
    assert steps_for(80, resolved(epochs=0.001)) == 1


def test_held_out_are_two_percent_within_bounds() -> None:
    assert [held_out_target(rows) for rows in (99, 100, 4000, 10_000, 1_000_000)] == [0, 2, 80, 200, 200]


def test_an_unknown_recipe_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        check("sculpture", {})
    with pytest.raises(KeyError):
        load("sculpture")


def test_the_catalogue_needs_only_the_standard_library() -> None:
    code = (
        "import sys; import agent.recipes, agent.errors;"
        "assert not {'torch', 'transformers', 'numpy', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
