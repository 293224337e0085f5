"""Adapters and the built-in base: rule 7, the same beginning for the same seed whatever ran before."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from agent.errors import JobFailed
from agent.training import lora, seeds, yard_tiny
from tests.agent.training.small_models import gpt2, llama


def adapter(folder: Path, seed: int = 3, rank: int = 4) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    adapted = lora.attach(model, rank, seed, False, "sha256:00")
    return {name: p.detach().clone() for name, p in adapted.named_parameters() if p.requires_grad}


def test_every_linear_layer_of_a_llama_is_adapted_but_not_the_head(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama(tmp_path))
    assert lora.targets(model) == ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_the_layers_of_gpt2_are_found(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(gpt2(tmp_path))
    assert lora.targets(model) == ["c_attn", "c_fc", "c_proj"]
    assert lora.attach(model, 4, 0, False, "x").peft_config["default"].fan_in_fan_out


@pytest.mark.parametrize("make", [llama, gpt2])
def test_the_adapter_begins_the_same_whatever_ran_before(make: Any, tmp_path: Path) -> None:
    folder = make(tmp_path)
    first = adapter(folder)
    torch.manual_seed(99)
    torch.randn(1000)
    again = adapter(folder)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = adapter(folder, seed=4)
    assert not any(torch.equal(first[name], other[name]) for name in first if "lora_A" in name)


def test_a_fresh_adapter_changes_nothing(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama(tmp_path)).eval()
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        before = model(input_ids=tokens).logits
        after = lora.attach(model, 4, 3, False, "x").eval()(input_ids=tokens).logits
    assert torch.equal(before, after)


def test_adapters_of_layers_of_one_shape_differ(tmp_path: Path) -> None:
    halves = [tensor for name, tensor in adapter(llama(tmp_path)).items() if "q_proj.lora_A" in name]
    assert not torch.equal(halves[0], halves[1])


def test_a_model_without_linear_layers_is_refused() -> None:
    class Bare(torch.nn.Module):
        def get_output_embeddings(self) -> None:
            return None

    with pytest.raises(JobFailed, match="no linear layer") as failure:
        lora.attach(Bare(), 4, 0, False, "x")  # type: ignore[arg-type]
    assert failure.value.cause == "base_model"


def test_yard_tiny_is_always_the_same_and_leaves_the_random_state_alone() -> None:
    first = yard_tiny.model().state_dict()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = yard_tiny.model().state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_yard_tiny_is_the_model_that_older_adapters_were_trained_on() -> None:
    """Changing its weights would spoil every adapter made so far: then it needs another name."""
    weights = yard_tiny.model().state_dict()
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    assert digest.hexdigest() == "cf3e20e99b8abfafbe5e72b130e8347fa6d863288c1e65bdfea14d555196ea6c"
    assert sum(tensor.numel() for tensor in weights.values()) == 2_985_216


def test_adapters_on_yard_tiny_train_its_embeddings_and_head() -> None:
    adapted = lora.attach(yard_tiny.model(), 8, 0, True, "yard-tiny")
    assert set(adapted.peft_config["default"].modules_to_save) == {"embed_tokens", "lm_head"}


@given(st.text())
def test_the_byte_tokenizer_writes_and_reads_every_text(text: str) -> None:
    tokenizer = yard_tiny.tokenizer()
    tokens = tokenizer(text, split_special_tokens=True).input_ids
    assert tokens == list(text.encode())
    assert tokenizer.decode(tokens) == text


def test_the_byte_tokenizer_has_three_specials() -> None:
    tokenizer = yard_tiny.tokenizer()
    assert tokenizer(yard_tiny.PAD + yard_tiny.BEGIN + yard_tiny.END).input_ids == [256, 257, 258]
    assert len(tokenizer) == 259


def test_random_purposes_do_not_disturb_each_other() -> None:
    assert seeds.derive(1, "init", "a") != seeds.derive(1, "init", "b") != seeds.derive(2, "init", "b")
    assert torch.equal(
        torch.randn(3, generator=seeds.generator(1, "x")), torch.randn(3, generator=seeds.generator(1, "x"))
    )


def test_random_states_survive_json() -> None:
    kept = json.loads(json.dumps(seeds.capture()))
    drawn = (random.random(), np.random.rand(), torch.rand(2))
    seeds.restore(kept)
    again = (random.random(), np.random.rand(), torch.rand(2))
    assert drawn[:2] == again[:2] and torch.equal(drawn[2], again[2])
