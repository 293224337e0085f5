"""Models, tokenizers, data and jobs small enough to be made on the fly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from agent.recipes import Assignment, check
from agent.training import yard_tiny

TEXT = [
    "User: what is the sum of two and three? Assistant: the sum of two and three is five.",
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def llama(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A Llama of 30,000 parameters with the byte tokenizer, saved in Hugging Face format."""
    shape: dict[str, Any] = {
        "vocab_size": 259, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "max_position_embeddings": 2048, "bos_token_id": 257, "eos_token_id": 258,
        "pad_token_id": 256,
    }  # fmt: skip
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**{**shape, **changes})).save_pretrained(folder)
    yard_tiny.tokenizer().save_pretrained(folder)
    return folder


def bpe_tokenizer(specials: tuple[str, ...] = ("<|endoftext|>",), template: str | None = None) -> Any:
    """A byte-level BPE tokenizer in the manner of GPT-2; its first special begins and ends every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(specials), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXT * 5, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=specials[0], eos_token=specials[-1], chat_template=template
    )


def gpt2(folder: Path) -> Path:
    """A GPT-2 (tied embeddings, Conv1D layers, learned positions, dropout in its config) without a chat template."""
    torch.manual_seed(0)
    tokenizer = bpe_tokenizer()
    ends = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=128, bos_token_id=ends, eos_token_id=ends
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def chat(*turns: str) -> list[dict[str, Any]]:
    """Turns of user and assistant, the user first."""
    return [{"role": ("user", "assistant")[index % 2], "content": turn} for index, turn in enumerate(turns)]


def sums(path: Path, rows: int = 12) -> Path:
    """A chat data file of small sums, each row of another length."""
    lines = [
        json.dumps(
            {"messages": chat(f"What is {n} and {n * 7}?" + " Think." * (n % 4), f"It is {n * 8}." * (1 + n % 3))}
        )
        for n in range(rows)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


class Reports:
    """Collects what a job reports; callable as the job's `report`."""

    def __init__(self) -> None:
        self.all: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, **fields: Any) -> None:
        json.dumps(fields, allow_nan=False)  # reports travel as JSON
        self.all.append((kind, fields))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.all if name == kind]

    @property
    def losses(self) -> list[float]:
        return [point["values"]["loss"] for point in self.of("metrics")]


def job(
    folder: Path,
    data: Path,
    base_model: str,
    report: Reports,
    stop: Callable[[], bool] = lambda: False,
    base_name: str = "sha256:0123",
    private_data: bool = False,
    checkpoint_seconds: float = 300.0,
    name: str = "Sums",
    **parameters: Any,
) -> Assignment:
    """An assignment of the recipe `language`, small unless told otherwise."""
    given = {"method": "full", "max_steps": 4, "batch_size": 3, "max_length": 64, "learning_rate": 0.01, **parameters}
    resolved, errors = check("language", given)
    assert not errors, errors
    folder.mkdir(parents=True, exist_ok=True)
    return Assignment(
        parameters=resolved,
        data=data,
        mapping=None,
        base_model=base_model,
        base_name=base_name,
        folder=folder,
        name=name,
        report=report,
        stop_requested=stop,
        checkpoint_seconds=checkpoint_seconds,
        private_data=private_data,
    )
