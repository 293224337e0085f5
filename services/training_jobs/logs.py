"""The log of a job as it is read: its records in their order, and a line in the place of those that are missing."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import select

from models.base import db, end_read
from models.training_jobs import TrainingEvent

READ_AT_ONCE = 100  # records, of up to 64 KiB each
TAIL_LINES = 200


class Transcript:
    """Turns log records into text, one after another. A record without text stands for one that the machine has lost."""

    def __init__(self) -> None:
        self._missing = 0
        self._is_new_line = True

    def add(self, record: str) -> str:
        """What the next record adds: nothing while records are missing, and how many were before the first that is there."""
        if not record:
            self._missing += 1
            return ""
        text = self.end() + record
        self._is_new_line = record.endswith("\n")
        return text

    def end(self) -> str:
        """What is to be added when nothing follows."""
        if not self._missing:
            return ""
        line = missing_line(self._missing) if self._is_new_line else "\n" + missing_line(self._missing)
        self._missing, self._is_new_line = 0, True
        return line


def missing_line(count: int) -> str:
    """The line in the place of so many log records."""
    records, them = ("1 log record is", "it") if count == 1 else (f"{count:,} log records are", "them")
    return f"({records} missing here: the machine had no room to keep {them}, or lost {them} when it went down.)\n"


def log_of(job_id: int) -> Iterator[str]:
    """The whole log, piece by piece."""
    transcript = Transcript()
    for record in records_of(job_id):
        if text := transcript.add(record):
            yield text
    if line := transcript.end():
        yield line


def log_tail(job_id: int, through: int, lines: int = TAIL_LINES) -> str:
    """The last lines of the log up to the event with number `through`, which the page then follows from."""
    query = select(TrainingEvent.payload).where(
        TrainingEvent.job_id == job_id, TrainingEvent.stream == "log", TrainingEvent.number <= through
    )
    newest = list(db.session.scalars(query.order_by(TrainingEvent.number.desc()).limit(lines)))
    transcript = Transcript()
    text = "".join(transcript.add(payload["text"]) for payload in reversed(newest)) + transcript.end()
    return "".join(text.splitlines(keepends=True)[-lines:])


def records_of(job_id: int, attempt: int | None = None) -> Iterator[str]:
    """The texts of the log as they are stored, read some at a time; the connection is given back in between: whoever
    takes the log over a slow line keeps none."""
    query = select(TrainingEvent.number, TrainingEvent.payload).where(
        TrainingEvent.job_id == job_id, TrainingEvent.stream == "log"
    )
    if attempt is not None:
        query = query.where(TrainingEvent.attempt == attempt)
    query, last = query.order_by(TrainingEvent.number).limit(READ_AT_ONCE), 0
    while rows := db.session.execute(query.where(TrainingEvent.number > last)).all():
        end_read()
        last = rows[-1].number
        yield from (row.payload["text"] for row in rows)
