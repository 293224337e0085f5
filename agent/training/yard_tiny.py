"""yard-tiny: a small Llama that is built from a config, so a first job needs no download.

Its tokenizer knows the 256 bytes and three specials: every text can be written, no vocabulary is shipped. Its
weights are always the same, drawn from a fixed seed by parameter name: nobody trained it, so it begins at chance,
and an adapter of one job fits the yard-tiny of every other.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from agent.training import seeds

PAD, BEGIN, END = "<|pad|>", "<|begin|>", "<|end|>"
LONGEST = 32_768
_SEED = 20_260_101
_DEVIATION_OF_ENDS = 0.02

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}{{ message['role'] + '\\n' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}"
)


def model() -> LlamaForCausalLM:
    """The untrained model in float32 on the CPU: identical bits whatever the job's seed and whatever ran before.

    Three million parameters in three layers: a step over 8 rows of 512 bytes takes about half a second on two cores.
    """
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=256,
        intermediate_size=896,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=False,
        pad_token_id=256,
        bos_token_id=257,
        eos_token_id=258,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        built = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if parameter.dim() >= 2:
                spread = math.sqrt(3.0) * _deviation(name, parameter)
                parameter.copy_(seeds.uniform(parameter.shape, _SEED, name) * spread)
    return built


def tokenizer() -> PreTrainedTokenizerFast:
    """The byte tokenizer: the id of a byte is its value, then pad, begin and end. Texts longer than the model reads
    are the caller's concern."""
    words = {character: byte for byte, character in enumerate(_byte_characters())}
    bytes_only = Tokenizer(models.BPE(vocab=words, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_only.decoder = decoders.ByteLevel()
    bytes_only.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (PAD, BEGIN, END)])
    settings: dict[str, Any] = {"clean_up_tokenization_spaces": False, "model_max_length": LONGEST}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bytes_only,
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        **settings,
    )


def _deviation(name: str, parameter: torch.Tensor) -> float:
    """The standard deviation of a weight. Layers keep the size of what passes through them (one over the root of their
    inputs). With the usual 0.02 the signal fades in a small model, and after 60 steps the loss was 2.6, not 2.3."""
    ends = "embed_tokens" in name or "lm_head" in name
    return _DEVIATION_OF_ENDS if ends else float(parameter.shape[1] ** -0.5)


def _byte_characters() -> list[str]:
    """The printable character that the byte-level scheme of GPT-2 writes for each byte, by value."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]
