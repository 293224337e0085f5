"""`make demo`: the main job in the terminal. The same training on the server and on an agent, side by side, then the result.

It starts a yard of its own in a temporary folder, signs somebody up, upgrades, brings the data, trains in both places, and
leaves the two models in VAR_DIR/demo. Nothing is downloaded; Ctrl-C ends all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from rich.columns import Columns  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.panel import Panel  # noqa: E402
from rich.progress import BarColumn, Progress, TaskID, TextColumn  # noqa: E402
from rich.table import Table  # noqa: E402
from rich.text import Text  # noqa: E402

from agent import demo_data  # noqa: E402
from agent.formats import DataError  # noqa: E402
from agent.screen import duration  # noqa: E402
from tests.demo.plot import plotted  # noqa: E402
from tests.running import FINAL_STATES, AgentProcess, Member, NotInTime, Refused, RunningYard  # noqa: E402

STEPS = 100
PARAMETERS = {"method": "lora", "batch_size": 8, "max_length": 384, "seed": 42}
TITLES = {"server": "On the server", "agent": "On your machine"}
STAGES = {"prepare": "prepare", "train": "train", "upload": "save", "done": "done"}
LOOK_SECONDS = 0.5
PLOT_CELLS = (26, 9)  # two of them fit beside each other on 80 columns
SAMPLE = "described-functions"


class GivenUp(Exception):
    """The demo cannot go on; `str()` says why and what to do."""


@dataclass
class Trained:
    """One place's training once it is over."""

    place: str
    job: dict[str, Any]
    curve: list[list[Any]]
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; answers the exit code."""
    options = _parser().parse_args(arguments)
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        run(options, console)
    except (GivenUp, DataError) as reason:
        console.print(Text(str(reason)), soft_wrap=True)
        return 2
    except (Refused, NotInTime, AssertionError) as reason:
        console.print(Text(f"The demo could not be finished: {reason}"), soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("\nEnded. Nothing is left running.")
        return 130
    return 0


def run(options: argparse.Namespace, console: Console) -> None:
    """Everything, from the yard's start to its end. Raises GivenUp, DataError, Refused, NotInTime."""
    target = Path(os.environ.get("VAR_DIR") or ROOT / "var").expanduser().resolve() / "demo"
    with tempfile.TemporaryDirectory(prefix="trainyard-demo-") as temporary:
        folder = Path(temporary)
        data = _data_file(options.data, folder, console)
        console.print("Starting a yard of its own ...")
        with RunningYard(folder / "yard") as yard:
            member = Member.signed_up(yard.url, "demo", "pro")
            credits = member.credits()["remaining"]
            console.print(f"Signed up and upgraded to the plan Pro: {credits:,} credits.")
            dataset = bring(member, data, options.mapping, console)
            with AgentProcess(yard, member.new_key()["key"], folder / "agent", "this machine") as agent:
                machine = agent.wait_online(member, 60)
                if not machine["ready"]:
                    raise GivenUp(f"This Python lacks {', '.join(machine['missing'])}. {machine['advice']}")
                console.print(f"An agent on this machine is connected ({machine['machine']['os']}).\n")
                jobs = order(member, dataset, machine["id"], options.steps, console)
                trained = follow(member, jobs, console)
                folders = take_home(member, trained, target)
                show(member, trained, credits, folders, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make demo", description="Train a small model on the server and on an agent.")
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="your own data: JSONL, JSON, CSV or TXT (make demo DATA=FILE)"
    )
    parser.add_argument(
        "--mapping",
        type=_mapping,
        metavar="JSON",
        help='which column is what: {"prompt": "question", "completion": "answer"}',
    )
    parser.add_argument("--steps", type=_steps, default=STEPS, help=f"how many steps to train (default: {STEPS})")
    return parser


def _steps(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError("give a whole number from 2 on")
    return int(text)


def _mapping(text: str) -> dict[str, str]:
    try:
        given = json.loads(text)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise argparse.ArgumentTypeError('give an object such as {"prompt": "question", "completion": "answer"}')
    return {str(target): str(column) for target, column in given.items()}


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _data_file(given: Path | None, folder: Path, console: Console) -> Path:
    if given is None:
        path = folder / f"{SAMPLE}.jsonl"
        rows = demo_data.build(path)
        console.print(f"The sample: {rows:,} functions of this Python's standard library with their descriptions.")
        return path
    if not given.expanduser().is_file():
        raise GivenUp(
            f"There is no file {given}. Give the path of a JSONL, JSON, CSV or TXT file: make demo DATA=rows.jsonl"
        )
    return given.expanduser().resolve()


def bring(member: Member, path: Path, mapping: dict[str, str] | None, console: Console) -> int:
    """Upload the data and answer its id; where columns have to be mapped, the server's suggestion is taken."""
    try:
        made = member.new_dataset(path, mapping=mapping)
    except Refused as refusal:
        if mapping or "columns" not in refusal.error:
            raise GivenUp(f"{path.name} cannot be used. {refusal.error['message']}") from None
        mapping = refusal.error.get("suggestion")
        if not mapping:
            columns = ", ".join(refusal.error["columns"])
            raise GivenUp(
                f"Which column of {path.name} is what? It has: {columns}. Say it like this:\n"
                f"  {sys.executable} {Path(__file__).relative_to(ROOT)} --data {path} --mapping "
                '\'{"prompt": "question", "completion": "answer"}\''
            ) from None
        shown = ", ".join(f"{column} is the {target}" for target, column in mapping.items())
        console.print(f"The columns are taken like this: {shown}.")
        made = member.new_dataset(path, mapping=mapping)
    left_out = f", {made['bad_count']:,} left out" if made["bad_count"] else ""
    console.print(f"Data set {made['name']}: {made['rows']:,} rows{left_out}.")
    return int(made["id"])


def order(member: Member, dataset: int, machine: int, steps: int, console: Console) -> dict[str, int]:
    """Order the same training in both places; place -> job."""
    parameters = {**PARAMETERS, "max_steps": steps}
    jobs = {
        "server": member.new_job("demo on the server", "server", parameters, dataset),
        "agent": member.new_job("demo on this machine", {"agent": machine}, parameters, dataset),
    }
    quoted = member.job(jobs["server"])["credits"]
    console.print(
        f"The same training in both places: {steps:,} steps with LoRA, {PARAMETERS['batch_size']} rows each, from yard-tiny.\n"
        f"The server quotes {_credits(quoted['quoted'])} and promises {quoted['at_most']:,} at most; your machine is free.\n"
    )
    return jobs


# --- while it trains ---------------------------------------------------------------------------------------------------


def follow(member: Member, jobs: dict[str, int], console: Console) -> list[Trained]:
    """Show how far both are until both are over. Raises GivenUp when one did not complete."""
    began = time.monotonic()
    seconds: dict[str, float] = {}
    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=24, complete_style="green", finished_style="green"),
        TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[words]}", style="dim"),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {place: bars.add_task(f"{TITLES[place]:<15}", total=100, words="waiting") for place in jobs}
        spoken: dict[str, tuple[str, int]] = {}
        while len(seconds) < len(jobs):
            for place in [place for place in jobs if place not in seconds]:
                told = member.job(jobs[place])
                _move(bars, tasks[place], told)
                if not console.is_terminal:
                    _speak(console, place, told, spoken)
                if told["status"] in (*FINAL_STATES, "paused"):
                    seconds[place] = time.monotonic() - began
            time.sleep(LOOK_SECONDS)
    console.print()
    return [_over(member, place, job, seconds[place]) for place, job in jobs.items()]


def _over(member: Member, place: str, number: int, seconds: float) -> Trained:
    told = member.job(number)
    if told["status"] != "completed":
        error = told["error"] or {"message": "It was ended from outside.", "advice": None}
        raise GivenUp(
            f"{TITLES[place]}, the training is {told['status']}. {error['message']} {error['advice'] or ''}".rstrip()
        )
    return Trained(place, told, member.curve(number), seconds)


def _move(bars: Progress, task: TaskID, told: dict[str, Any]) -> None:
    bars.update(task, completed=told["progress"], words=_words(told))


def _words(told: dict[str, Any]) -> str:
    """Where a job is: `step 40 of 100, loss 2.31, 50 s left`."""
    if told["status"] == "queued":
        return "waiting"
    if told["status"] != "training":
        return STAGES.get(told["stage"], told["stage"]) if told["status"] != "completed" else "done"
    if told["step"] == told["total_steps"]:
        return STAGES["upload"]
    if not told["step"]:
        return "first step"
    parts = [f"step {told['step']:,} of {told['total_steps']:,}"]
    if told["loss"] is not None:
        parts.append(f"loss {told['loss']:.2f}")
    if told["eta_seconds"] is not None:
        parts.append(f"{duration(told['eta_seconds'])} left")
    return ", ".join(parts)


def _speak(console: Console, place: str, told: dict[str, Any], spoken: dict[str, tuple[str, int]]) -> None:
    """Into a file or a pipe: a line for each stage and each tenth of the way."""
    now = (told["stage"], told["progress"] // 10)
    if spoken.get(place) != now:
        spoken[place] = now
        console.print(f"{TITLES[place]:<15}  {told['progress']:>3} %  {_words(told)}")


# --- the result --------------------------------------------------------------------------------------------------------


def take_home(member: Member, trained: list[Trained], target: Path) -> dict[str, Path]:
    """Download both models; an earlier demo's are replaced."""
    folders = {}
    for one in trained:
        folder = target / one.place
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        folders[one.place] = member.download(one.job["id"], folder)
    return folders


def show(member: Member, trained: list[Trained], credits: int, folders: dict[str, Path], console: Console) -> None:
    """Both curves, what it cost, and where the models lie."""
    console.print(Columns([_panel(one) for one in trained]))
    console.print(_comparison(trained))
    console.print(_receipt(trained))
    spent = credits - member.credits()["remaining"]
    console.print(f"{_credits(spent)} of {credits:,} used.\n" if spent else "No credits used.\n")
    console.print("The models:")
    for line in _lying(folders):
        console.print(Text(f"  {line}"), soft_wrap=True)
    console.print("\nThe same in the browser, with everything kept: make run")


def _panel(one: Trained) -> Panel:
    drawn = "\n".join(plotted([(step, value) for step, value in one.curve], *PLOT_CELLS))
    return Panel(Text(drawn), title=f"{TITLES[one.place]}: loss", title_align="left", border_style="dim", expand=False)


def _comparison(trained: list[Trained]) -> str:
    server, agent = (one.curve for one in trained)
    if server == agent:
        return f"Both curves are equal at all {len(server):,} steps: same data, same seed, same model.\n"
    apart = max(abs(a[1] - b[1]) for a, b in zip(server, agent, strict=True))
    return f"The curves differ by {apart:.2g} at most: the places do not compute on the same hardware.\n"


def _receipt(trained: list[Trained]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "first loss", "last loss", "time", "quoted", "charged", "given back"):
        table.add_column(name, justify="left" if not name else "right")
    for one in trained:
        credits, told = one.job["credits"], one.curve
        cost = [f"{credits[name]:,}" for name in ("quoted", "charged", "refunded")]
        if one.place == "agent":
            cost = ["free", "–", "–"]
        table.add_row(TITLES[one.place], f"{told[0][1]:.3f}", f"{told[-1][1]:.3f}", duration(one.seconds), *cost)
    return table


def _lying(folders: dict[str, Path]) -> Iterator[str]:
    for place, folder in folders.items():
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        yield f"{TITLES[place]:<15}  {folder}  ({size / 1e6:.1f} MB)"
    merged = folders["server"] / "merged"
    if merged.is_dir():
        yield f'Load one: AutoModelForCausalLM.from_pretrained("{merged}")'


def _credits(count: int) -> str:
    return f"{count:,} credit" if count == 1 else f"{count:,} credits"


if __name__ == "__main__":
    sys.exit(main())
