"""Files on their way in, in pieces and resumable (after the tus protocol): create, append at an offset, complete."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import delete, func, select, update

from models.accounts import User
from models.base import add, after_commit, changed, db, end_read, now, transaction
from models.uploads import Upload
from services import credits, subscriptions
from services.errors import Conflict, DomainError, Invalid, NotFound, TooLarge
from services.gateways import gateways
from services.gateways.storage import sha256_of

CHUNK_BYTES = 8 * 1024 * 1024
OPEN_AT_ONCE = 10
WAITING = 1000  # files, finished or not, of which nothing was made yet
KEPT = timedelta(days=7)
IN_USE_FOR = timedelta(minutes=70)  # looking into a file takes an hour at most; after this its reader has died
RESERVE_BYTES = 512 * 1024 * 1024  # what an upload that begins must leave free on the disk
PIECES_LEAVE_BYTES = 128 * 1024 * 1024  # what was begun may go on until here; what trainings say needs less
NO_ROOM = "The server's disk has no room for this file now. Try again later, or tell its operator."
NOT_IN_A_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
ARRIVING = ".partial"  # how the name of a file ends that comes in one go, until it is whole
SHA256 = re.compile(r"[0-9a-f]{64}")


def create(actor: User, name: str, size: int, sha256: str | None = None) -> Upload:
    """Begin an upload of `size` bytes. Raises Invalid, TooLarge above the plan's limit, TooManyOpen, DiskFull.

    A model comes as many files before it is made, so what waits together may be as much as a training delivers.
    """
    allowed = subscriptions.limit(actor, "upload_bytes")
    if size > allowed:
        raise too_large(actor, size)
    with transaction():
        credits.lock(actor.id)
        if len(_waiting(actor, "open")) >= OPEN_AT_ONCE:
            raise TooManyOpen(f"You have {OPEN_AT_ONCE} unfinished uploads. Finish one, or wait until they expire.")
        _refuse_more_waiting(actor, size, max(gateways().settings.delivery_bytes, OPEN_AT_ONCE * allowed))
        return _create(actor.id, name, size, sha256)


def create_for_attempt(user_id: int, job_id: int, attempt: int, name: str, size: int, sha256: str | None) -> Upload:
    """Begin the upload of an artifact by the runner that holds the attempt. Raises Invalid, DiskFull."""
    return _create(user_id, name, size, sha256, job_id=job_id, attempt=attempt)


def of_job(job_id: int) -> list[Upload]:
    """What runners have begun to bring of a job, and finished, until it is published."""
    return list(db.session.scalars(select(Upload).where(Upload.job_id == job_id)))


def get_for(actor: User, upload_id: str) -> Upload:
    """One upload of this member. Raises NotFound."""
    upload = db.session.get(Upload, upload_id)
    if upload is None or upload.user_id != actor.id or upload.job_id is not None or upload.expires_at <= now():
        raise NotFound("There is no such upload. It may have expired; start it again.")
    return upload


def get_for_attempt(job_id: int, attempt: int, upload_id: str) -> Upload:
    """One upload of this attempt. Raises NotFound."""
    upload = db.session.get(Upload, upload_id)
    if upload is None or (upload.job_id, upload.attempt) != (job_id, attempt):
        raise NotFound("There is no such upload.")
    return upload


def append(upload: Upload, offset: int, body: BinaryIO) -> int:
    """Write a piece at `offset`; answers the new offset. Raises Conflict (with the right `offset`), TooLarge, DiskFull."""
    upload_id, size, path = upload.id, upload.size, path_of(upload)
    if upload.state != "open" or offset != upload.offset:
        raise Conflict(
            f"The next byte of this upload is number {upload.offset}.", code="wrong_offset", offset=upload.offset
        )
    end_read()
    piece = body.read(min(CHUNK_BYTES, size - offset) + 1)
    end = offset + len(piece)
    if end > size:
        raise TooLarge(f"The upload was announced with {size} bytes and this piece goes beyond them.")
    _refuse_below(PIECES_LEAVE_BYTES, len(piece))
    with transaction():
        if not changed(
            update(Upload)
            .where(Upload.id == upload_id, Upload.offset == offset, Upload.state == "open")
            .values(offset=end)
        ):
            raise Conflict("This piece was written already. Ask for the offset and go on.", code="wrong_offset")
        with open(path, "r+b") as file:
            file.seek(offset)
            file.write(piece)
    return end


def complete(upload: Upload) -> Upload:
    """Check the size and the hash of a finished upload. Raises Conflict and Invalid; safe to call again."""
    if upload.state != "open":
        return upload
    if upload.offset != upload.size:
        raise Conflict(
            f"{upload.size - upload.offset} bytes are missing; the next byte is number {upload.offset}.",
            code="wrong_offset", offset=upload.offset,
        )  # fmt: skip
    path = path_of(upload)
    end_read()
    found = sha256_of(path)
    if upload.sha256 and upload.sha256 != found:
        with transaction():
            changed(_open(upload).values(offset=0))
        raise Invalid(
            "The bytes that arrived are not the ones announced (sha256 differs). Send the file again.", code="damaged"
        )
    with transaction():
        changed(_open(upload).values(state="complete", sha256=found))
    return db.session.get_one(Upload, upload.id)


def receive(actor: User, name: str, body: BinaryIO) -> Upload:
    """Take a whole file in one go, as a form sends it. Raises TooLarge above the plan's limit, Invalid, DiskFull.

    Of files that came whole and were put to no use the newest ten are kept.
    """
    allowed = subscriptions.limit(actor, "upload_bytes")
    _refuse_name(name)
    end_read()
    arriving = _folder() / f"{uuid.uuid4()}{ARRIVING}"
    hashed, size = hashlib.sha256(), 0
    try:
        with open(arriving, "wb") as file:
            while piece := body.read(1 << 20):
                size += len(piece)
                if size > allowed:
                    raise too_large(actor, size)
                _refuse_below(RESERVE_BYTES, len(piece))
                hashed.update(piece)
                file.write(piece)
        upload = _create(actor.id, name, size, hashed.hexdigest(), offset=size)
        os.replace(arriving, path_of(upload))
        with transaction():
            changed(update(Upload).where(Upload.id == upload.id).values(state="complete"))
            for older in _waiting(actor, "complete")[OPEN_AT_ONCE:]:
                forget(older)
        return db.session.get_one(Upload, upload.id)
    finally:
        arriving.unlink(missing_ok=True)


@contextmanager
def in_use(taken: Sequence[Upload]) -> Iterator[None]:
    """Make something of complete uploads during the block, and nobody else does. When it fails they can be used again.

    Raises Conflict when another request is using one of them, or has.
    """
    numbers = {upload.id for upload in taken}
    with transaction():
        if _moved(Upload.id.in_(numbers), "complete", "in_use", IN_USE_FOR) != len(numbers):
            raise Conflict(
                "Another request is using this upload, or has used it. Look at what came of that before you send it again.",
                code="upload_in_use",
            )
    try:
        yield
    except BaseException:
        with transaction():
            _moved(Upload.id.in_(numbers), "in_use", "complete", KEPT)
        raise


def forget(upload: Upload) -> None:
    """Remove an upload whose content is kept elsewhere now, or is not wanted; its file goes after the commit."""
    after_commit(partial(path_of(upload).unlink, missing_ok=True))
    db.session.execute(delete(Upload).where(Upload.id == upload.id))


def expire() -> int:
    """Remove uploads nobody finished or used in time; those whose user died can be used again. Answers how many went.

    What is left of a file whose process died while it arrived goes too.
    """
    with transaction():
        _moved(Upload.expires_at <= now(), "in_use", "complete", KEPT)
    gone = list(db.session.scalars(select(Upload).where(Upload.expires_at <= now()).limit(500)))
    with transaction():
        for upload in gone:
            forget(upload)
    for arriving in _folder().glob(f"*{ARRIVING}"):
        with suppress(FileNotFoundError):  # it has arrived meanwhile
            if arriving.stat().st_mtime < (now() - IN_USE_FOR).timestamp():
                arriving.unlink()
    return len(gone)


def path_of(upload: Upload) -> Path:
    """Where the bytes lie until they find their place."""
    return _folder() / upload.id


def too_large(actor: User, size: int) -> TooLarge:
    """The refusal of a file above the limit of its owner's plan."""
    allowed = subscriptions.limit(actor, "upload_bytes")
    plan, advice = subscriptions.way_out(actor, "upload_bytes", lambda most: bool(most and most >= size))
    return TooLarge(
        f"This file is {shown_size(size)} and your plan takes files up to {shown_size(allowed)}. Split it. {advice}",
        {"file": f"At most {shown_size(allowed)} on your plan."}, limit_bytes=allowed, plan=plan,
    )  # fmt: skip


def shown_size(size: int) -> str:
    """A number of bytes as a sentence names it."""
    return f"{size / 1e9:.1f} GB" if size >= 10**9 else f"{max(size / 1e6, 0.1):.1f} MB"


def _create(user_id: int, name: str, size: int, sha256: str | None, *, offset: int = 0, **of: int) -> Upload:
    """Write the row; `offset` bytes of the file lie on the disk already."""
    _refuse_name(name)
    fields = {}
    if size < 1:
        fields["size"] = "The file is empty: there is nothing to upload."
    if sha256 is not None and not SHA256.fullmatch(sha256):
        fields["sha256"] = "This is not a SHA-256 in lower-case hexadecimal digits."
    if fields:
        raise Invalid(next(iter(fields.values())), fields)
    with transaction():
        _refuse_below(RESERVE_BYTES, _promised() + size - offset)
        upload = add(
            Upload(id=str(uuid.uuid4()), user_id=user_id, name=name, size=size, sha256=sha256, offset=offset,
                   expires_at=now() + KEPT, **of)
        )  # fmt: skip
        path_of(upload).touch()
    return upload


def _open(upload: Upload) -> Any:
    """What changes this upload as long as it is open."""
    return update(Upload).where(Upload.id == upload.id, Upload.state == "open")


def _moved(which: Any, old: str, new: str, kept: timedelta) -> int:
    """Bring uploads from one state into another, to be kept so long in it. Answers how many they were."""
    statement = update(Upload).where(which, Upload.state == old).values(state=new, expires_at=now() + kept)
    result = db.session.execute(statement, execution_options={"synchronize_session": False})
    db.session.expire_all()
    return int(result.rowcount)  # type: ignore[attr-defined]


def _promised() -> int:
    """Bytes that open uploads may still bring."""
    rest = select(func.sum(Upload.size - Upload.offset)).where(Upload.state == "open", Upload.expires_at > now())
    return int(db.session.scalar(rest) or 0)


def _refuse_below(least: int, size: int) -> None:
    """Raise DiskFull unless `size` more bytes leave so many free."""
    if gateways().storage.free_bytes() - size < least:
        raise DiskFull(NO_ROOM)


class DiskFull(DomainError):
    """No room for a file; becomes status 507."""

    code = "disk_full"


class TooManyOpen(Conflict):
    """More uploads that wait than one member may have; becomes status 429."""

    code = "too_many_uploads"


def _refuse_name(name: str) -> None:
    """A name is shown to people, so it holds nothing that turns the text around it."""
    if not name or len(name) > 255 or NOT_IN_A_NAME.search(name):
        raise Invalid.of(name="Give the file's name: at most 255 characters, without control characters.")


def _waiting(actor: User, state: str) -> list[Upload]:
    """The member's uploads in this state that nothing uses yet, the newest first."""
    query = select(Upload).where(
        Upload.user_id == actor.id, Upload.state == state, Upload.job_id.is_(None), Upload.expires_at > now()
    )
    return list(db.session.scalars(query.order_by(Upload.created_at.desc(), Upload.id)))


def _refuse_more_waiting(actor: User, size: int, most: int) -> None:
    """Raise TooManyOpen when `size` more bytes would wait beside all that nothing uses yet, finished or not."""
    query = select(func.count(), func.coalesce(func.sum(Upload.size), 0)).where(
        Upload.user_id == actor.id, Upload.state != "in_use", Upload.job_id.is_(None), Upload.expires_at > now()
    )
    files, together = db.session.execute(query).one()
    if files >= WAITING or together + size > most:
        raise TooManyOpen(
            f"{files} uploads with {shown_size(int(together))} wait of which nothing was made yet, and at most {WAITING} with"
            f" {shown_size(most)} may. Make data sets or models of them, or wait until they expire, {KEPT.days} days"
            " after they came."
        )


def _folder() -> Path:
    folder = gateways().storage.root / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
