"""The live view of a job as Server-Sent Events (WHATWG HTML, section 9.2): stored events, then whatever comes.

Every stored event carries its number as `id:`, so a browser that lost the connection goes on after the last one it has;
`reset` tells one that has more than there is, since a backup was put back, to begin anew. `status` with the whole job
follows whatever changed it, at most twice a second. `alive` comes where nothing else does.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from flask import Response, stream_with_context
from werkzeug.exceptions import TooManyRequests

from models.accounts import User
from models.base import release
from models.training_jobs import RUNNING_STATES, TrainingEvent
from services import training_jobs
from services.gateways import gateways
from services.training_jobs import samples

LOOK_AGAIN_SECONDS = 1.0
ALIVE_SECONDS = 15.0
STATUS_SECONDS = 0.5
CLOSED = ("completed", "failed", "cancelled")
OWN = ("log", "metrics", "sample", "status", "end", "reset", "alive")  # names that no runner can give its events
MOST_AT_ONCE = 50  # streams of one member in this process: each asks the database again and again
TRY_AGAIN_SECONDS = 15
_open = Counter[int]()  # member -> streams


def response(actor: User, job_id: int, after: int) -> Response:
    """Stream the events of a job after number `after` until it is at an end. Raises TooManyRequests."""
    member = actor.id
    if _open[member] >= MOST_AT_ONCE:
        sentence = (
            f"You follow {MOST_AT_ONCE} trainings at once, as many as one member may. Close a page, then try again."
        )
        raise TooManyRequests(sentence, retry_after=TRY_AGAIN_SECONDS)
    stream = stream_with_context(_stream(actor, job_id, after))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = Response(stream, mimetype="text/event-stream", headers=headers)
    _open[member] += 1
    response.call_on_close(lambda: _closed(member))
    return response


def _closed(member: int) -> None:
    global _open
    _open -= Counter([member])


def _stream(actor: User, job_id: int, after: int) -> Iterator[str]:
    last = training_jobs.get_for(actor, job_id).last_event
    release()
    yield "retry: 1000\n\n"
    if after > last:
        after = last
        yield _written("reset", {}, after)
    spoken = time.monotonic()
    told, status, log = 0.0, dict[str, Any](), training_jobs.Transcript()
    with gateways().hints.waiting(f"job:{job_id}") as wake:
        while True:
            wake.clear()
            events = training_jobs.events_after(job_id, after)
            if events or not status:
                status = training_jobs.summary(training_jobs.get_for(actor, job_id))
            after = events[-1].number if events else after
            messages = [message for event in events if (message := _message(event, log))]
            release()
            yield from messages
            if events and (time.monotonic() - told > STATUS_SECONDS or any(e.stream == "status" for e in events)):
                told = time.monotonic()
                yield _written("status", status, after)
            if not events and status["status"] not in RUNNING_STATES and (line := log.end()):
                yield _written("log", {"text": line}, after)
            if status["status"] in CLOSED and not events:
                yield _written("end", {"status": status["status"]}, after)
                return
            if events:
                spoken = time.monotonic()
                continue
            wake.wait(LOOK_AGAIN_SECONDS)
            if time.monotonic() - spoken > ALIVE_SECONDS:
                spoken = time.monotonic()
                yield _written("alive", {}, after)


def _message(event: TrainingEvent, log: training_jobs.Transcript) -> str | None:
    """An event as it is sent; None for what pages are told otherwise, or have to wait for."""
    if event.stream == "status":
        return None
    if event.stream == "log":
        text = log.add(event.payload["text"])
        return _written("log", {"text": text}, event.number) if text else None
    if event.stream == "samples":
        return _written("sample", samples.shown(event), event.number) if samples.is_whole(event) else None
    name = event.payload["kind"] if event.stream == "event" else event.stream
    is_taken = event.stream == "event" and name in OWN
    return _written("event" if is_taken else name, event.payload, event.number)


def _written(name: str, data: Any, number: int) -> str:
    return f"event: {name}\nid: {number}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
