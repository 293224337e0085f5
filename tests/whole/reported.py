"""What a finished job has told the server, put side by side with what it should be."""

from __future__ import annotations

from typing import Any

from tests.running import Event, Member


def told(member: Member, job: int) -> list[Event]:
    """Every stored event of a job that is at an end."""
    return list(member.events(job))


def steps_of(events: list[Event]) -> list[int]:
    """The step of every stored point, in the order of storing: a step that was stored twice is there twice."""
    return [step for event in events if event.name == "metrics" for step in event.data["steps"]]


def assert_no_hole(member: Member, job: int, steps: list[int]) -> None:
    """Every step and every byte of the log was stored exactly once."""
    events = told(member, job)
    assert steps_of(events) == steps
    numbers = [event.number for event in events if event.name not in ("status", "end")]
    assert numbers == sorted(set(numbers))
    series = member.curve(job)
    assert [step for step, _ in series] == list(range(1, max(steps) + 1))
    assert "".join(event.data["text"] for event in events if event.name == "log") == member.log(job)
    # The runner's own SHA-256 over the log it wrote, compared by the server at the end of each attempt.
    attempts = member.job(job)["debugData"]["attempts"]
    assert all(attempt["log_verified"] for attempt in attempts if attempt["outcome"] in ("completed", "stopped")), (
        attempts
    )


def receipt_adds_up(member: Member, job: int) -> dict[str, Any]:
    """The credits of a job that is at an end; what was charged is what its minutes cost."""
    told_now = member.job(job)
    credits = told_now["credits"]
    minutes = sum(attempt["minutes_charged"] for attempt in told_now["debugData"]["attempts"])
    assert credits["held"] == 0 and credits["charged"] == minutes
    return dict(credits)
