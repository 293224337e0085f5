"""The model a job starts from: yard-tiny, a folder in Hugging Face format, or a model on a hub."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from agent.errors import JobFailed
from agent.recipes import YARD_TINY
from agent.training import hub, yard_tiny

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_FOLDER = "folder:"


@dataclass
class Base:
    """A base model in memory, on the CPU. `stored_dtype` is the number format its weights were kept in; `revision`
    the commit on the hub; `untrained` says that its weights are random."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    stored_dtype: torch.dtype
    revision: str | None = None
    untrained: bool = False
    parameters: int = 0

    def __post_init__(self) -> None:
        # Counted before an adapter joins the model's parameters.
        self.parameters = sum(p.numel() for p in self.model.parameters())

    @property
    def stored_bytes(self) -> int:
        """What its weights take on disk."""
        return self.parameters * self.stored_dtype.itemsize

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding: token ids must be below it."""
        embedding: Any = self.model.get_input_embeddings()
        return int(embedding.weight.shape[0])

    @property
    def longest(self) -> int | None:
        """The most tokens it can read, as its config says; None if it says nothing."""
        config = self.model.config.get_text_config()
        for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
            if isinstance(getattr(config, key, None), int):
                return int(getattr(config, key))
        return None


def load(spec: str, dtype: torch.dtype = torch.float32) -> Base:
    """Load 'yard-tiny', 'folder:/absolute/path' or a hub id with its tokenizer; JobFailed (base_model) if it cannot
    be.

    Weights are read from safetensors only and code that comes with a model is never run. A folder that holds an
    adapter is merged into its base first.
    """
    if spec == YARD_TINY:
        model = yard_tiny.model()
        model.to(dtype)  # type: ignore[arg-type]
        return Base(model, yard_tiny.tokenizer(), torch.float32, untrained=True)
    if spec.startswith(_FOLDER):
        return _checked(_from_folder(Path(spec.removeprefix(_FOLDER)), dtype))
    if not _HUB_ID.fullmatch(spec):
        raise _failure(f"{spec!r} names no base model.", "Give yard-tiny, a folder, or a hub id such as group/name.")
    folder, revision = hub.download(spec)
    base = _checked(_plain_folder(folder, dtype, spec))
    base.revision = revision
    return base


def _from_folder(folder: Path, dtype: torch.dtype) -> Base:
    if not folder.is_dir():
        raise _failure("The folder of the base model is not there.", f"Put it at {folder}, or choose another one.")
    if (folder / "adapter_config.json").is_file():
        return _merged_adapter(folder, dtype)
    return _plain_folder(folder, dtype, f"the folder {folder.name}")


def _merged_adapter(folder: Path, dtype: torch.dtype) -> Base:
    """The model that an adapter makes of its base. The base lies beside the adapter or is yard-tiny."""
    if (folder / "merged" / "config.json").is_file():
        return _plain_folder(folder / "merged", dtype, f"the folder {folder.name}/merged")
    if not (folder / "adapter_model.safetensors").is_file():
        # Named so that nothing else passes for it: peft would take what it finds.
        hub.refuse_pickles(
            f"the adapter {folder.name}", [p.name for p in folder.iterdir() if p.suffix != ".safetensors"]
        )
    named = json.loads((folder / "adapter_config.json").read_text()).get("base_model_name_or_path")
    if (folder / "base" / "config.json").is_file():
        base = _plain_folder(folder / "base", dtype, f"the folder {folder.name}/base")
    elif named == YARD_TINY:
        base = load(YARD_TINY, dtype)
    else:
        raise _failure(
            f"The folder {folder.name} holds an adapter, and its base model {named or '(not named)'} is not beside it.",
            "Put the base model into a folder called base inside it, or the merged model into one called merged.",
        )
    try:
        base.model = PeftModel.from_pretrained(base.model, folder).merge_and_unload()
    except (RuntimeError, ValueError, KeyError, OSError, SafetensorError) as failure:
        raise _failure(
            f"The adapter in {folder.name} does not fit its base model: {_first_line(failure)}",
            "Check that the folder base holds the model the adapter was trained on.",
        ) from failure
    if (folder / "tokenizer_config.json").is_file():
        base.tokenizer = _tokenizer(folder, f"the folder {folder.name}")
    base.untrained = False
    return base


def _plain_folder(folder: Path, dtype: torch.dtype, called: str) -> Base:
    files = [path.name for path in folder.iterdir() if path.is_file()]
    if "config.json" not in files:
        raise _failure(f"There is no config.json in {called}.", "Choose a folder in Hugging Face format.")
    hub.refuse_pickles(called, files)
    tokenizer = _tokenizer(folder, called)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (ValueError, OSError, KeyError, RuntimeError, ImportError, SafetensorError) as failure:
        raise _unreadable(folder, called, failure) from failure
    model, notes = loaded
    if notes["missing_keys"]:
        # The library fills what is missing with random numbers; training on would hide that the file is broken.
        missing = sorted(notes["missing_keys"])
        raise _failure(
            f"{len(missing)} of the weights that {called} needs are not in its files, the first is {missing[0]}.",
            "Fetch the model again, or choose another one.",
        )
    stored = getattr(config, "dtype", None)
    return Base(model, tokenizer, stored if isinstance(stored, torch.dtype) else torch.float32)


def _tokenizer(folder: Path, called: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError, ImportError) as failure:
        raise _unreadable(folder, f"the tokenizer of {called}", failure) from failure
    if not tokenizer.is_fast:
        raise _failure(
            f"The tokenizer of {called} cannot say which characters its tokens stand for.",
            "Choose a model with a tokenizer.json.",
        )
    if tokenizer.eos_token is None:
        raise _failure(
            f"The tokenizer of {called} has no end token; a model trained with it would never stop.",
            "Set eos_token in its tokenizer_config.json.",
        )
    return tokenizer  # type: ignore[no-any-return]


def _checked(base: Base) -> Base:
    rows = base.vocabulary
    if len(base.tokenizer) > rows:
        raise _failure(
            f"The tokenizer knows {len(base.tokenizer):,} tokens, but the model has embeddings for only {rows:,}.",
            "Use the tokenizer that belongs to this model.",
        )
    return base


def _unreadable(folder: Path, called: str, failure: Exception) -> JobFailed:
    config = folder / "config.json"
    if "trust_remote_code" in str(failure) or (config.is_file() and '"auto_map"' in config.read_text(errors="replace")):
        return _failure(
            f"{called[0].upper()}{called[1:]} needs program code that comes with it; such code is never run here.",
            "Choose a model whose architecture the transformers library knows.",
        )
    return _failure(
        f"{called[0].upper()}{called[1:]} cannot be read as a causal language model: {_first_line(failure)}",
        "Choose a causal language model in Hugging Face format that this version of transformers knows.",
    )


def _failure(message: str, advice: str) -> JobFailed:
    return JobFailed("base_model", message, advice)


def _first_line(failure: Exception) -> str:
    lines = str(failure).strip().splitlines() or [type(failure).__name__]
    return lines[0][:300]
