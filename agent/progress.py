"""How far a job is, followed from its spool: stage, step, loss, speed and the time left."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from .spool import Item, SpoolReader
from .words import duration

STAGES = {"prepare": "Prepare", "train": "Train", "upload": "Upload", "done": "Done"}
_SPEED_OVER_SECONDS = 60.0
_SAME_MOMENT = 0.5


@dataclass
class Progress:
    """How far a job is; it follows the spool with places of its own."""

    stage: str = "prepare"
    message: str = ""
    step: int = 0
    total_steps: int = 0
    loss: float | None = None
    _marks: deque[tuple[float, int]] = field(default_factory=deque)  # monotonic seconds, step
    _after: dict[str, int] = field(default_factory=lambda: {"event": 0, "metrics": 0})

    def follow(self, reader: SpoolReader) -> bool:
        """Take in what is new in the spool; whether there was anything."""
        changed = False
        for stream, take in (("event", self.take_event), ("metrics", self.take_metrics)):
            _, items = reader.read(stream, self._after[stream], 1 << 20)
            self._after[stream] += len(items)
            for item in items:
                take(item)
            changed = changed or bool(items)
        return changed

    def take_event(self, item: Item) -> None:
        if item.get("kind") == "stage":
            self.stage = str(item.get("stage") or self.stage)
            self.message = str(item.get("message") or "")
            if isinstance(item.get("total_steps"), int):
                self.total_steps = item["total_steps"]

    def take_metrics(self, item: Item) -> None:
        if not item["steps"]:
            return
        self.step = item["steps"][-1]
        self._mark(time.monotonic())
        losses = [loss for loss in item["values"].get(_loss_of(item["values"]), []) if loss is not None]
        self.loss = losses[-1] if losses else self.loss

    @property
    def percent(self) -> int:
        return min(100, 100 * self.step // self.total_steps) if self.total_steps else 0

    @property
    def steps_per_second(self) -> float | None:
        """The speed over the last minute, or over as long as two steps take."""
        if len(self._marks) < 2:
            return None
        (began, first), (ended, last) = self._marks[0], self._marks[-1]
        return (last - first) / (ended - began) if last > first else None

    @property
    def seconds_left(self) -> float | None:
        """At the speed of late."""
        speed = self.steps_per_second
        if speed is None or self.stage != "train" or not self.total_steps:
            return None
        return max(0, self.total_steps - self.step) / speed

    def detail(self) -> str:
        """`step 40 of 100, loss 2.3100`; only what is known."""
        parts = []
        if self.total_steps:
            parts.append(f"step {self.step:,} of {self.total_steps:,}")
        elif self.step:
            parts.append(f"step {self.step:,}")
        if self.loss is not None:
            parts.append(f"loss {self.loss:.4f}")
        return ", ".join(parts)

    def sentence(self) -> str:
        """`Train: step 40 of 100, loss 2.3100, 2 min 0 s left`."""
        parts = [self.detail()] if self.stage == "train" and self.detail() else []
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        stage, told = STAGES.get(self.stage, self.stage), ", ".join(parts) or self.message
        return f"{stage}: {told}" if told else stage

    def _mark(self, now: float) -> None:
        """Remember when this step was seen. Steps read in one go are one mark: a spool that is read from its start
        again tells nothing about the speed."""
        if self._marks and self.step < self._marks[-1][1]:
            self._marks.clear()  # it goes on from a checkpoint
        if self._marks and now - self._marks[-1][0] < _SAME_MOMENT:
            self._marks[-1] = (self._marks[-1][0], self.step)
        else:
            self._marks.append((now, self.step))
        while len(self._marks) > 2 and self._marks[1][0] <= now - _SPEED_OVER_SECONDS:
            self._marks.popleft()


def _loss_of(names: dict[str, object]) -> str:
    """The curve that is the loss: `loss` itself, else the first training loss by its name."""
    if "loss" in names:
        return "loss"
    ours = [name for name in sorted(names) if "loss" in name and not name.startswith(("eval", "val", "test"))]
    return ours[0] if ours else "loss"
