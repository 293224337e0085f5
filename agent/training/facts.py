"""What is settled about a job before its first step: for the page, the model card, the record, and in words."""

from __future__ import annotations

from typing import Any

from agent.training import device, templates
from agent.training.examples import explain_truncation, spans
from agent.training.state import TrainingState

_NAMED_LINES = 8


def settled(state: TrainingState, longest: int, unreadable: int) -> dict[str, Any]:
    """The facts of a job, fit for JSON: rows and what became of them, tokens, parameters, device, versions, template.

    `example` is the first training example as [text, supervised] stretches, or None where the data is private.
    """
    examples, training, model = state.examples, state.order.examples, state.model
    counts = examples.counts
    example = spans(examples.piece(int(training[0])), state.base.tokenizer)
    return {
        "rows": counts["rows"] + unreadable,
        "rows_used": len(set(examples.rows)),
        "rows_refused": len(examples.refused),
        "rows_unreadable": unreadable,
        "rows_shortened": counts["shortened"],
        "answers_cut": counts["cut"],
        "rows_dropped": counts["dropped"],
        "rows_split": counts["split"],
        "truncation": explain_truncation(counts, longest),
        "training_examples": len(training),
        "held_out_rows": len({examples.rows[index] for index in state.held_out}),
        "longest_example": int(examples.lengths().max()),
        "max_length": longest,
        "tokens": len(examples.tokens),
        "supervised_tokens": int(state.targets.sum()),
        "total_steps": state.total_steps,
        "base_parameters": state.base.parameters,
        "total_parameters": sum(p.numel() for p in model.parameters()),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "device": state.device.name,
        "dtype": state.device.dtype_name,
        "threads": state.device.threads,
        "versions": device.versions(),
        "template_sha256": templates.template_hash(state.base.tokenizer),
        "base_revision": state.base.revision,
        "example": None if state.assignment.private_data else example,
    }


def tell(state: TrainingState) -> None:
    """Print the facts as sentences for the job's log."""
    facts = state.facts
    for line, reason in state.examples.refused[:_NAMED_LINES]:
        print(f"Line {line} is left out: {reason}.")
    print(facts["truncation"])
    print(
        f"{facts['rows_used']:,} rows make {facts['training_examples']:,} training examples; "
        f"{facts['held_out_rows']:,} rows are held out to measure on. {facts['supervised_tokens']:,} tokens are learnt."
    )
    print(
        f"{facts['trainable_parameters']:,} parameters are trained (the base model has {facts['base_parameters']:,}) "
        f"on {facts['device']} in {facts['dtype']}.",
        flush=True,
    )
