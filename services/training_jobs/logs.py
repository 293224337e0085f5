"""The log of a job as it is read: its records in their order, and a line in the place of those that are missing."""

from __future__ import annotations

import time
from collections.abc import Iterator

from sqlalchemy import ColumnElement, func, select

from models.base import db, end_read
from models.training_jobs import TrainingEvent

READ_AT_ONCE = 100  # records, of up to 64 KiB each
TAIL_LINES = 200
LOOKED_BACK = 20_000  # records


class Transcript:
    """Turns log records into text, one after another. A record without text stands for one that the machine has lost."""

    def __init__(self, missing: int = 0) -> None:
        self._missing = missing
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
    newest = (
        select(TrainingEvent.number, TrainingEvent.payload["text"].as_string().label("text"))
        .where(*_log(job_id), TrainingEvent.number <= through)
        .order_by(TrainingEvent.number.desc())
        .limit(lines)
    )
    records = db.session.execute(newest).all()[::-1]
    cut = bool(records) and not records[0].text
    transcript = Transcript(_missing_before(job_id, records[0].number) if cut else 0)
    text = "".join(transcript.add(record.text) for record in records) + transcript.end()
    return "".join(text.splitlines(keepends=True)[-lines:])


def _missing_before(job_id: int, number: int) -> int:
    """How many log records are missing right before an event; so many are looked at and no more."""
    before = (*_log(job_id), TrainingEvent.number < number)
    newest_first = select(TrainingEvent.number).where(*before).order_by(TrainingEvent.number.desc()).limit(1)
    floor = db.session.scalar(newest_first.offset(LOOKED_BACK)) or 0
    is_there = (TrainingEvent.number > floor, TrainingEvent.payload["text"].as_string() != "")
    last = db.session.scalar(newest_first.where(*is_there)) or floor
    return db.session.scalar(select(func.count()).where(*before, TrainingEvent.number > last)) or 0


def records_of(job_id: int, attempt: int | None = None) -> Iterator[str]:
    """The texts of the log as they are stored, read some at a time; the connection is given back in between: whoever
    takes the log over a slow line keeps none, and everybody else of the process has a turn."""
    query = select(TrainingEvent.number, TrainingEvent.payload).where(*_log(job_id))
    if attempt is not None:
        query = query.where(TrainingEvent.attempt == attempt)
    query, last = query.order_by(TrainingEvent.number).limit(READ_AT_ONCE), 0
    while rows := db.session.execute(query.where(TrainingEvent.number > last)).all():
        end_read()
        time.sleep(0)
        last = rows[-1].number
        yield from (row.payload["text"] for row in rows)


def _log(job_id: int) -> tuple[ColumnElement[bool], ...]:
    return TrainingEvent.job_id == job_id, TrainingEvent.stream == "log"
