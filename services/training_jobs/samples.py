"""What scripts showed while they trained: texts and images, stored in pieces and given out whole."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from sqlalchemy import select

from models.base import db
from models.training_jobs import Attempt, TrainingEvent, TrainingJob
from services.errors import Invalid, NotFound
from services.training_jobs.texts import clean

MOST_PIECES = 5_000  # of one attempt
MOST_BYTES = 64 << 20  # of one attempt, as they are stored
BYTES = "samples_bytes"  # where an attempt counts them, beside the numbers of its streams
MOST_PIECES_OF_ONE = 200
LONGEST_PIECE = 24_000
LOOKED_THROUGH = 2_000  # pieces
TYPES = {"png": "image/png", "jpeg": "image/jpeg", "gif": "image/gif", "webp": "image/webp"}
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


def checked(item: dict[str, Any]) -> dict[str, Any]:
    """One piece from outside in the shape it is stored in; an empty object stands for one that was lost. Raises Invalid."""
    if not item:
        return {}
    kind, piece, pieces = item.get("type"), item.get("piece"), item.get("pieces")
    if kind != "text" and kind not in TYPES:
        raise Invalid("A sample's `type` is text, png, jpeg, gif or webp.")
    if type(piece) is not int or type(pieces) is not int or not 0 <= piece < pieces <= MOST_PIECES_OF_ONE:
        raise Invalid("A sample needs `piece` and `pieces`, whole numbers.")
    step, size = item.get("step"), item.get("bytes")
    known = {
        "name": clean(item.get("name"), 200) or "sample", "type": kind, "piece": piece, "pieces": pieces,
        "step": step if type(step) is int and 0 <= step < 2**31 else 0,
        "bytes": size if type(size) is int and 0 <= size < 2**31 else 0,
    }  # fmt: skip
    if kind == "text":
        return {**known, "text": clean(item.get("text"), LONGEST_PIECE) or ""}
    data = item.get("data")
    if not isinstance(data, str) or len(data) > LONGEST_PIECE or not _BASE64.fullmatch(data):
        raise Invalid("A sample's `data` is base64.")
    return {**known, "data": data}


def kept(attempt: Attempt, first: int, pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same pieces, `first` being the number of the first one; those beyond what is kept of an attempt are empty.

    Once one piece is beyond, all that follow are, so that no sample is kept without its middle.
    """
    total, within = attempt.stored.get(BYTES, 0), []
    for number, piece in enumerate(pieces, start=first):
        total += len(json.dumps(piece)) if piece else 0
        if number > MOST_PIECES or total > MOST_BYTES:
            total = MOST_BYTES + 1
        within.append({} if total > MOST_BYTES else piece)
    attempt.stored = {**attempt.stored, BYTES: total}
    return within


def note_on(job: TrainingJob) -> str | None:
    """What to say where samples came that were too many or too large to be kept."""
    if not any(attempt.stored.get(BYTES, 0) > MOST_BYTES for attempt in job.attempts):
        return None
    return (
        f"Only the first samples of an attempt are kept: {MOST_BYTES >> 20} MiB, in at most {MOST_PIECES:,} pieces. "
        "What came later is not shown."
    )


def list_of(job_id: int, limit: int = 60, before: int | None = None) -> tuple[list[dict[str, Any]], int | None]:
    """Samples of a job that have arrived whole, newest first, and the number to ask for more with, None where there are
    none. `before` is such a number. One look goes through so many pieces only, whatever a runner has sent.
    """
    pieces = _pieces(job_id) if before is None else _pieces(job_id).where(TrainingEvent.number < before)
    newest = pieces.order_by(TrainingEvent.number.desc())
    beyond = db.session.scalar(newest.with_only_columns(TrainingEvent.number).offset(LOOKED_THROUGH).limit(1))
    last = TrainingEvent.payload["pieces"].as_integer() - 1
    whole = newest.where(TrainingEvent.payload["piece"].as_integer() == last)
    if beyond is not None:
        whole = whole.where(TrainingEvent.number > beyond)
    ends = list(db.session.scalars(whole.limit(limit)))
    following = ends[-1].number if len(ends) == limit else None if beyond is None else beyond + 1
    return [shown(end) for end in ends], following


def shown(end: TrainingEvent) -> dict[str, Any]:
    """A sample as pages and programs see it, by the event of its last piece."""
    payload = end.payload
    known = {
        "number": end.number, "name": payload["name"], "step": payload["step"], "bytes": payload["bytes"],
        "at": end.at.strftime("%Y-%m-%dT%H:%M:%SZ"), "kind": "text" if payload["type"] == "text" else "image",
    }  # fmt: skip
    if payload["type"] == "text":
        text = payload["text"] if payload["pieces"] == 1 else "".join(p["text"] for p in _whole(end))
        return {**known, "text": text}
    return {**known, "url": f"/api/training-jobs/{end.job_id}/samples/{end.number}"}


def is_whole(event: TrainingEvent) -> bool:
    """Whether this event is the last piece of a sample."""
    return bool(event.payload) and event.payload["piece"] == event.payload["pieces"] - 1


def image_of(job_id: int, number: int) -> tuple[bytes, str]:
    """The bytes of an image and its media type. Raises NotFound."""
    end = db.session.get(TrainingEvent, (job_id, number))
    if end is None or end.stream != "samples" or not is_whole(end) or end.payload["type"] not in TYPES:
        raise NotFound("This training has no such image.")
    try:
        data = b"".join(base64.b64decode(piece["data"], validate=True) for piece in _whole(end))
    except (binascii.Error, ValueError):
        raise NotFound("This image did not arrive whole.") from None
    return data, TYPES[end.payload["type"]]


def _whole(end: TrainingEvent) -> list[dict[str, Any]]:
    """All pieces of a sample: they are numbered one behind the other in their stream."""
    first = end.seq - end.payload["pieces"] + 1
    query = _pieces(end.job_id).where(TrainingEvent.attempt == end.attempt, TrainingEvent.seq.between(first, end.seq))
    return [event.payload for event in db.session.scalars(query.order_by(TrainingEvent.seq)) if event.payload]


def _pieces(job_id: int) -> Any:
    return select(TrainingEvent).where(TrainingEvent.job_id == job_id, TrainingEvent.stream == "samples")
