"""The unit of work: all or nothing, inner blocks join, effects wait for the commit."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from flask import Flask
from sqlalchemy import update

from models.accounts import User
from models.base import add, after_commit, before_next_commit, changed, db, in_transaction, transaction
from models.idempotency import IdempotentRequest


def requests() -> list[str]:
    return sorted(db.session.scalars(db.select(IdempotentRequest.key)))


def note(key: str) -> IdempotentRequest:
    return add(IdempotentRequest(scope="test", key=key, fingerprint="f"))


def test_what_fails_leaves_nothing_and_has_no_effect(app: Flask) -> None:
    effects: list[str] = []
    with pytest.raises(ZeroDivisionError), transaction():
        note("a")
        after_commit(lambda: effects.append("mail"))
        _ = 1 / 0
    assert requests() == [] and effects == [] and not in_transaction()


def test_an_inner_block_joins_and_effects_wait_for_the_outermost(app: Flask) -> None:
    effects: list[str] = []
    with transaction():
        with transaction():
            note("a")
            after_commit(lambda: effects.append("mail"))
        assert effects == []
    assert requests() == ["a"] and effects == ["mail"]


def test_what_joins_the_next_commit_shares_its_fate(app: Flask) -> None:
    before_next_commit(lambda: note("joined") and None)
    with pytest.raises(ZeroDivisionError), transaction():
        _ = 1 / 0
    with transaction():
        note("later")
    assert requests() == ["later"]


def test_a_conditional_update_tells_whether_it_moved_the_row(app: Flask) -> None:
    with transaction():
        note("a")
        moved = update(IdempotentRequest).where(IdempotentRequest.status.is_(None)).values(status=200)
        assert changed(moved) and not changed(moved)


def test_writers_in_many_threads_wait_for_each_other(app: Flask) -> None:
    def write(number: int) -> None:
        with app.app_context():
            with transaction():
                note(f"{number:02}")
            db.session.remove()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(requests()) == 12


def test_instants_come_back_in_utc_and_naive_ones_are_refused(app: Flask, alice: User) -> None:
    elsewhere = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=5)))
    with transaction():
        alice.created_at = elsewhere
    db.session.expire_all()
    assert db.session.get_one(User, alice.id).created_at == elsewhere
    assert db.session.get_one(User, alice.id).created_at.tzinfo == UTC
    with pytest.raises(Exception, match="time zone"), transaction():
        alice.created_at = datetime(2026, 3, 1)  # noqa: DTZ001 - the mistake that must not be stored
