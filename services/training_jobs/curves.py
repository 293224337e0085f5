"""Which readings of a script's output are shown as curves: its member may put away what was read wrongly."""

from __future__ import annotations

from models.accounts import User
from models.base import transaction
from models.training_jobs import TrainingJob
from services.errors import Invalid
from services.training_jobs import events
from services.training_jobs.queries import get_for, locked


def hide_curves(actor: User, job_id: int, rules: list[str]) -> TrainingJob:
    """Hide the curves that these rules gave, and show all others. Raises Invalid for a rule that gave none."""
    known = [str(rule.get("rule")) for rule in get_for(actor, job_id).facts.get("curves") or []]
    unknown = [rule for rule in rules if rule not in known]
    if unknown:
        raise Invalid.of(
            off=f"No curve of this training was read as {unknown[0][:40]!r}. There are: {', '.join(known)}."
        )
    with transaction():
        job = locked(job_id)
        job.curves_off = sorted(set(rules))
        events.status(job)
    return job
