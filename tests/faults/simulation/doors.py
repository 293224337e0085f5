"""What the server reaches beyond itself: the queue and the hints, simulated; the database, real, with its troubles."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from flask import Flask
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from models.base import db

if TYPE_CHECKING:
    from tests.faults.simulation.world import World


class Hints:
    """Nudges; `is_away` loses them, as Redis may."""

    def __init__(self) -> None:
        self.is_away = False
        self._waiters: dict[str, list[asyncio.Event]] = {}

    def publish(self, topic: str) -> None:
        for wake in () if self.is_away else self._waiters.get(topic, ()):
            asyncio.get_running_loop().call_later(0.005, wake.set)

    @contextlib.contextmanager
    def waiting(self, *topics: str) -> Iterator[asyncio.Event]:
        wake = asyncio.Event()
        for topic in topics:
            self._waiters.setdefault(topic, []).append(wake)
        try:
            yield wake
        finally:
            for topic in topics:
                self._waiters[topic].remove(wake)


class Queue:
    """The queue's interface over a list. `is_away`: cannot be asked. `doubles`: every entry is given out twice."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.entries: list[tuple[int, int]] = []
        self.is_away = self.doubles = False
        self.pushed: Counter[tuple[int, int]] = Counter()
        self._filled = asyncio.Event()

    def push(self, job_id: int, attempt: int, rank: str) -> bool:
        if self.is_away:
            return False
        self._world.note("push", job_id, attempt)
        self.pushed[(job_id, attempt)] += 1
        if (job_id, attempt) not in self.entries:
            self.entries += [(job_id, attempt)] * (2 if self.doubles else 1)
        self._filled.set()
        return True

    def holds(self, job_id: int, attempt: int) -> bool:
        return self.is_away or (job_id, attempt) in self.entries

    def forget(self, job_id: int, attempt: int) -> None:
        """What a dead worker left is not in a list."""

    def lose_all(self) -> None:
        self._world.note("queue lost")
        self.entries.clear()

    async def pop(self) -> tuple[int, int]:
        while self.is_away or not self.entries:
            self._filled.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._filled.wait()
        return self.entries.pop(0)


class Database:
    """Lets the database be away, full or doubtful: `trouble(what)` may raise before a statement or around a commit."""

    def __init__(self, app: Flask) -> None:
        self.trouble: Callable[[str], None] | None = None
        with app.app_context():
            self._engine: Any = db.engine
        self._listeners = [("begin", self._begin), ("before_cursor_execute", self._execute), ("commit", self._commit)]
        for name, listener in self._listeners:
            event.listen(self._engine, name, listener)
        self._looking = self._engine.raw_connection()  # a scenario looks often, and whatever the trouble

    def look(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows of a query as they are stored, past everything that costs time."""
        cursor = self._looking.cursor()
        try:
            cursor.execute(statement)
            return list(cursor.fetchall())
        finally:
            cursor.close()
            self._looking.rollback()

    def close(self) -> None:
        self._looking.close()
        for name, listener in self._listeners:
            event.remove(self._engine, name, listener)

    def away(self, _what: str) -> None:
        raise OperationalError("", {}, Exception("the database is away"))

    def full(self, what: str) -> None:
        if what == "write":
            raise OperationalError("", {}, Exception("database or disk is full"))

    def _begin(self, _connection: Any) -> None:
        self._ask("begin")

    def _execute(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement[:6].upper() in ("INSERT", "UPDATE", "DELETE"):
            self._ask("write")

    def _commit(self, _connection: Any) -> None:
        self._ask("commit")

    def _ask(self, what: str) -> None:
        if self.trouble is not None:
            self.trouble(what)
