"""The model card: README.md with YAML front matter, as model hubs read it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class Card:
    """What a model card tells. `facts` are the job's reported facts; losses are (first, last) of the training steps."""

    name: str
    base_name: str
    parameters: dict[str, Any]
    facts: dict[str, Any]
    losses: tuple[float, float]
    held_out_loss: float | None
    merged: bool

    def text(self) -> str:
        """The whole file."""
        return "\n".join([self._front_matter(), f"# {self._title()}", "", self._summary(), *self._body()]) + "\n"

    def _title(self) -> str:
        return " ".join(self.name.split()) or "Untitled"

    def _front_matter(self) -> str:
        lora = self.parameters["method"] == "lora"
        lines = ["---", f"library_name: {'peft' if lora else 'transformers'}", "pipeline_tag: text-generation"]
        if _HUB_ID.fullmatch(self.base_name):
            lines.append(f"base_model: {self.base_name}")
        lines += ["tags:", "- trainyard", f"- {'lora' if lora else 'full-fine-tuning'}"]
        # A JSON string is a YAML string, whatever the member called the job.
        lines += [f"model_name: {json.dumps(self._title())}", "---", ""]
        return "\n".join(lines)

    def _summary(self) -> str:
        how = f"a LoRA adapter of rank {self.parameters['lora_rank']} on" if self._lora() else "full fine-tuning of"
        return f"A causal language model made by {how} `{self.base_name}` with Trainyard."

    def _lora(self) -> bool:
        return bool(self.parameters["method"] == "lora")

    def _body(self) -> list[str]:
        facts = self.facts
        first, last = self.losses
        lines = ["", "## How to load it", "", "```python", *self._loading(), "```", ""]
        if self._lora():
            lines += [
                "`adapter_model.safetensors` holds only what was learnt and needs its base model. "
                + ("`merged/` is a complete model that needs nothing else." if self.merged else ""),
                "",
            ]
        lines += [
            "## How it was trained", "",
            f"- {facts['rows_used']:,} rows, {facts['supervised_tokens']:,} learnt tokens; "
            f"{facts['held_out_rows']:,} rows held out",
            f"- {facts['truncation']}",
            f"- {facts['total_steps']:,} steps; loss {first:.4f} at the first step, {last:.4f} at the last",
        ]  # fmt: skip
        if self.held_out_loss is not None:
            lines.append(f"- loss on the rows held out: {self.held_out_loss:.4f}")
        lines += [
            f"- {facts['trainable_parameters']:,} of {facts['total_parameters']:,} parameters trained on "
            f"{facts['device']} in {facts['dtype']}",
            "- versions: " + ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
            f"- chat template (SHA-256): `{facts['template_sha256']}`",
            "",
            "| setting | value |", "|---|---|",
            *(f"| {name} | {value} |" for name, value in self.parameters.items() if value is not None),
        ]  # fmt: skip
        return lines

    def _loading(self) -> list[str]:
        if self._lora() and not self.merged:
            return [
                "from peft import AutoPeftModelForCausalLM",
                "from transformers import AutoTokenizer",
                'model = AutoPeftModelForCausalLM.from_pretrained("FOLDER")',
                'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
            ]
        folder = "FOLDER/merged" if self._lora() else "FOLDER"
        return [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            f'model = AutoModelForCausalLM.from_pretrained("{folder}")',
            f'tokenizer = AutoTokenizer.from_pretrained("{folder}")',
        ]
