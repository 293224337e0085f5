"""The recipe `language`: LoRA or full fine-tuning of a causal language model.

Read `train` first, then downwards: prepare, step, record, publish. The parts are in `agent.training`, and the rules
they keep are in their docstrings.

Everything heavy is imported with this module, so that a process that forks for each job pays for it once. Importing
it computes nothing and touches no GPU: neither would survive the fork.
"""

from __future__ import annotations

import json
import math
import time
import warnings
from typing import Literal

import huggingface_hub.utils as hub_utils
import numpy as np
import torch
import transformers.models.llama.modeling_llama  # noqa: F401  (otherwise imported only when the first job needs it)
from peft import PeftModel
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from agent import formats
from agent.errors import JobFailed
from agent.recipes import Assignment, steps_for
from agent.training import base_models, device, lora, loss, memory, optimizer, seeds, templates
from agent.training.base_models import Base
from agent.training.batches import Order, micro_batches, token_budget
from agent.training.card import Card
from agent.training.examples import Examples, build
from agent.training.export import MERGED_UP_TO, export
from agent.training.facts import settled, tell
from agent.training.resume import pick_up, save
from agent.training.state import TrainingState

_NAMED_LINES = 8
_EVALUATIONS = 10


class _Stopped(Exception):
    """A stop was asked for while there was nothing to save yet."""


def train(assignment: Assignment) -> Literal["completed", "stopped"]:
    """Carry out one job in this process; everything it writes lies under `assignment.folder`.

    Goes on from the newest complete checkpoint there. Returns "stopped" when `stop_requested` said so, after a
    checkpoint. Raises JobFailed with a cause, a sentence and advice; AgentFailed if this machine cannot go on just
    now.
    """
    try:
        return _train(assignment)
    except _Stopped:
        return "stopped"
    except (MemoryError, RuntimeError) as failure:
        if not memory.ran_out(failure):
            raise
        raise memory.does_not_fit(assignment.parameters) from failure


def _train(assignment: Assignment) -> Literal["completed", "stopped"]:
    state = _prepare(assignment)
    pick_up(state)
    assignment.report("facts", **state.facts)
    assignment.report("stage", stage="train", total_steps=state.total_steps, message="Training.")
    saved_at = time.monotonic()
    while state.step < state.total_steps:
        if assignment.stop_requested():
            save(state)
            print(f"Stopped after step {state.step:,} of {state.total_steps:,}.", flush=True)
            return "stopped"
        _take_step(state)
        if time.monotonic() - saved_at >= assignment.checkpoint_seconds:
            save(state)
            saved_at = time.monotonic()
    save(state)
    _publish(state)
    return "completed"


# --- prepare
# ---------------------------------------------------------------------------------------------------------


def _prepare(assignment: Assignment) -> TrainingState:
    """Load the base, read the data, attach the adapter: everything up to the first step of a fresh job."""
    _keep_libraries_quiet()
    parameters = assignment.parameters
    machine = device.prepare()
    base = _load_base(assignment, machine)
    longest = _longest(parameters["max_length"], base)
    examples, unreadable = _read(assignment, base, longest)
    training, held_out = examples.split()
    model = _trainable(assignment, base, machine)
    state = TrainingState(
        assignment=assignment,
        device=machine,
        base=base,
        model=model,
        optimizer=optimizer.build(model),
        examples=examples,
        targets=examples.targets(),
        order=Order(training, parameters["seed"], parameters["batch_size"]),
        held_out=held_out,
        total_steps=steps_for(len(training), parameters),
        budget=token_budget(machine.kind, base.vocabulary),
    )
    state.facts = settled(state, longest, unreadable)
    tell(state)
    return state


def _load_base(assignment: Assignment, machine: device.Device) -> Base:
    """The base model and a tokenizer that has a chat template. A frozen base may be kept in the half format."""
    assignment.report("stage", stage="prepare", message="Loading the base model.")
    frozen = assignment.parameters["method"] == "lora"
    base = base_models.load(assignment.base_model, (frozen and machine.autocast) or torch.float32)
    if templates.ensure_template(base.tokenizer):
        print("The base model has no chat template; a plain one is used and saved with the result.", flush=True)
    return base


def _longest(asked: int, base: Base) -> int:
    if base.longest is not None and asked > base.longest:
        print(f"The base model reads at most {base.longest:,} tokens, so that is the longest example.", flush=True)
        return base.longest
    return asked


def _read(assignment: Assignment, base: Base, longest: int) -> tuple[Examples, int]:
    """The examples of the data file and the number of its rows that could not be read at all."""

    def between() -> None:
        if assignment.stop_requested():
            raise _Stopped

    assignment.report("stage", stage="prepare", message="Reading the data.")
    between()
    try:
        reading = formats.read(assignment.data, assignment.mapping)
        examples = build(reading, base.tokenizer, longest, assignment.parameters["truncation"], between)
    except formats.DataError as failure:
        raise JobFailed("data", str(failure), "Mend the data file and start again.") from failure
    except OSError as failure:
        raise JobFailed(
            "data",
            f"The data file {assignment.data.name} cannot be read: {failure.strerror}.",
            "Check that it is still there and may be read.",
        ) from failure
    for row in reading.bad_rows[:_NAMED_LINES]:
        print(f"Line {row.line} is left out" + ("." if assignment.private_data else f": {row.reason}"), flush=True)
    return examples, reading.bad_count


def _trainable(assignment: Assignment, base: Base, machine: device.Device) -> PreTrainedModel | PeftModel:
    """The model on its device, with an adapter for LoRA, its dropout switched off.

    Without dropout the gradient does not depend on how a step is cut into micro-batches; the mode "eval" is what
    switches it off in every architecture, and training needs nothing else of the mode "train".
    """
    parameters = assignment.parameters
    model: PreTrainedModel | PeftModel = base.model
    if parameters["method"] == "lora":
        model = lora.attach(
            base.model, parameters["lora_rank"], parameters["seed"], base.untrained, assignment.base_name
        )
        if machine.autocast is not None:
            lora.keep_input_format(model)
    model.to(machine.kind)  # type: ignore[arg-type]
    return model.eval()


def _keep_libraries_quiet() -> None:
    """The job's log is for sentences, not for progress bars of parts of it."""
    warnings.simplefilter("ignore", FutureWarning)
    hub_utils.disable_progress_bars()  # type: ignore[attr-defined]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]


# --- step
# ------------------------------------------------------------------------------------------------------------


def _take_step(state: TrainingState) -> None:
    """One optimizer step: gradient, check, update, and exactly one point on every curve."""
    began = time.perf_counter()
    step = state.step + 1
    batch = state.order.batch(step)
    value = _gradient(state, step, batch)
    norm = optimizer.clip(state.model)
    _refuse_nonsense(state, step, batch, value, norm)
    rate = optimizer.learning_rate(step, state.total_steps, state.parameters["learning_rate"])
    optimizer.update(state.optimizer, rate)
    took = time.perf_counter() - began
    tokens = sum(state.examples.length(int(index)) for index in batch)
    state.step, state.tokens, state.seconds = step, state.tokens + tokens, state.seconds + took
    values = {"loss": value, "learning_rate": rate, "grad_norm": norm, "tokens_per_second": tokens / took}
    if _evaluation_due(state):
        batches = micro_batches(state.examples, state.held_out, state.budget)
        values["eval_loss"] = loss.evaluate(state.model, batches, state.device)
    _record(state, values)


def _gradient(state: TrainingState, step: int, batch: np.ndarray) -> float:
    """The loss of a step, its gradient left in the parameters. Short of memory, the same step is tried again with
    half the micro-batch from the same random state: the gradient stays the same."""
    targets = int(state.targets[batch].sum())
    for attempt in range(memory.RETRIES + 1):
        batches = list(micro_batches(state.examples, batch, state.budget))
        seeds.enter_step(state.parameters["seed"], step)
        try:
            return loss.accumulate(state.model, batches, targets, state.device)
        except (MemoryError, RuntimeError) as failure:
            if not memory.ran_out(failure):
                raise
        memory.release(state.model)
        smaller = memory.halved(batches)
        if smaller is None or attempt == memory.RETRIES:
            break
        state.budget = smaller
        print(f"Memory was short at step {step:,}; going on with at most {smaller:,} tokens at once.", flush=True)
    raise memory.row_does_not_fit(step, batches, state.parameters, state.device)


def _refuse_nonsense(state: TrainingState, step: int, batch: np.ndarray, value: float, norm: float) -> None:
    """Stop before a loss or gradient that is not a finite number reaches the weights."""
    if math.isfinite(value) and math.isfinite(norm):
        return
    lines = sorted({state.examples.lines[index] for index in batch})
    named = ", ".join(str(line) for line in lines[:_NAMED_LINES]) + (" and more" if len(lines) > _NAMED_LINES else "")
    kept = f"The checkpoint of step {state.saved:,} is kept." if state.saved else "There was no checkpoint yet."
    what = "gradient" if math.isfinite(value) else "loss"
    raise JobFailed(
        "data",
        f"The {what} stopped being a number at step {step:,}, on the rows that begin in lines {named}. {kept}",
        f"Lower the learning rate (it was {state.parameters['learning_rate']:g}), or look at these rows.",
    )


def _evaluation_due(state: TrainingState) -> bool:
    """About ten times in a job and at its end, but rarer where measuring would take more than a tenth of the time
    (a forward pass costs a third of a step over the same examples)."""
    if not len(state.held_out):
        return False
    cost = len(state.held_out) / (3 * state.parameters["batch_size"])
    interval = max(math.ceil(state.total_steps / _EVALUATIONS), math.ceil(10 * cost))
    return state.step == state.total_steps or state.step % interval == 0


# --- record and publish
# ----------------------------------------------------------------------------------------------


def _record(state: TrainingState, values: dict[str, float]) -> None:
    """The step's one report and its one line in trainer_log.jsonl (field names as LLaMA-Factory writes them)."""
    step, total = state.step, state.total_steps
    line = {
        "current_steps": step,
        "total_steps": total,
        "loss": values["loss"],
        "lr": values["learning_rate"],
        "grad_norm": values["grad_norm"],
        "epoch": round(step / state.order.steps_per_epoch, 4),
        "percentage": round(100 * step / total, 2),
        "elapsed_time": round(state.seconds, 3),
        "remaining_time": round(state.seconds / step * (total - step), 3),
        "throughput": round(values["tokens_per_second"], 1),
        "total_tokens": state.tokens,
    }
    if "eval_loss" in values:
        line["eval_loss"] = values["eval_loss"]
    with state.log.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")
    state.assignment.report("metrics", step=step, values=values)
    if step == 1 or step == total or step % max(1, total // 50) == 0:
        held_out = f", {values['eval_loss']:.4f} on the rows held out" if "eval_loss" in values else ""
        speed = f"{values['tokens_per_second']:,.0f} tokens/s"
        print(f"Step {step:,} of {total:,}: loss {values['loss']:.4f}{held_out}, {speed}.", flush=True)


def _publish(state: TrainingState) -> None:
    """Write `output/` with everything the member takes home."""
    assignment = state.assignment
    entries = [json.loads(line) for line in state.log.read_text(encoding="utf-8").splitlines()]
    measured = [entry["eval_loss"] for entry in entries if "eval_loss" in entry]
    facts = {name: value for name, value in state.facts.items() if name != "example"}
    card = Card(
        name=assignment.name,
        base_name=assignment.base_name,
        parameters=state.parameters,
        facts=facts,
        losses=(entries[0]["loss"], entries[-1]["loss"]),
        held_out_loss=measured[-1] if measured else None,
        merged=state.base.stored_bytes <= MERGED_UP_TO,
    )
    arguments = {"recipe": "language", "base_model": assignment.base_name, "parameters": state.parameters, **facts}
    export(assignment.folder / "output", state.base, state.model, card, arguments, state.log)
    print(f"Done: {state.total_steps:,} steps, last loss {entries[-1]['loss']:.4f}.", flush=True)
