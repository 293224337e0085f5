"""Room for uploads: what is promised counts, what was begun stops in time, and what one training delivers has an end."""

from __future__ import annotations

import hashlib
import io
import os
from datetime import timedelta
from functools import partial

import pytest
from flask import Flask
from sqlalchemy import select

from models.accounts import User
from models.base import add, db, now, transaction
from models.training_jobs import TrainingJob
from models.uploads import Upload
from services import attempt_files, training_jobs, uploads
from services.errors import Invalid, TooLarge
from services.gateways import gateways
from services.gateways.storage import Disk
from services.model_versions import MOST_FILES
from tests.factories import make_agent_job, on_plan
from tests.till import at_once

MEGABYTE = 10**6
FREE = uploads.RESERVE_BYTES + 100 * MEGABYTE


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A disk with room for a hundred megabytes of uploads; its only number can be changed."""
    free = [FREE]
    monkeypatch.setattr(Disk, "free_bytes", lambda _self: free[0])
    return free


@pytest.fixture
def running(app: Flask, alice: User, disk: list[int]) -> TrainingJob:
    """A training on alice's own machine, under way, and a server with a large disk."""
    disk[0] = 10**12
    job = make_agent_job(alice)
    training_jobs.claim(job.id, 1, "her machine")
    return db.session.get_one(TrainingJob, job.id)


def whole(user: User, content: bytes) -> Upload:
    upload = uploads.create(user, "rows.jsonl", len(content))
    uploads.append(upload, 0, io.BytesIO(content))
    return uploads.complete(upload)


class TestRoom:
    def test_what_was_promised_to_others_is_no_room(self, app: Flask, alice: User, bob: User, disk: list[int]) -> None:
        first = uploads.create(alice, "rows.jsonl", 60 * MEGABYTE)
        with pytest.raises(uploads.DiskFull, match="no room"):
            uploads.create(bob, "rows.jsonl", 60 * MEGABYTE)
        uploads.create(bob, "rows.jsonl", 40 * MEGABYTE)
        with transaction():
            uploads.forget(first)
        uploads.create(bob, "rows.jsonl", 60 * MEGABYTE)

    def test_what_is_left_of_a_file_whose_process_died_while_it_arrived_is_removed(
        self, app: Flask, alice: User, disk: list[int]
    ) -> None:
        arrived = uploads.receive(alice, "rows.jsonl", io.BytesIO(b"{}\n"))
        dead, arriving = (uploads.path_of(arrived).with_name(f"{name}.partial") for name in ("dead", "arriving"))
        for path in (dead, arriving):
            path.write_bytes(b"{}")
        long_ago = (now() - timedelta(hours=2)).timestamp()
        os.utime(dead, (long_ago, long_ago))
        uploads.expire()
        assert (dead.exists(), arriving.exists(), uploads.path_of(arrived).exists()) == (False, True, True)

    def test_finished_files_of_which_nothing_is_made_have_an_end(
        self, app: Flask, alice: User, disk: list[int]
    ) -> None:
        disk[0] = 10**12
        with transaction():
            large = add(Upload(id="a model", user_id=alice.id, name="model.safetensors", state="complete",
                               size=gateways().settings.delivery_bytes - 1, expires_at=now() + uploads.KEPT))  # fmt: skip
        uploads.create(alice, "rows.jsonl", 1)
        with pytest.raises(uploads.TooManyOpen, match=r"^2 uploads with 21\.5 GB wait"):
            uploads.create(alice, "rows.jsonl", 1)
        with transaction():
            uploads.forget(large)
        uploads.create(alice, "rows.jsonl", 1)

    def test_small_files_that_wait_are_counted(
        self, app: Flask, alice: User, bob: User, disk: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(uploads, "WAITING", 2)
        whole(alice, b"1")
        whole(alice, b"2")
        with pytest.raises(uploads.TooManyOpen, match="2 uploads with 0.1 MB wait"):
            uploads.create(alice, "rows.jsonl", 1)
        uploads.create(bob, "rows.jsonl", 1)

    def test_what_has_arrived_is_promised_no_more(self, app: Flask, alice: User, disk: list[int]) -> None:
        whole(alice, b"a" * 4 * MEGABYTE)
        disk[0] -= 4 * MEGABYTE
        uploads.create(alice, "rows.jsonl", 96 * MEGABYTE)
        with pytest.raises(uploads.DiskFull):
            uploads.create(alice, "rows.jsonl", 1)

    def test_a_file_that_came_with_a_form_takes_nothing_of_what_was_promised(
        self, app: Flask, alice: User, bob: User, disk: list[int]
    ) -> None:
        uploads.create(alice, "rows.jsonl", 100 * MEGABYTE)
        disk[0] -= 1  # where the byte of the form lies already
        with pytest.raises(uploads.DiskFull):
            uploads.receive(bob, "rows.jsonl", io.BytesIO(b"a"))
        assert len(list((gateways().storage.root / "uploads").iterdir())) == 1

    def test_a_piece_is_not_written_into_the_last_room_and_comes_later(
        self, app: Flask, alice: User, disk: list[int]
    ) -> None:
        upload = uploads.create(alice, "rows.jsonl", 8)
        disk[0] = 1_000
        with pytest.raises(uploads.DiskFull, match="no room"):
            uploads.append(upload, 0, io.BytesIO(b"12345678"))
        assert uploads.path_of(upload).stat().st_size == 0
        disk[0] = uploads.PIECES_LEAVE_BYTES + 8
        assert uploads.append(uploads.get_for(alice, upload.id), 0, io.BytesIO(b"12345678")) == 8


class TestDeliveries:
    def test_a_training_delivers_so_many_bytes_and_the_refusal_says_how_many(
        self, app: Flask, alice: User, running: TrainingJob
    ) -> None:
        most = gateways().settings.delivery_bytes
        first = attempt_files.begin_upload(running.id, 1, "model.safetensors", most - 10, "0" * 64)
        with pytest.raises(TooLarge, match="at most 21.5 GB") as refusal:
            attempt_files.begin_upload(running.id, 1, "more.safetensors", 11, "1" * 64)
        assert refusal.value.details["limit_bytes"] == most
        attempt_files.begin_upload(running.id, 1, "more.safetensors", 10, "1" * 64)
        assert attempt_files.begin_upload(running.id, 1, "model.safetensors", most - 10, "0" * 64).id == first.id

    def test_whose_plan_takes_larger_files_may_deliver_as_much(
        self, app: Flask, alice: User, running: TrainingJob
    ) -> None:
        on_plan(alice, "enterprise")
        attempt_files.begin_upload(running.id, 1, "model.safetensors", 200 * 10**9, "0" * 64)
        with pytest.raises(TooLarge, match="at most 200.0 GB"):
            attempt_files.begin_upload(running.id, 1, "more.safetensors", 1, "0" * 64)

    def test_a_training_delivers_so_many_files_however_many_ask_at_once(self, app: Flask, running: TrainingJob) -> None:
        for number in range(MOST_FILES - 1):
            attempt_files.begin_upload(running.id, 1, f"{number}.bin", 1, "0" * 64)
        job = running.id

        def begin(name: str) -> Upload:
            return attempt_files.begin_upload(job, 1, name, 1, "0" * 64)

        answers = at_once(app, *[partial(begin, f"last-{turn}.bin") for turn in range(3)])
        assert sorted(type(answer).__name__ for answer in answers) == ["Invalid", "Invalid", "Upload"]
        with pytest.raises(Invalid, match=f"at most {MOST_FILES} files"):
            begin("more.bin")

    def test_what_an_earlier_attempt_left_makes_room_for_the_next(
        self, app: Flask, alice: User, running: TrainingJob
    ) -> None:
        most = gateways().settings.delivery_bytes
        left = attempt_files.begin_upload(running.id, 1, "model.safetensors", most, "0" * 64)
        place = uploads.path_of(left)
        training_jobs.end(running.id, 1, training_jobs.Final("stopped"))
        training_jobs.resume(alice, running.id)
        training_jobs.claim(running.id, 2, "her machine")
        again = attempt_files.begin_upload(running.id, 2, "model.safetensors", most, "0" * 64)
        assert list(db.session.scalars(select(Upload.id))) == [again.id] and not place.exists()

    def test_what_was_begun_is_delivered(self, app: Flask, running: TrainingJob) -> None:
        content = b"weights"
        begun = attempt_files.begin_upload(running.id, 1, "a.bin", 7, hashlib.sha256(content).hexdigest())
        uploads.append(begun, 0, io.BytesIO(content))
        uploads.complete(uploads.get_for_attempt(running.id, 1, begun.id))
        version = attempt_files.deliver(running.id, 1, [("a.bin", begun.id)])
        assert [file.name for file in version.files] == ["a.bin"]
