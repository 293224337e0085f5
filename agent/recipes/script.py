"""The recipe `script`: a member's own, unmodified training script.

Read `train` first, then downwards. This process only starts the script and follows it; the script's code never runs in
it. On a member's machine the script runs in its own folder with the member's rights; on the server in a box. The parts
are in `agent.scripts`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from agent import sandbox
from agent.errors import AgentFailed, JobFailed
from agent.recipes import Assignment
from agent.sandbox import Box, Verdict
from agent.scripts import environment, interpreter, requirements
from agent.scripts.event_files import sizes
from agent.scripts.follow import Follower, Running, open_events
from agent.scripts.found_files import Folder
from agent.scripts.outputs import collect, forgotten
from agent.scripts.own_process import OwnProcess
from agent.scripts.setup import TOOLS, UNPACKED, WORK, Setup, describe, prepare, seen_at_work

HELPER = "trainyard.py"
# A full disk, a broken one, one that went read-only; no descriptors and no memory left.
_OF_THE_MACHINE = {
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM,
}  # fmt: skip


class _Stopped(Exception):
    """A stop was asked for before the script was started."""


def train(assignment: Assignment) -> Literal["completed", "stopped"]:
    """Carry out one job in this process. Raises JobFailed with a cause, a sentence and advice; AgentFailed when the
    sandbox cannot be had."""
    assignment.report("stage", stage="prepare", message="Looking at the script.")
    with _on_the_server(assignment):
        setup = prepare(assignment)
    try:
        before = sizes(replace(setup.folder, attend=_until_a_stop(assignment)))
        with _started(assignment, setup) as (running, stdout, events):
            assignment.report("stage", stage="train", message="The script is running.")
            follower = Follower(assignment, setup, running, stdout, events, before)
            with seen_at_work(assignment.folder):
                verdict = follower.to_the_end()
    except _Stopped:
        return "stopped"
    assignment.report("facts", exit_code=follower.exit_code, exit_status=verdict.status)
    if verdict.status == "disk_limit":
        _remove_work(assignment)
    if follower.was_stopped and not verdict.is_ours:
        return "stopped"
    if verdict.status == "exit" and follower.missing_module:
        _refuse_for_want_of(follower.missing_module, setup)
    if verdict.status == "exit" and setup.terms.sandbox and follower.wanted_the_network:
        message = "The script tried to reach the network, and scripts on the server have none."
        raise JobFailed("member_code", message, "Put what it fetches into the zip, or train on your own machine.")
    _refuse_a_bad_end(verdict)
    with _on_the_server(assignment):
        _keep_outputs(assignment, setup)
    return "completed"


def _until_a_stop(assignment: Assignment) -> Callable[[], None]:
    def attend() -> None:
        if assignment.stop_requested():
            raise _Stopped

    return attend


def _on_the_server(assignment: Assignment) -> contextlib.AbstractContextManager[None]:
    return left_by_the_script() if assignment.terms.get("sandbox") else contextlib.nullcontext()


@contextlib.contextmanager
def left_by_the_script() -> Iterator[None]:
    """What cannot be done with the files that a script has left is its doing, unless the machine lacks something."""
    try:
        yield
    except OSError as error:
        if error.errno in _OF_THE_MACHINE:
            raise
        message = f"The script's folder cannot be used as the script has left it: {error.strerror or error}."
        raise JobFailed("member_code", message, "Order the training again; it begins from the archive.") from error


@contextlib.contextmanager
def _started(assignment: Assignment, setup: Setup) -> Iterator[tuple[Running, int, int]]:
    """The running script and the two descriptors to read; nothing of it is left behind."""
    tools = (assignment.folder / WORK if setup.terms.sandbox else assignment.folder) / TOOLS
    with _on_the_server(assignment):
        events = _laid_out(tools)
    stdout, stdout_end = os.pipe()
    try:
        start = _start_in_a_box if setup.terms.sandbox else _start_as_own
        running = start(assignment, setup, tools, stdout_end)
        os.close(stdout_end)
        stdout_end = -1
        try:
            yield running, stdout, events
        finally:
            running.close()
    finally:
        for descriptor in (stdout, stdout_end, events):
            if descriptor >= 0:
                os.close(descriptor)


def _laid_out(tools: Path) -> int:
    """Put the helper and its pipe there, in place of whatever an earlier attempt has left; the descriptor to read."""
    sandbox.remove(tools)
    events = open_events(tools / "events")
    (tools / HELPER).write_bytes(pkgutil.get_data("agent.scripts", f"helper/{HELPER}") or b"")
    return events


def _start_as_own(assignment: Assignment, setup: Setup, tools: Path, stdout: int) -> Running:
    terms, wanted = setup.terms, assignment.parameters.get("environment")
    python = _own_python(assignment, setup)
    lacking = environment.missing(wanted, terms.environment, os.environ)
    if lacking:
        raise JobFailed(
            "data",
            f"The agent may not give the script {', '.join(lacking)}: it was not started with that variable set and "
            f"--pass-env {lacking[0]}.",
            "Start the agent that way, or leave the variable out, then press Try again.",
        )
    given = environment.on_own_machine(os.environ, terms.environment, wanted)
    checkpoint = setup.checkpoint and str(setup.folder.path / setup.checkpoint)
    line = setup.line(checkpoint)
    assignment.report("facts", **describe(setup, line, str(python), None, sorted(set(given) & set(terms.environment))))
    given |= environment.for_the_script(str(tools), checkpoint, given.get("PYTHONPATH", ""))
    return OwnProcess([str(python), *line], setup.folder.path, given, stdout)


def _own_python(assignment: Assignment, setup: Setup) -> Path:
    """The interpreter: named, made for the requirements, or the agent's own."""
    named = assignment.parameters.get("python")
    if named:
        return interpreter.named(named, setup.terms.roots)
    if setup.requirements is None:
        return Path(sys.executable)

    def say(message: str) -> None:
        if assignment.stop_requested():
            raise _Stopped

    assignment.report("stage", stage="prepare", message="Making an environment for the script.")
    terms = setup.terms
    return interpreter.for_requirements(
        setup.folder.path / setup.requirements, Path(terms.environments), terms.environment, say
    )


def _start_in_a_box(assignment: Assignment, setup: Setup, tools: Path, stdout: int) -> Running:
    if setup.requirements is not None:
        _refuse_what_is_not_here(setup.folder, setup.requirements)
    terms, limits = setup.terms.sandbox, setup.limits
    assert limits is not None
    lane = int(terms["lane"])
    box = Box(assignment.folder / WORK, limits, lane, environment=environment.in_sandbox(os.environ), gpus=_gpus(terms))
    checkpoint = setup.checkpoint and box.inside(setup.folder.path / setup.checkpoint)
    box.environment |= environment.for_the_script(box.inside(tools), checkpoint)
    line = setup.line(checkpoint)
    assignment.report("facts", **describe(setup, line, "the server's", sandbox.LANES[lane], []))
    try:
        return box.start([sys.executable, *line], stdout, cwd=box.inside(setup.folder.path))
    except sandbox.Unavailable as failure:
        raise AgentFailed(str(failure)) from None


def _refuse_what_is_not_here(folder: Folder, name: str) -> None:
    """Raise JobFailed for what a requirements file asks for and the server does not have."""
    with folder.open(name) as file:
        lacking = requirements.unmet(file)
    option = next((line for line in lacking if line.startswith("-")), None)
    if option:
        message = f"{name} says {option}, which is not followed on the server."
        raise JobFailed("member_code", message, "List the packages themselves there, or train on your own machine.")
    if lacking:
        raise JobFailed(
            "member_code",
            f"The server does not have {', '.join(lacking)}, which {name} asks for.",
            "Leave out what the script can do without, ask the operator to install it, or train on your own machine.",
        )


def _gpus(terms: Mapping[str, Any]) -> list[int] | None:
    """The devices of this worker, as it was started; none on a server that trains on its processor. Raises AgentFailed for
    names that are no numbers: a box without its device would train on the processor, at the price of the device."""
    if terms.get("accelerator") != "cuda":
        return None
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    numbers = [number.strip() for number in named.split(",")]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise AgentFailed(
            f"CUDA_VISIBLE_DEVICES of this worker is {named!r}. A box needs its devices by number, such as 0 or 0,1."
        )
    return [int(number) for number in numbers]


def _remove_work(assignment: Assignment) -> None:
    """What a script has filled its box with does not stay on the server's disk; another try begins from the archive."""
    (assignment.folder / UNPACKED).unlink(missing_ok=True)
    sandbox.remove(assignment.folder / WORK)
    print("(What it had written was removed.)", flush=True)


def _refuse_for_want_of(module: str, setup: Setup) -> None:
    message = f"The script needs the module {module}, which its Python does not have."
    if setup.terms.sandbox:
        advice = "Leave it out, ask the operator to install it, or train on your own machine."
    else:
        advice = "List it in requirements.txt, or name under Interpreter a Python that has it, then press Try again."
    raise JobFailed("member_code", message, advice)


def _refuse_a_bad_end(verdict: Verdict) -> None:
    if verdict.status == "ok":
        return
    if verdict.is_ours:
        raise AgentFailed(verdict.message)
    cause = "out_of_memory" if verdict.status == "memory_limit" else "member_code"
    raise JobFailed(cause, verdict.message, verdict.advice)


def _keep_outputs(assignment: Assignment, setup: Setup) -> None:
    record = {"name": assignment.name, "script": setup.entry, "settings": assignment.parameters}
    kept, notes = collect(setup, assignment.folder / "output", record)
    for note in notes:
        print(f"({note})", flush=True)
    left = [] if kept else forgotten(setup)
    if not kept and not notes:
        print(f"(No file matched {', '.join(setup.outputs)}, so none is kept.)", flush=True)
    if left:
        print(f"(It wrote {', '.join(left)}: name that under Files to keep, or as outputs in yard.toml.)", flush=True)
        assignment.report("facts", outputs_left=left)
    assignment.report("facts", outputs=[file["name"] for file in kept[:100]])
