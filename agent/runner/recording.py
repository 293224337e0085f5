"""Writes what happens to a job into its spool: gathered for a moment, masked, and in the shapes of the protocol."""

from __future__ import annotations

import functools
import os
import threading
import time
from typing import Any

from ..masking import SecretMasker
from ..protocol import JobSpec
from ..scripts.curves.points import normalised
from ..settings import Timings
from ..spool import Item, Spool
from .output import MAX_NAME, LogText, MetricColumns, ReportLines, fitting, in_pieces

GATHERED_CHARACTERS = 8_192
# What a row of the member's data could show up in. With local data it stays on the machine.
_SHOWS_ROWS = ("example", "examples", "preview", "sample", "samples")
_OF_A_RULE = ("rule", "label", "unit")  # words of ours


class Recorder:
    """The one door to the spool of an attempt. `end` is what the child said last about how it went."""

    def __init__(self, spool: Spool, spec: JobSpec, masker: SecretMasker, timings: Timings) -> None:
        self.spool = spool
        self.end: Item | None = None
        # What a member's own script prints and shows is theirs to show.
        self.is_private = spec.data.get("kind") == "local" and spec.recipe != "script"
        self._masker = masker
        # What a script is given may be a word of ours, as in WANDB_PROJECT=training: ours need not be masked for it.
        self._of_our_words = SecretMasker.from_environment(os.environ, spec.token)
        spelled = masker.spelled(normalised)
        self._name = functools.lru_cache(maxsize=2048)(lambda name: spelled.mask_cut(name, MAX_NAME))
        self._timings = timings
        self._log = LogText(masker)
        self._metrics = MetricColumns()
        self._reports = ReportLines()
        self._gathered_at = time.monotonic()
        self._lock = threading.Lock()
        self._said = ("", 0.0)

    def printed(self, data: bytes) -> None:
        """Bytes the child has printed."""
        self._log.feed(data)

    def reported(self, data: bytes) -> None:
        """Bytes the child has written to its events pipe."""
        for report in self._reports.feed(data):
            self._take_in(report)

    def line(self, text: str) -> None:
        """A line of our own for the log."""
        self._log.feed(text.rstrip("\n").encode() + b"\n")

    def event(self, kind: str, **fields: Any) -> None:
        """Spool one event now."""
        masked = (self._of_our_words if kind == "stage" else self._masker).mask(fields)
        if "curves" in fields:
            masked["curves"] = self._rules(fields["curves"])
        self.spool.append("event", fitting({"kind": kind, **masked}))

    def progress(self, stage: str, message: str) -> None:
        """Say how far a stage is: at most once a second, and only what is new. Any thread may call it."""
        with self._lock:
            said, at = self._said
            if not message or message == said or time.monotonic() - at < 1.0:
                return
            self._said = (message, time.monotonic())
        self.event("stage", stage=stage, message=message)

    def gather(self, end: bool = False) -> None:
        """Spool what has come together, once it is old or large enough; with `end`, all of it."""
        now = time.monotonic()
        if end or now - self._gathered_at >= self._timings.gather or self._log.waiting >= GATHERED_CHARACTERS:
            self._gathered_at = now
            self._spool_metrics()
            for text in self._log.take(end):
                self.spool.append("log", {"text": text})
        self.spool.sync_when_due()

    def close(self) -> None:
        """Spool the rest, with a note on what was left out or replaced."""
        self._log.feed(b"", end=True)
        if self._log.replaced:
            self.line(f"({self._log.replaced} bytes of this log were not UTF-8 and are shown as \ufffd.)")
        if self._metrics.refused:
            self.line(f"({self._metrics.refused} values were left out: a job may have 500 different metrics.)")
        if self._reports.unreadable:
            self.line(f"({self._reports.unreadable} reports of the training could not be read.)")
        self.gather(end=True)

    def _take_in(self, report: Item) -> None:
        kind = report["kind"]
        if kind == "end":
            self.end = {**self._masker.mask(report), "kind": kind, "outcome": report.get("outcome")}
        elif kind == "metrics":
            step, values = report.get("step"), report.get("values")
            if isinstance(step, int) and 0 <= step < 2**31 and isinstance(values, dict):
                self._metrics.add(step, {self._name(name): value for name, value in values.items()})
        elif kind == "sample" and not self.is_private:
            whole = self._masker.mask({name: value for name, value in report.items() if name != "kind"})
            for piece in in_pieces(whole):
                self.spool.append("samples", piece)
        elif not (self.is_private and kind in _SHOWS_ROWS):
            # What came before on the other stream is spooled first, so a checkpoint is never ahead of its steps.
            self._spool_metrics()
            self.event(kind, **self._without_rows(report))

    def _rules(self, told: Any) -> list[Item]:
        """How curves were read, masked but for what we call the rules."""
        return [self._rule(rule) for rule in told if isinstance(rule, dict)] if isinstance(told, list) else []

    def _rule(self, told: Item) -> Item:
        ours = self._of_our_words.mask({name: told[name] for name in _OF_A_RULE if name in told})
        given = told.get("names")
        names = {self._name(name) for name in given if isinstance(name, str)} if isinstance(given, list) else ()
        return {**self._masker.mask(told), **ours, "names": sorted(names)}

    def _without_rows(self, report: Item) -> Item:
        hidden = ("kind", *_SHOWS_ROWS) if self.is_private else ("kind",)
        return {name: value for name, value in report.items() if name not in hidden}

    def _spool_metrics(self) -> None:
        for item in self._metrics.take():
            self.spool.append("metrics", item)
