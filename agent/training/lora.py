"""Low-rank adapters (LoRA, arXiv 2106.09685): where they are put, how they begin, how they are merged."""

from __future__ import annotations

import math

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from agent.errors import JobFailed
from agent.training import seeds

ALPHA_PER_RANK = 2


def targets(model: PreTrainedModel) -> list[str]:
    """Last names of all linear layers (`nn.Linear`, and GPT-2's `Conv1D`) except the output head, sorted."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
        }
    )


def attach(model: PreTrainedModel, rank: int, seed: int, untrained: bool, base_name: str) -> PeftModel:
    """Freeze `model` and put an adapter of this rank beside each of its linear layers; JobFailed if it has none.

    A is drawn for each layer from the job's seed and the layer's name, so it is the same whatever was drawn before;
    B is zero, so the model begins as it was. An `untrained` base also gets its embeddings and its head trained:
    adapters bend what a model knows, and with random letters in and random letters out there is nothing to bend.
    """
    layers = targets(model)
    if not layers:
        raise JobFailed(
            "base_model", "This base model has no linear layer to adapt.", "Choose full training for this base model."
        )
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=ALPHA_PER_RANK * rank,
        lora_dropout=0.0,
        target_modules=layers,
        modules_to_save=_ends(model) if untrained else None,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        bias="none",
    )
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
            if "lora_A" in name:
                fresh = torch.empty(parameter.shape)
                torch.nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=seeds.generator(seed, "init", name))
                parameter.copy_(fresh)
    adapted.peft_config["default"].base_model_name_or_path = base_name
    return adapted


def keep_input_format(model: PeftModel) -> None:
    """Leave the input of the adapters in the autocast format: peft would turn a float32 copy of it into it again."""
    for module in model.modules():
        if hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False  # type: ignore[assignment]


def _ends(model: PreTrainedModel) -> list[str]:
    """Names of the input embedding and the output head."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    ends = (model.get_input_embeddings(), head)
    return [name.rsplit(".", 1)[-1] for name, module in model.named_modules() if any(module is end for end in ends)]
