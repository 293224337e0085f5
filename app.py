"""The application: `create_app` puts the parts together; `python app.py` runs a whole yard on one machine."""

from __future__ import annotations

import contextlib
import logging
import sys

import click
import structlog
from flask import Flask
from flask.cli import with_appcontext
from flask_migrate import Migrate
from flask_sock import Sock
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import IntegerConverter, Map

import models  # noqa: F401 - every table is known to the migrations
import routes
from models.base import db
from services import clock, yard
from services.config import Settings
from services.errors import NotFound
from services.gateways import open_gateways
from services.reconcile import reconcile

migrate = Migrate(render_as_batch=True)


class Id(IntegerConverter):
    """A number that can be an id: no database is asked for one it cannot hold."""

    def __init__(self, url_map: Map) -> None:
        super().__init__(url_map, max=2**31 - 1)


def create_app(settings: Settings | None = None) -> Flask:
    """The web application, ready to serve."""
    settings = settings or Settings.from_env()
    _log(settings.log_level)
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=settings.secret_key, SQLALCHEMY_DATABASE_URI=settings.database_url,
        SQLALCHEMY_ENGINE_OPTIONS={"pool_pre_ping": not settings.database_url.startswith("sqlite")},
        MAX_CONTENT_LENGTH=1024 * 1024, MAX_FORM_MEMORY_SIZE=500_000, MAX_FORM_PARTS=1000,
        SESSION_COOKIE_NAME="session", SESSION_COOKIE_HTTPONLY=True, SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=settings.is_https, PERMANENT_SESSION_LIFETIME=30 * 86400,
        SESSION_REFRESH_EACH_REQUEST=False,
    )  # fmt: skip
    app.url_map.strict_slashes = False
    app.url_map.converters["int"] = Id
    if settings.trust_proxy:
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1)  # type: ignore[method-assign]
    db.init_app(app)
    migrate.init_app(app, db)
    open_gateways(app, settings)
    routes.init_app(app, Sock(app))
    app.cli.command("credits-reconcile")(credits_reconcile)
    app.cli.add_command(clock_commands)
    return app


@click.group("clock")
def clock_commands() -> None:
    """What runs by itself."""


@clock_commands.command("list")
@with_appcontext
def clock_list() -> None:
    """Print the schedule, how each entry went last, and the next renewals."""
    runs = clock.runs()
    for entry in clock.SCHEDULE:
        run = runs.get(entry.name)
        last = f"last {run.started_at:%Y-%m-%d %H:%M:%S} UTC, {run.total} in all" if run else "never ran"
        click.echo(f"{entry.name:<22} every {entry.seconds:>6} s   {last}{'   FAILED' if run and run.error else ''}")
    for subscription in clock.upcoming(20):
        click.echo(f"{clock.JOB_PREFIX}{subscription.id:<9} {subscription.next_reset_at:%Y-%m-%d %H:%M:%S} UTC")


@clock_commands.command("force")
@click.argument("name")
@with_appcontext
def clock_force(name: str) -> None:
    """Run one entry, or one renewal (credit_reset_ID), now."""
    try:
        click.echo(f"{name}: {clock.force(name)} done.")
    except NotFound as error:
        raise click.ClickException(str(error)) from None


@clock_commands.command("health")
@with_appcontext
def clock_health() -> None:
    """Say what is wrong with the clock; exit with 1 if anything is."""
    faults = clock.faults()
    for fault in faults:
        click.echo(f"{fault.what} {fault.todo}")
    if not faults:
        click.echo("Every entry runs and no renewal is overdue.")
    sys.exit(1 if faults else 0)


def credits_reconcile() -> None:
    """Check every invariant of the ledger; print what is broken and exit with 1 if anything is."""
    broken = reconcile()
    for sentence in broken:
        click.echo(sentence)
    click.echo(f"{len(broken)} breaks found." if broken else "Every account, wallet, operation and job adds up.")
    sys.exit(1 if broken else 0)


def _log(level: str) -> None:
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars, structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True), structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: _Lines(),
    )  # fmt: skip


class _Lines(structlog.PrintLogger):
    """Lines on standard output; one that finds the disk of the log full is left out, and what it tells of goes on."""

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError):
            super().msg(message)

    log = debug = info = warn = warning = msg
    fatal = failure = err = error = critical = exception = msg


if __name__ == "__main__":
    yard.run(create_app)
