"""Where a job may start from, and what is refused with a sentence."""

from __future__ import annotations

import json
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from agent.errors import JobFailed
from agent.training import base_models, hub, yard_tiny
from tests.agent.training.loopback_hub import COMMIT, Hub, running
from tests.agent.training.small_models import gpt2, llama


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return Path.touch, (self.trace,)


TOKENS = torch.arange(20)[None]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=TOKENS).logits  # type: ignore[no-any-return]


def refusal(spec: str) -> JobFailed:
    with pytest.raises(JobFailed) as raised:
        base_models.load(spec)
    assert raised.value.cause == "base_model"
    assert raised.value.message and raised.value.advice.endswith(".")
    return raised.value


def test_yard_tiny_needs_no_file() -> None:
    base = base_models.load("yard-tiny")
    assert base.untrained and base.vocabulary == 259 and base.longest == 32_768
    assert base.parameters == 2_985_216 and base.stored_bytes == 4 * 2_985_216


@pytest.mark.parametrize("make", [llama, gpt2])
def test_a_folder_is_loaded_as_it_is(make: Any, tmp_path: Path) -> None:
    base = base_models.load(f"folder:{make(tmp_path)}")
    assert torch.equal(logits(base.model), logits(AutoModelForCausalLM.from_pretrained(tmp_path)))
    assert not base.untrained and base.longest == (2048 if make is llama else 128)


def test_weights_kept_in_half_precision_are_trained_in_full(tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(llama(tmp_path)).to(torch.bfloat16).save_pretrained(tmp_path)
    base = base_models.load(f"folder:{tmp_path}")
    assert base.model.dtype == torch.float32 and base.stored_dtype == torch.bfloat16


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "is not there" in refusal(f"folder:{tmp_path / 'nothing'}").message


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model")
    assert "no config.json" in refusal(f"folder:{tmp_path}").message


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    (llama(tmp_path) / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(tmp_path / "opened")))
    failure = refusal(f"folder:{tmp_path}")
    assert "pytorch_model.bin" in failure.message and "safetensors" in failure.advice
    assert not (tmp_path / "opened").exists()


def test_weights_with_a_hole_are_refused(tmp_path: Path) -> None:
    weights = load_file(llama(tmp_path) / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "1 of the weights" in refusal(f"folder:{tmp_path}").message


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    (llama(tmp_path) / "model.safetensors").write_bytes(b"not safetensors at all")
    assert "cannot be read" in refusal(f"folder:{tmp_path}").message


def test_code_that_comes_with_a_model_is_never_run(tmp_path: Path) -> None:
    config = json.loads((llama(tmp_path) / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    assert "such code is never run" in refusal(f"folder:{tmp_path}").message
    assert not (tmp_path / "ran").exists()


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    llama(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert "cannot be read as a causal language model" in refusal(f"folder:{tmp_path}").message


def test_a_tokenizer_too_large_for_the_model_is_refused(tmp_path: Path) -> None:
    folder = llama(tmp_path, vocab_size=200, bos_token_id=None, eos_token_id=None, pad_token_id=None)
    assert "knows 259 tokens" in refusal(f"folder:{folder}").message


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    config = json.loads((llama(tmp_path) / "tokenizer_config.json").read_text())
    del config["eos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert "no end token" in refusal(f"folder:{tmp_path}").message


@pytest.mark.parametrize("spec", ["", "../secret", "a/b/c", "model:7", "http://elsewhere/model"])
def test_what_names_no_model_is_refused(spec: str) -> None:
    assert "names no base model" in refusal(spec).message


# --- adapters as a base ----------------------------------------------------------------------------------------------


def adapter(folder: Path, base: Any, base_name: str) -> torch.Tensor:
    """Save an adapter with weights of its own; returns the logits of base and adapter together."""
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    adapted = get_peft_model(base, config)
    adapted.peft_config["default"].base_model_name_or_path = base_name
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    return logits(adapted)


def test_an_adapter_on_yard_tiny_is_merged(tmp_path: Path) -> None:
    expected = adapter(tmp_path, yard_tiny.model(), "yard-tiny")
    base = base_models.load(f"folder:{tmp_path}")
    assert torch.allclose(logits(base.model), expected, atol=1e-5)
    assert not base.untrained and not hasattr(base.model, "peft_config")


def test_an_adapter_finds_its_base_beside_it(tmp_path: Path) -> None:
    llama(tmp_path / "base")
    expected = adapter(tmp_path, AutoModelForCausalLM.from_pretrained(tmp_path / "base"), "sha256:77")
    base = base_models.load(f"folder:{tmp_path}")
    assert torch.allclose(logits(base.model), expected, atol=1e-5)
    assert base.tokenizer.eos_token == yard_tiny.END


def test_a_merged_model_beside_an_adapter_is_used(tmp_path: Path) -> None:
    adapter(tmp_path, yard_tiny.model(), "sha256:77")
    llama(tmp_path / "merged")
    base = base_models.load(f"folder:{tmp_path}")
    assert torch.equal(logits(base.model), logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")))


def test_an_adapter_without_its_base_is_refused(tmp_path: Path) -> None:
    adapter(tmp_path, yard_tiny.model(), "sha256:77")
    failure = refusal(f"folder:{tmp_path}")
    assert "sha256:77 is not beside it" in failure.message and "called base" in failure.advice


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    adapter(tmp_path, yard_tiny.model(), "sha256:77")
    llama(tmp_path / "base")
    assert "does not fit its base model" in refusal(f"folder:{tmp_path}").message


def test_an_adapter_in_a_pickle_is_refused(tmp_path: Path) -> None:
    adapter(tmp_path, yard_tiny.model(), "yard-tiny")
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    assert "adapter_model.bin" in refusal(f"folder:{tmp_path}").message


# --- hub -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        server.models["yard/small"] = llama(tmp_path / "small")
        yield server


def test_a_model_comes_from_the_hub_with_its_commit(loopback: Hub) -> None:
    base = base_models.load("yard/small")
    expected = AutoModelForCausalLM.from_pretrained(loopback.models["yard/small"])
    assert torch.equal(logits(base.model), logits(expected))
    assert base.revision == COMMIT


def test_only_what_is_needed_is_fetched(loopback: Hub) -> None:
    (loopback.models["yard/small"] / "optimizer.pt").write_bytes(b"x" * 100)
    (loopback.models["yard/small"] / "onnx").mkdir()
    (loopback.models["yard/small"] / "onnx" / "model.safetensors").write_bytes(b"x" * 100)
    base_models.load("yard/small")
    assert not [path for path in loopback.asked if path.endswith(("optimizer.pt", "onnx/model.safetensors"))]


def test_a_model_the_hub_does_not_have_is_refused(loopback: Hub) -> None:
    assert "no model yard/none" in refusal("yard/none").message


def test_a_gated_model_names_the_page_of_its_licence(loopback: Hub) -> None:
    loopback.gated.add("yard/small")
    assert f"{loopback.address}/yard/small" in refusal("yard/small").advice


def test_pickles_of_a_hub_are_refused_before_anything_is_fetched(loopback: Hub) -> None:
    folder = loopback.models["yard/small"]
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "pytorch_model.bin" in refusal("yard/small").message
    assert not [path for path in loopback.asked if "resolve" in path]


def test_a_model_that_would_fill_the_disk_is_refused_before_anything_is_fetched(loopback: Hub) -> None:
    loopback.sizes["model.safetensors"] = 10**18
    said = refusal("yard/small")
    assert "1,000,000,000.0 GB to fetch" in said.message and "HF_HOME" in said.advice
    assert not [path for path in loopback.asked if "resolve" in path]
    loopback.sizes = {"optimizer.pt": 10**18}  # which is not wanted
    base_models.load("yard/small")


def test_a_hub_with_an_error_is_refused(loopback: Hub) -> None:
    loopback.broken = True
    assert "answered 503" in refusal("yard/small").message


def test_a_hub_that_does_not_answer_is_given_up(loopback: Hub) -> None:
    loopback.delay = 3.0
    with pytest.raises(JobFailed, match="did not answer within 0.3 seconds"):
        hub.preflight("yard/small", patience=0.3)


def test_a_hub_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        assert "cannot be fetched" in refusal("yard/small").message


def test_a_download_that_breaks_off_says_so(loopback: Hub) -> None:
    loopback.lost.add("model.safetensors")
    assert "broke off" in refusal("yard/small").message
