"""Which readings of a script's output are shown as curves, and which of them opens.

Its member may put away what was read wrongly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from sqlalchemy import select

from models.accounts import User
from models.base import db, transaction
from models.training_jobs import TrainingEvent, TrainingJob
from services.errors import Invalid
from services.training_jobs import events
from services.training_jobs.queries import get_for, locked

FIRST_CHOICES = ("loss", "train_loss", "train/loss")
LOOKED_THROUGH = 2_000  # records
_HELD_BACK = re.compile(r"(eval|val|valid|validation|test)[_/]")


def hide_curves(actor: User, job_id: int, rules: list[str]) -> TrainingJob:
    """Hide the curves that these rules gave, and show all others. Raises Invalid for a rule that gave none."""
    known = [str(rule.get("rule")) for rule in _rules(get_for(actor, job_id))]
    unknown = [rule for rule in rules if rule not in known]
    if unknown:
        raise Invalid.of(
            off=f"No curve of this training was read as {unknown[0][:40]!r}. There are: {', '.join(known)}."
        )
    with transaction():
        job = locked(job_id)
        job.curves_off = sorted(set(rules))
        job.loss = _newest(job_id, loss_of(job))
        events.status(job)
    return job


def main_of(job: TrainingJob) -> str | None:
    """The curve that opens: loss, else a training loss, else any loss, else the first by name. js/metrics.js chooses alike."""
    names = _shown(job)
    ours = [name for name in names if not _HELD_BACK.match(name)]
    wanted = [name for name in FIRST_CHOICES if name in names]
    return next(iter([*wanted, *filter(_is_loss, ours), *ours, *names]), None)


def loss_of(job: TrainingJob) -> str | None:
    """The curve whose last point is the loss of the job: the one that opens, where it is a loss."""
    main = main_of(job)
    return main if main is not None and _is_loss(main) else None


def unit_of(job: TrainingJob) -> str:
    """What the steps of the job are counts of: `samples` where a script's lines count those, else `steps`."""
    counts = any(rule.get("unit") == "samples" and rule.get("rule") not in job.curves_off for rule in _rules(job))
    return "samples" if counts else "steps"


def _shown(job: TrainingJob) -> list[str]:
    """The names of the curves without those that only rules gave which are switched off."""
    kept = {name for rule in _rules(job) if rule.get("rule") not in job.curves_off for name in _names(rule)}
    hidden = {name for rule in _rules(job) if rule.get("rule") in job.curves_off for name in _names(rule)} - kept
    return sorted(set(job.metric_names) - hidden)


def _rules(job: TrainingJob) -> list[dict[str, Any]]:
    """It came from outside: whatever is no list of objects is no rule."""
    told = job.facts.get("curves")
    return [rule for rule in told if isinstance(rule, dict)] if isinstance(told, list) else []


def _names(rule: dict[str, Any]) -> Iterable[str]:
    names = rule.get("names")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _is_loss(name: str) -> bool:
    return "loss" in name


def _newest(job_id: int, name: str | None) -> float | None:
    """The last value of a curve; None where the last records have none."""
    query = select(TrainingEvent.payload).where(TrainingEvent.job_id == job_id, TrainingEvent.stream == "metrics")
    newest = db.session.scalars(query.order_by(TrainingEvent.number.desc()).limit(LOOKED_THROUGH)) if name else ()
    for payload in newest:
        for value in reversed(payload["values"].get(name, [])):
            if value is not None:
                return float(value)
    return None
