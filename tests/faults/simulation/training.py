"""A training under whoever looks after it: prints counted lines, reports steps and checkpoints, obeys, dies.

What it printed is remembered here, beyond the reach of every fault, for the comparison at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from agent.protocol import JobSpec
from agent.spool import Final, Spool

LOOK_SECONDS = 0.2
GRACE = 10.0
CANCEL_PATIENCE = 2.0
Orders = Callable[[], str | None]


@dataclass(frozen=True)
class Script:
    """What a training does: `steps` of `seconds` each, `lines` printed in each, a checkpoint every so many."""

    steps: int = 20
    seconds: float = 1.0
    lines: int = 5
    checkpoint_every: int = 4
    saving: float = 0.3
    obeys: bool = True
    dies_at: int | None = None
    dies_of: Final = field(
        default_factory=lambda: Final("failed", "member_code", "ValueError: no.", "Look at the log.")
    )


@dataclass
class Told:
    """One attempt as it really was: everything it put into its spool, when it ran, how it ended."""

    job: int
    number: int
    where: str
    began: float
    ended: float | None = None
    items: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"log": [], "metrics": [], "event": []})
    first_step: int = 1
    final: Final | None = None
    steps_at: list[float] = field(default_factory=list)
    ordered_at: float | None = None
    lost_lines: int = 0


class Checkpoints:
    """Which step each job's folder holds, by where the folder is."""

    def __init__(self) -> None:
        self._steps: dict[tuple[str, int], int] = {}

    def save(self, where: str, job: int, step: int) -> None:
        self._steps[(where, job)] = step

    def step(self, where: str, job: int) -> int:
        return self._steps.get((where, job), 0)


class Training:
    """One attempt from its start to its end; cancelling the coroutine kills it."""

    def __init__(
        self, spec: JobSpec, script: Script, spool: Spool, orders: Orders, told: Told, checkpoints: Checkpoints,
        folder: str, deliver: Callable[[], Awaitable[bool]],
    ) -> None:  # fmt: skip
        self.spec, self.script, self.spool, self.orders, self.told = spec, script, spool, orders, told
        self._checkpoints, self._folder, self._deliver = checkpoints, folder, deliver
        self._time = asyncio.get_running_loop().time
        self._counted = 0

    async def run(self) -> Final:
        """Carry it out; the spool is not finished yet when it ends."""
        try:
            self._event("stage", stage="prepare", message="Fetching.")
            return await self._train()
        finally:
            self.told.ended = self._time()

    async def _train(self) -> Final:
        step = self.told.first_step = self._checkpoints.step(self._folder, self.spec.job) + 1
        self._event("stage", stage="train", total_steps=self.script.steps)
        while step <= self.script.steps:
            if (order := await self._wait(self.script.seconds)) is not None:
                return await self._obey(order, step - 1)
            if step == self.script.dies_at:
                return self.script.dies_of
            self._step(step)
            if step % self.script.checkpoint_every == 0:
                if (order := await self._wait(self.script.saving)) is not None:
                    return await self._obey(order, step)
                self._save(step)
            step += 1
        self._event("stage", stage="upload", message="Saving.")
        while not await self._deliver():
            if (order := await self._wait(1.0)) is not None:
                return await self._obey(order, step - 1)
        self._event("stage", stage="done")
        return Final("completed")

    def _step(self, step: int) -> None:
        self.told.steps_at.append(self._time())
        self._put("metrics", {"steps": [step], "values": {"loss": [round(2 / step, 6)]}})
        self._print(self.script.lines)
        self.spool.sync_when_due()

    def _print(self, count: int) -> None:
        if not count:
            return
        first, self._counted = self._counted + 1, self._counted + count
        text = "".join(f"{self.spec.job}.{self.spec.attempt}.{line}\n" for line in range(first, self._counted + 1))
        self._put("log", {"text": text})

    def _save(self, step: int) -> None:
        self._checkpoints.save(self._folder, self.spec.job, step)
        self._event("checkpoint", step=step)

    def _event(self, kind: str, **fields: Any) -> None:
        self._put("event", {"kind": kind, **fields})

    def _put(self, stream: str, item: dict[str, Any]) -> None:
        number = self.spool.append(stream, item)
        items = self.told.items[stream]
        while len(items) < number - 1:  # the spool itself put events of gaps between
            items.append({"kind": "gap"})
        items.append(item)

    async def _wait(self, seconds: float) -> str | None:
        """Train for so long; the order that came meanwhile, or None."""
        end = self._time() + seconds
        while True:
            order = self.orders()
            if order is not None:
                return order
            left = end - self._time()
            if left <= 1e-9:
                return None
            await asyncio.sleep(min(LOOK_SECONDS, left))

    async def _obey(self, order: str, step: int) -> Final:
        self.told.ordered_at = self._time()
        if order == "stop":
            await asyncio.sleep(self.script.saving if self.script.obeys else GRACE)
            if self.script.obeys and step > 0:
                self._save(step)
            return Final("cancelled") if self.orders() in ("cancel", "kill") else Final("stopped")
        if order == "cancel" and not self.script.obeys:
            await asyncio.sleep(CANCEL_PATIENCE)
        return Final("cancelled")


def shortened(script: Script, **given: Any) -> Script:
    return replace(script, **given)
