"""The database, the unit of work, and what every table shares.

`with transaction():` is the only way to write. The outermost block begins, commits or rolls back; blocks inside it join.
`after_commit(fn, *args)` keeps outside effects (queue, mail, live hints) until the commit has happened. On SQLite a write
transaction begins IMMEDIATE, so it never fails half-way for a lock, and one lock in the process surrounds it: two greenlets
of one process in BEGIN IMMEDIATE would freeze each other.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import DateTime, MetaData, event
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


Row = TypeVar("Row")


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)


db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})

if TYPE_CHECKING:

    class Model(Base):
        """What every table derives from; made by Flask-SQLAlchemy at run time."""

        __abstract__ = True

        def __init__(self, **values: Any) -> None: ...

else:
    Model = db.Model


def now() -> datetime:
    """The present instant, aware, in UTC."""
    return datetime.now(UTC)


class Instant(TypeDecorator[datetime]):
    """An aware UTC datetime; SQLite keeps no zone, so it is stored without and given back with."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a stored instant needs a time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Created:
    """Mixin: when the row was made."""

    created_at: Mapped[datetime] = mapped_column(Instant, default=now)


@dataclass
class _Work:
    before: list[Callable[[], None]] = field(default_factory=list)
    after: list[tuple[Callable[..., object], tuple[Any, ...]]] = field(default_factory=list)


_sqlite_writer = threading.RLock()
BUSY_SECONDS = 15.0  # how long a write waits for others on SQLite
_PAUSE_SECONDS = 0.02


@contextmanager
def _only_writer() -> Iterator[None]:
    """Write on SQLite alone in this process. Raises OperationalError when the others take too long."""
    if not _sqlite_writer.acquire(timeout=BUSY_SECONDS):
        raise OperationalError("BEGIN IMMEDIATE", None, sqlite3.OperationalError("database is locked"))
    try:
        yield
    finally:
        _sqlite_writer.release()


@contextmanager
def transaction() -> Iterator[None]:
    """One unit of work: all of it is stored, or none."""
    session = db.session()
    if "work" in session.info:
        yield
        return
    on_sqlite = db.engine.dialect.name == "sqlite"
    with _only_writer() if on_sqlite else nullcontext():
        # What was read before may be stale: end that read, so that everything is read again under the lock.
        session.rollback()
        work = session.info["work"] = _Work(before=session.info.pop("joining", []))
        try:
            if on_sqlite:
                session.connection(execution_options={"immediate": True})
            yield
            for add in work.before:
                add()
            session.commit()
        except BaseException:
            session.rollback()
            raise
        finally:
            session.info.pop("work", None)
    for effect, arguments in work.after:
        effect(*arguments)


def after_commit(effect: Callable[..., object], *arguments: Any) -> None:
    """Call `effect(*arguments)` when the present transaction is stored, once however often it was asked for; at once
    when there is no transaction."""
    work = db.session().info.get("work")
    if work is None:
        effect(*arguments)
    elif (effect, arguments) not in work.after:
        work.after.append((effect, arguments))


def before_next_commit(addition: Callable[[], None]) -> None:
    """Let `addition` write its rows as part of the next transaction of this session, whoever opens it."""
    db.session().info.setdefault("joining", []).append(addition)


def in_transaction() -> bool:
    """Whether a unit of work is open; network calls are not allowed inside one."""
    return "work" in db.session().info


def release() -> None:
    """Give the connection back between two looks of a long-lived reader (a stream, a socket)."""
    db.session.remove()


def end_read() -> None:
    """Give the connection back before something slow; what was loaded stays usable."""
    if not in_transaction():
        db.session.commit()


def changed(statement: Any) -> bool:
    """Execute a conditional UPDATE; True when it moved exactly one row. The state machine of every domain."""
    result = db.session.execute(statement, execution_options={"synchronize_session": False})
    db.session.expire_all()
    return bool(result.rowcount == 1)  # type: ignore[attr-defined]


def add(row: Row) -> Row:
    """Add a row and give it its id."""
    db.session.add(row)
    db.session.flush()
    return row


@event.listens_for(Engine, "connect")
def _prepare_sqlite(connection: Any, _record: Any) -> None:
    if not isinstance(connection, sqlite3.Connection):
        return
    connection.isolation_level = None  # the driver must not begin on its own; _begin does
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        f"busy_timeout={BUSY_SECONDS * 1000:.0f}",
    ):
        connection.execute(f"PRAGMA {pragma}")


@event.listens_for(Engine, "begin")
def _begin(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        if connection.get_execution_options().get("immediate"):
            _begin_writing(connection)
        else:
            connection.exec_driver_sql("BEGIN")


def _begin_writing(connection: Connection) -> None:
    """Wait for the writes of other processes by trying again: SQLite's own waiting would stop every greenlet of this one."""
    deadline = time.monotonic() + BUSY_SECONDS
    connection.exec_driver_sql("PRAGMA busy_timeout=0")
    try:
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                return
            except OperationalError as error:
                if "locked" not in str(error.orig) or time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE_SECONDS)
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout={BUSY_SECONDS * 1000:.0f}")
