"""What a member takes home: weights, config, tokenizer, chat template, model card and the run's own files.

    full    model.safetensors, config.json, generation_config.json lora    adapter_model.safetensors,
    adapter_config.json; merged/ with a complete model, if the base is not too large both    tokenizer files,
    chat_template.jinja, README.md, trainer_log.jsonl, training_args.json

Everything loads in plain transformers (and peft), without Trainyard.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent.training.base_models import Base
from agent.training.card import Card
from agent.training.files import published

MERGED_UP_TO = 2_000_000_000


def export(
    folder: Path, base: Base, model: PreTrainedModel | PeftModel, card: Card, arguments: dict[str, Any], log: Path
) -> None:
    """Publish the trained model as `folder` in one rename; LoRA weights are merged into `model` on the way.

    AgentFailed if the disk is full.
    """
    with published(folder) as aside:
        if isinstance(model, PeftModel):
            _save_adapter(aside, base, model)
        else:
            _save_model(aside, base, model)
        _save_tokenizer(aside, base.tokenizer)
        (aside / "README.md").write_text(card.text(), encoding="utf-8")
        (aside / "training_args.json").write_text(json.dumps(arguments, indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(log, aside / "trainer_log.jsonl")


def _save_adapter(folder: Path, base: Base, model: PeftModel) -> None:
    config = model.peft_config["default"]
    config.revision = base.revision
    # Told to be sure, peft would ask a hub whether the vocabulary has grown; it never does here.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    if base.stored_bytes <= MERGED_UP_TO:
        merged = folder / "merged"
        _save_model(merged, base, model.merge_and_unload())
        _save_tokenizer(merged, base.tokenizer)


def _save_model(folder: Path, base: Base, model: PreTrainedModel) -> None:
    """In one file where it may be one, and in the number format that the base was stored in."""
    model.to(base.stored_dtype)  # type: ignore[arg-type]
    model.save_pretrained(folder, max_shard_size="20GB")
    if not (folder / "generation_config.json").exists():
        model.generation_config.save_pretrained(folder)


def _save_tokenizer(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    # The class's name before transformers 5, which still reads it: older versions can open the folder as well.
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        config.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
