"""The recipe as a whole, on models small enough to train in a moment."""

from __future__ import annotations

import errno
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from agent.errors import AgentFailed, JobFailed
from agent.files import file_sha256
from agent.recipes import language
from agent.training import checkpoint, loss, yard_tiny
from tests.agent.training.small_models import Reports, chat, gpt2, job, llama, sums

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"folder:{llama(tmp_path_factory.mktemp('llama'))}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sums(tmp_path_factory.mktemp("data") / "sums.jsonl", rows=16)


def weights(folder: Path) -> str:
    return file_sha256(next((folder / "output").glob("*model.safetensors")))


def after(steps: int) -> Callable[[], bool]:
    """A `stop_requested` that says so once `steps` steps are done: it is asked twice before the first."""
    asked = iter(range(10**6))
    return lambda: next(asked) >= steps + ASKED_BEFORE


ASKED_BEFORE = 2


# --- a job from beginning to end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_loss_falls_and_each_step_is_reported_once(method: str, small: str, data: Path, tmp_path: Path) -> None:
    reports = Reports()
    assert language.train(job(tmp_path, data, small, reports, method=method, max_steps=12)) == "completed"
    assert [point["step"] for point in reports.of("metrics")] == list(range(1, 13))
    assert reports.losses[-1] < reports.losses[0] - 0.2
    for point in reports.of("metrics"):
        assert set(point["values"]) == {"loss", "learning_rate", "grad_norm", "tokens_per_second"}
        assert all(math.isfinite(value) for value in point["values"].values())
    stages = [(stage["stage"], stage.get("total_steps")) for stage in reports.of("stage")]
    assert stages == [("prepare", None), ("prepare", None), ("train", 12)]
    assert len(reports.of("facts")) == 1
    assert [point["step"] for point in reports.of("checkpoint")] == [12]


def test_the_facts_say_what_is_trained_on_what(small: str, data: Path, tmp_path: Path) -> None:
    reports = Reports()
    language.train(job(tmp_path, data, small, reports, max_steps=1))
    [facts] = reports.of("facts")
    assert (facts["rows"], facts["rows_used"], facts["held_out_rows"], facts["total_steps"]) == (16, 16, 0, 1)
    assert facts["total_parameters"] == facts["trainable_parameters"] == facts["base_parameters"]
    assert facts["dtype"] == "float32" and facts["threads"] >= 1
    assert set(facts["versions"]) == {"python", "torch", "transformers", "peft"}
    assert facts["example"][1] == ["It is 0.<|end|>", True]
    assert facts["supervised_tokens"] == sum(
        len(json.loads(line)["messages"][1]["content"]) + 1 for line in data.read_text().splitlines()
    )


def test_data_that_may_not_leave_the_machine_is_in_no_report_and_no_line(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"messages": chat(f"Who is agent {n}?", f"Agent {n} is Wanda.")} for n in range(120)]
    lines = [json.dumps(row) for row in rows] + [json.dumps({"messages": chat("Who is Wanda?")})]
    (tmp_path / "secret.jsonl").write_text("\n".join([*lines, '{"messages": "Wanda"}', "Wanda"]) + "\n")
    reports = Reports()
    language.train(job(tmp_path / "job", tmp_path / "secret.jsonl", small, reports, private_data=True, max_steps=1))
    assert reports.of("facts")[0]["example"] is None
    assert "Wanda" not in json.dumps(reports.all) + capsys.readouterr().out


def test_rows_held_out_are_measured_at_the_end(small: str, tmp_path: Path) -> None:
    reports = Reports()
    language.train(job(tmp_path, sums(tmp_path / "d.jsonl", rows=120), small, reports, max_steps=3))
    assert ["eval_loss" in point["values"] for point in reports.of("metrics")] == [False, False, True]
    assert "on the rows held out" not in (tmp_path / "output" / "README.md").read_text().split("## How")[0]


def test_the_same_seed_gives_the_same_model_and_another_seed_another(small: str, data: Path, tmp_path: Path) -> None:
    made = {}
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        torch.manual_seed(ord(folder))
        language.train(job(tmp_path / folder, data, small, Reports(), seed=seed, method="lora"))
        made[folder] = weights(tmp_path / folder)
    assert made["a"] == made["b"] != made["c"]


def test_plain_text_is_trained(small: str, tmp_path: Path) -> None:
    (tmp_path / "text.jsonl").write_text(
        "".join(json.dumps({"text": f"Train {n} leaves now. " * 9}) + "\n" for n in range(4))
    )
    reports = Reports()
    language.train(job(tmp_path / "job", tmp_path / "text.jsonl", small, reports))
    [facts] = reports.of("facts")
    assert facts["rows_split"] == 4 and facts["training_examples"] > 8
    assert facts["supervised_tokens"] == 4 * len("Train 0 leaves now. " * 9)


def test_the_longest_example_is_no_longer_than_the_base_reads(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = Reports()
    language.train(
        job(tmp_path / "job", data, f"folder:{gpt2(tmp_path / 'gpt2')}", reports, max_length=512, max_steps=1)
    )
    assert reports.of("facts")[0]["max_length"] == 128
    assert "reads at most 128 tokens" in capsys.readouterr().out


# --- what is taken home ----------------------------------------------------------------------------------------------


def test_a_full_model_loads_in_plain_transformers(small: str, data: Path, tmp_path: Path) -> None:
    language.train(job(tmp_path, data, small, Reports(), name='The "best": sums'))
    output = tmp_path / "output"
    assert {path.name for path in output.iterdir()} == {
        "model.safetensors", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
        "chat_template.jinja", "README.md", "trainer_log.jsonl", "training_args.json",
    }  # fmt: skip
    found = load_file(output / "model.safetensors")
    saved = checkpoint.latest(tmp_path / "checkpoints")
    assert saved is not None
    assert all(torch.equal(found[name], tensor) for name, tensor in saved.weights().items())
    prompt = AutoTokenizer.from_pretrained(output).apply_chat_template(
        chat("What?"), add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    model = AutoModelForCausalLM.from_pretrained(output)
    assert model.generate(**prompt, max_new_tokens=3).shape[1] > prompt["input_ids"].shape[1]


def test_an_adapter_loads_in_plain_peft_and_its_merged_model_agrees(data: Path, tmp_path: Path) -> None:
    language.train(
        job(tmp_path / "job", data, "yard-tiny", Reports(), base_name="yard-tiny", method="lora", max_steps=2)
    )
    output = tmp_path / "job" / "output"
    config = json.loads((output / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "yard-tiny" and config["r"] == 16
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(yard_tiny.model(), str(output)).eval()(input_ids=tokens).logits
        merged = AutoModelForCausalLM.from_pretrained(output / "merged").eval()(input_ids=tokens).logits
        untouched = yard_tiny.model().eval()(input_ids=tokens).logits
    assert torch.allclose(adapted, merged, atol=1e-4)
    assert not torch.allclose(adapted, untouched, atol=1e-2)
    assert AutoTokenizer.from_pretrained(output / "merged").chat_template == yard_tiny.CHAT_TEMPLATE
    assert str(tmp_path) not in (output / "adapter_config.json").read_text() + (output / "README.md").read_text()


def test_an_adapter_names_the_commit_of_its_base(
    small: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = language.base_models.load

    def from_a_hub(*given: Any) -> Any:
        base = real(*given)
        base.revision = "c0ffee"
        return base

    monkeypatch.setattr(language.base_models, "load", from_a_hub)
    language.train(job(tmp_path, data, small, Reports(), method="lora", base_name="yard/small", max_steps=1))
    config = json.loads((tmp_path / "output" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("yard/small", "c0ffee")


def test_a_large_base_is_not_merged_again(
    small: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("agent.training.export", "agent.recipes.language"):
        monkeypatch.setattr(f"{module}.MERGED_UP_TO", 1000)
    language.train(job(tmp_path, data, small, Reports(), method="lora", max_steps=1))
    assert not (tmp_path / "output" / "merged").exists()
    assert "AutoPeftModelForCausalLM" in (tmp_path / "output" / "README.md").read_text()


def test_an_adapter_finds_a_base_on_disk(small: str, data: Path, tmp_path: Path) -> None:
    language.train(job(tmp_path, data, small, Reports(), method="lora", base_name=small.removeprefix("folder:")))
    AutoPeftModelForCausalLM.from_pretrained(tmp_path / "output")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_gpt2_with_tied_weights_and_no_template_trains_and_loads(method: str, data: Path, tmp_path: Path) -> None:
    reports = Reports()
    base = f"folder:{gpt2(tmp_path / 'gpt2')}"
    language.train(job(tmp_path, data, base, reports, method=method, max_length=128, max_steps=8))
    assert reports.losses[-1] < reports.losses[0]
    output = tmp_path / "output" / ("merged" if method == "lora" else "")
    model = AutoModelForCausalLM.from_pretrained(output)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert AutoTokenizer.from_pretrained(output).chat_template


def test_the_export_renders_what_was_trained(small: str, data: Path, tmp_path: Path) -> None:
    """Rule 4: byte for byte the same prefix, through the exported tokenizer alone."""
    reports = Reports()
    language.train(job(tmp_path, data, small, reports, method="lora", max_steps=1))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "output")
    trained = "".join(text for text, _ in reports.of("facts")[0]["example"])
    messages = json.loads(data.read_text().splitlines()[0])["messages"]
    assert tokenizer.apply_chat_template(messages, tokenize=False).startswith(trained)
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert reports.of("facts")[0]["example"][0] == [prompt, False]


def test_weights_go_home_in_the_format_they_came_in(data: Path, tmp_path: Path) -> None:
    folder = llama(tmp_path / "half")
    AutoModelForCausalLM.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    language.train(job(tmp_path / "job", data, f"folder:{folder}", Reports(), max_steps=1))
    found = load_file(tmp_path / "job" / "output" / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}


def test_the_card_and_the_log_tell_the_run(small: str, data: Path, tmp_path: Path) -> None:
    reports = Reports()
    language.train(
        job(tmp_path, data, small, reports, name='Sums: the "best"\nones', base_name="yard/small", max_steps=4)
    )
    output = tmp_path / "output"
    front = (output / "README.md").read_text().split("---")[1].strip().splitlines()
    assert {"library_name: transformers", "base_model: yard/small", "pipeline_tag: text-generation"} <= set(front)
    assert 'model_name: "Sums: the \\"best\\" ones"' in front
    log = [json.loads(line) for line in (output / "trainer_log.jsonl").read_text().splitlines()]
    assert [line["current_steps"] for line in log] == [1, 2, 3, 4]
    assert [line["loss"] for line in log] == reports.losses
    assert log[-1]["percentage"] == 100 and log[-1]["remaining_time"] == 0
    arguments = json.loads((output / "training_args.json").read_text())
    assert arguments["parameters"]["seed"] == 42 and "example" not in arguments


# --- stop, resume ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method, stops", [("full", [5]), ("lora", [2, 7])])
def test_a_stopped_job_goes_on_to_the_very_same_weights(
    method: str, stops: list[int], small: str, data: Path, tmp_path: Path
) -> None:
    """Rule 8: 16 rows in batches of 3 are 6 steps an epoch; the stops are inside the first and the second."""
    whole, parts = Reports(), Reports()
    settings: dict[str, Any] = {"method": method, "max_steps": 11}
    language.train(job(tmp_path / "whole", data, small, whole, **settings))
    done = 0
    for stop in stops:
        stopped = job(tmp_path / "parts", data, small, parts, stop=after(stop - done), **settings)
        assert language.train(stopped) == "stopped"
        assert parts.of("checkpoint")[-1]["step"] == stop
        assert not (tmp_path / "parts" / "output").exists()
        done = stop
    torch.manual_seed(5)
    assert language.train(job(tmp_path / "parts", data, small, parts, **settings)) == "completed"
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert parts.losses == whole.losses
    receipts = [point for point in parts.of("checkpoint") if point.get("resumed")]
    assert [receipt["verdict"] for receipt in receipts] == ["exact"] * len(stops)
    assert all(receipt["probe_before"] == receipt["probe_after"] for receipt in receipts)
    log = (tmp_path / "parts" / "output" / "trainer_log.jsonl").read_text().splitlines()
    assert [json.loads(line)["current_steps"] for line in log] == list(range(1, 12))


def test_a_killed_job_goes_on_from_its_last_checkpoint(small: str, data: Path, tmp_path: Path) -> None:
    whole, parts = Reports(), Reports()
    language.train(job(tmp_path / "whole", data, small, whole, max_steps=6))

    class Killed(BaseException):
        pass

    def killed_at_five(kind: str, **fields: Any) -> None:
        parts(kind, **fields)
        if kind == "metrics" and fields["step"] == 5:
            raise Killed

    first = job(tmp_path / "parts", data, small, killed_at_five, max_steps=6, checkpoint_seconds=0.0)  # type: ignore[arg-type]
    with pytest.raises(Killed):
        language.train(first)
    assert len(list((tmp_path / "parts" / "checkpoints").iterdir())) == 2
    language.train(job(tmp_path / "parts", data, small, parts, max_steps=6))
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert [point["step"] for point in parts.of("metrics")] == [1, 2, 3, 4, 5, 5, 6]
    log = (tmp_path / "parts" / "output" / "trainer_log.jsonl").read_text().splitlines()
    assert [json.loads(line)["current_steps"] for line in log] == [1, 2, 3, 4, 5, 6]


def test_changed_data_makes_a_warm_start_that_says_why(small: str, tmp_path: Path) -> None:
    data, reports = sums(tmp_path / "d.jsonl"), Reports()
    language.train(job(tmp_path / "job", data, small, reports, stop=after(2)))
    sums(data, rows=13)
    language.train(job(tmp_path / "job", data, small, reports))
    [receipt] = [point for point in reports.of("checkpoint") if point.get("resumed")]
    assert receipt["verdict"] == "warm start"
    assert "data, template or truncation" in receipt["differences"]


def test_a_checkpoint_of_another_base_is_refused(small: str, data: Path, tmp_path: Path) -> None:
    language.train(job(tmp_path / "job", data, small, Reports(), stop=after(1)))
    other = f"folder:{llama(tmp_path / 'other', num_hidden_layers=1)}"
    with pytest.raises(JobFailed, match="other settings or another base model"):
        language.train(job(tmp_path / "job", data, other, Reports()))


def test_a_finished_job_is_published_again_without_training(small: str, data: Path, tmp_path: Path) -> None:
    language.train(job(tmp_path, data, small, Reports()))
    made = weights(tmp_path)
    again = Reports()
    assert language.train(job(tmp_path, data, small, again)) == "completed"
    assert again.losses == [] and weights(tmp_path) == made


def test_a_stop_before_the_first_step_keeps_nothing(small: str, data: Path, tmp_path: Path) -> None:
    reports = Reports()
    assert language.train(job(tmp_path, data, small, reports, stop=lambda: True)) == "stopped"
    assert language.train(job(tmp_path, data, small, reports, stop=after(0))) == "stopped"
    assert reports.losses == [] and reports.of("checkpoint") == []


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_the_job_at_its_step(
    small: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 10: nothing is smoothed, the last good checkpoint stays, the rows are named."""
    real, calls = loss.accumulate, iter(range(100))
    monkeypatch.setattr(loss, "accumulate", lambda *a: math.nan if next(calls) == 2 else real(*a))
    reports = Reports()
    with pytest.raises(JobFailed) as failure:
        language.train(job(tmp_path, data, small, reports, checkpoint_seconds=0.0, max_steps=6))
    assert failure.value.cause == "data"
    assert "at step 3, on the rows that begin in lines" in failure.value.message
    assert "The checkpoint of step 2 is kept." in failure.value.message
    assert len(reports.losses) == 2
    found = checkpoint.latest(tmp_path / "checkpoints")
    assert found is not None and found.step == 2


def test_weights_that_are_no_numbers_are_noticed(small: str, data: Path, tmp_path: Path) -> None:
    folder = llama(tmp_path / "base")
    broken = load_file(folder / "model.safetensors")
    broken["model.layers.0.mlp.up_proj.weight"][0, 0] = math.inf
    save_file(broken, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(JobFailed, match="stopped being a number at step 1"):
        language.train(job(tmp_path / "job", data, f"folder:{folder}", Reports()))


@pytest.mark.parametrize("failure", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_short_memory_halves_the_micro_batch_and_keeps_the_gradient(
    failure: Exception, small: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    plain, pressed = Reports(), Reports()
    language.train(job(tmp_path / "plain", data, small, plain, batch_size=8))
    real = loss.summed

    def cramped(model: Any, batch: Any, device: Any) -> Any:
        if len(batch.inputs) > 2:
            raise failure
        return real(model, batch, device)

    monkeypatch.setattr(loss, "summed", cramped)
    language.train(job(tmp_path / "pressed", data, small, pressed, batch_size=8))
    assert pressed.losses == pytest.approx(plain.losses, rel=1e-4)
    assert capsys.readouterr().out.count("Memory was short at step 1") == 2


def test_a_step_that_is_tried_again_begins_from_nothing(
    small: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory runs out when half of the gradient is there already; that half may not count twice."""
    plain, pressed = Reports(), Reports()
    monkeypatch.setattr(language, "token_budget", lambda *_: 200)
    language.train(job(tmp_path / "plain", data, small, plain, batch_size=8, max_steps=1))
    real, calls = loss.summed, iter(range(100))

    def once(model: Any, batch: Any, device: Any) -> Any:
        if next(calls) == 1:
            raise MemoryError
        return real(model, batch, device)

    monkeypatch.setattr(loss, "summed", once)
    language.train(job(tmp_path / "pressed", data, small, pressed, batch_size=8, max_steps=1))
    norms = [reports.of("metrics")[0]["values"]["grad_norm"] for reports in (plain, pressed)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def test_what_runs_between_two_steps_changes_nothing_inside_them(
    small: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 7, with a loss that draws random numbers as dropout would."""
    real = loss.summed
    monkeypatch.setattr(loss, "summed", lambda *given: real(*given) * (1 + torch.rand(())))
    quiet, busy = Reports(), Reports()
    language.train(job(tmp_path / "quiet", data, small, quiet))

    def drawing(kind: str, **fields: Any) -> None:
        torch.rand(17)
        busy(kind, **fields)

    language.train(job(tmp_path / "busy", data, small, drawing))  # type: ignore[arg-type]
    assert busy.losses == quiet.losses and weights(tmp_path / "busy") == weights(tmp_path / "quiet")


def test_dropout_of_the_base_is_off(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config of GPT-2 asks for dropout; with it the gradient would depend on how a step is cut."""
    base = f"folder:{gpt2(tmp_path / 'gpt2')}"
    found = []
    for budget in (1, 10_000):
        monkeypatch.setattr(language, "token_budget", lambda *_, budget=budget: budget)
        reports = Reports()
        language.train(job(tmp_path / str(budget), data, base, reports, max_length=128, max_steps=2))
        found.append(reports.losses)
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_row_that_does_not_fit_by_itself_fails_with_figures(
    small: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(loss, "summed", never)
    with pytest.raises(JobFailed) as failure:
        language.train(job(tmp_path, data, small, Reports(), batch_size=8))
    assert failure.value.cause == "out_of_memory"
    assert "Out of memory at step 1 with" in failure.value.message and "GB" in failure.value.message
    assert "LoRA" in failure.value.advice


def test_a_model_that_does_not_fit_at_all_says_so(
    small: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: not enough memory")

    monkeypatch.setattr(language.optimizer, "build", full)
    with pytest.raises(JobFailed, match="The model does not fit") as failure:
        language.train(job(tmp_path, data, small, Reports(), method="lora"))
    assert failure.value.cause == "out_of_memory" and "smaller base model" in failure.value.advice


def test_other_errors_are_not_taken_for_short_memory(
    small: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(loss, "summed", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        language.train(job(tmp_path, data, small, Reports()))


def test_a_full_disk_ends_the_attempt_and_keeps_the_last_checkpoint(
    small: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = checkpoint.save_file, iter(range(100))

    def filling(*arguments: Any, **named: Any) -> None:
        if next(calls) >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments, **named)

    monkeypatch.setattr(checkpoint, "save_file", filling)
    with pytest.raises(AgentFailed, match="The disk is full"):
        language.train(job(tmp_path, data, small, Reports(), checkpoint_seconds=0.0))
    found = checkpoint.latest(tmp_path / "checkpoints")
    assert found is not None and found.step == 1


def test_data_that_cannot_be_used_is_a_failure_of_the_data(small: str, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    for data in (tmp_path / "empty.jsonl", tmp_path / "missing.jsonl"):
        with pytest.raises(JobFailed) as failure:
            language.train(job(tmp_path / "job", data, small, Reports()))
        assert failure.value.cause == "data"


# --- preloading ------------------------------------------------------------------------------------------------------


def test_a_job_starts_from_a_preloaded_process(data: Path, tmp_path: Path) -> None:
    """Forked after the import: torch's threads and CUDA would not survive, so the import must not have started them."""
    code = f"""
import os, sys
from pathlib import Path
from agent.recipes import Assignment, check, load
language = load("language")
import torch
assert not torch.cuda.is_initialized()
assert os.environ["GOMP_SPINCOUNT"]
child = os.fork()
if child == 0:
    parameters, _ = check("language", {{"max_steps": 2, "batch_size": 2, "max_length": 64}}, "yard-tiny")
    ended = language.train(Assignment(parameters, Path({str(data)!r}), None, "yard-tiny", "yard-tiny",
                           Path({str(tmp_path)!r}), "Forked", lambda *a, **k: None, lambda: False))
    os._exit(0 if ended == "completed" else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "output" / "merged" / "model.safetensors").is_file()
