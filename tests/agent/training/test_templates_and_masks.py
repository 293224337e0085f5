"""Rules 2 and 4: answers and their end token are learnt and nothing else; rendered and tokenised once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.training import templates, yard_tiny
from agent.training.examples import Examples, build, spans
from agent.training.templates import Renderer, UnusableRow
from tests.agent.training.small_models import CHATML, bpe_tokenizer, chat

BYTES = yard_tiny.tokenizer()
CHATML_TOKENIZER = bpe_tokenizer(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), CHATML)


@dataclass
class Line:
    messages: list[dict[str, Any]] | None = None
    text: str | None = None
    line: int = 1


def learnt(tokenizer: Any, *messages: dict[str, Any], text: str | None = None) -> list[str]:
    """The supervised stretches of one row, as text."""
    examples = build([Line(list(messages) or None, text)], tokenizer, 10_000, "keep_tail")
    return [stretch for stretch, supervised in spans(examples.piece(0), tokenizer) if supervised]


def only(examples: Examples) -> list[int]:
    return examples.piece(0).tokens.tolist()


def test_the_answer_and_its_end_are_learnt() -> None:
    assert learnt(BYTES, *chat("What is 1 + 1?", "It is 2.")) == ["It is 2.<|end|>"]


def test_every_answer_of_a_conversation_is_learnt() -> None:
    system = {"role": "system", "content": "Be brief."}
    assert learnt(BYTES, system, *chat("One?", "1", "Two?", "2")) == ["1<|end|>", "2<|end|>"]


def test_an_answer_of_weight_zero_is_context() -> None:
    messages = chat("One?", "wrong", "Two?", "2")
    messages[1]["weight"] = 0
    assert learnt(BYTES, *messages) == ["2<|end|>"]


def test_a_template_that_trims_contents_keeps_the_mask_exact() -> None:
    assert learnt(CHATML_TOKENIZER, *chat("  One? ", "\n the sum is five  ")) == ["the sum is five<|im_end|>"]


def test_an_end_that_opens_the_next_message_is_learnt() -> None:
    template = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{% endfor %}"
    tokenizer = bpe_tokenizer(("<|user|>", "<|assistant|>", "<|endoftext|>"), template)
    # The last answer is followed by nothing: without an end token the model would never stop.
    assert learnt(tokenizer, *chat("a", "b", "c", "d")) == ["b<|user|>", "d<|endoftext|>"]


def test_a_system_prompt_that_the_template_moves_is_followed() -> None:
    template = (
        "{% for m in messages if m['role'] != 'system' %}{{ m['role'] }}: "
        "{% if loop.first %}{{ messages[0]['content'] }}\n{% endif %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    )
    tokenizer = bpe_tokenizer(template=template)
    system = {"role": "system", "content": "Be kind."}
    assert learnt(tokenizer, system, *chat("Hello", "Good day")) == ["Good day<|endoftext|>"]


def test_answers_that_quote_the_prompt_are_told_from_it() -> None:
    assert learnt(BYTES, *chat("yes", "yes", "yes", "yes")) == ["yes<|end|>", "yes<|end|>"]


def test_plain_text_is_learnt_whole_with_its_end() -> None:
    # The first token has nothing before it that could predict it.
    assert learnt(BYTES, text="Twelve trains.") == ["welve trains.<|end|>"]


def test_plain_text_begins_as_the_tokenizer_begins_any_text() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = bpe_tokenizer(("<s>", "</s>"))
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    examples = build([Line(text="the dog")], tokenizer, 100, "keep_tail")
    assert only(examples) == tokenizer("the dog").input_ids + [tokenizer.eos_token_id]


def test_a_rendering_gets_no_second_beginning() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = bpe_tokenizer(("<s>", "</s>"))
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    assert templates.ensure_template(tokenizer)
    examples = build([Line(chat("the dog", "the fox"))], tokenizer, 100, "keep_tail")
    assert only(examples).count(tokenizer.bos_token_id) == 1


def test_a_tokenizer_without_template_gets_a_plain_one_that_keeps_borders() -> None:
    tokenizer = bpe_tokenizer()
    assert templates.ensure_template(tokenizer)
    assert not templates.ensure_template(tokenizer)
    assert learnt(tokenizer, *chat("the sum?", "the sum")) == ["the sum<|endoftext|>"]
    prompt = tokenizer.apply_chat_template(chat("the sum?"), add_generation_prompt=True, return_dict=False)
    examples = build([Line(chat("the sum?", "the sum"))], tokenizer, 100, "keep_tail")
    assert only(examples)[: len(prompt)] == prompt
    assert not examples.piece(0).supervised[: len(prompt)].any()


def test_a_token_across_the_border_belongs_to_the_prompt() -> None:
    template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }}{{ eos_token }}{% endfor %}"
    tokenizer = bpe_tokenizer(template=template)
    row = chat("x", "quick brown")
    pieces = [tokenizer.convert_ids_to_tokens(token) for token in only(build([Line(row)], tokenizer, 99, "keep_tail"))]
    assert "Ġquick" in pieces  # the space of the template and the answer's first word are one token
    assert learnt(tokenizer, *row) == [" brown<|endoftext|>"]


def refusal(tokenizer: Any, messages: list[dict[str, Any]]) -> str:
    with pytest.raises(UnusableRow) as raised:
        Renderer(tokenizer).render(messages)
    return str(raised.value)


def test_a_conversation_without_a_learnable_answer_is_refused() -> None:
    assert "no answer" in refusal(BYTES, chat("Only a question?"))
    assert "weight 0" in refusal(BYTES, [{"role": "assistant", "content": "x", "weight": 0}])


def test_a_refusal_by_the_template_is_passed_on() -> None:
    tokenizer = bpe_tokenizer(template="{{ raise_exception('Roles must alternate.') }}")
    assert "Roles must alternate." in refusal(tokenizer, chat("a", "b"))


def test_a_message_the_template_leaves_out_is_not_lost_in_silence() -> None:
    tokenizer = bpe_tokenizer(template="{% for m in messages if m['role'] != 'tool' %}{{ m['content'] }}{% endfor %}")
    assert "no place for the message of the role tool" in refusal(
        tokenizer, [*chat("a", "b"), {"role": "tool", "content": "c"}]
    )


def test_a_template_that_rewrites_contents_is_refused() -> None:
    tokenizer = bpe_tokenizer(template="{% for m in messages %}{{ m['content'] | upper }}\n{% endfor %}")
    assert "rewrites" in refusal(tokenizer, chat("question", "answer"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=3))
def test_whatever_is_said_exactly_the_answers_are_learnt(answers: list[str]) -> None:
    turns = [turn for answer in answers for turn in (f"Say {answer}", answer)]
    for tokenizer, strip in ((BYTES, False), (CHATML_TOKENIZER, True)):
        messages = chat(*turns)
        row = build([Line(messages)], tokenizer, 10_000, "keep_tail").piece(0)
        rendering = tokenizer.apply_chat_template(messages, tokenize=False)
        whole = tokenizer(rendering, add_special_tokens=False).input_ids
        assert row.tokens.tolist() == whole[: len(row.tokens)]
        said = "".join((a.strip() if strip else a) + ("<|im_end|>" if strip else "<|end|>") for a in answers)
        taught = row.tokens[row.supervised]
        assert np.array_equal(taught, tokenizer(said, add_special_tokens=False).input_ids)


def test_the_hash_of_a_template_tells_templates_apart() -> None:
    assert templates.template_hash(BYTES) != templates.template_hash(CHATML_TOKENIZER)
