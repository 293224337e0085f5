"""The doors to foreign systems, real and embedded side by side, chosen by configuration."""

from __future__ import annotations

from dataclasses import dataclass

from flask import Flask, current_app

from services.config import Settings
from services.gateways.hints import Hints
from services.gateways.mail import Mail
from services.gateways.payments import Payments
from services.gateways.queue import Queue
from services.gateways.storage import Disk


@dataclass(frozen=True)
class Gateways:
    settings: Settings
    mail: Mail
    storage: Disk
    queue: Queue
    hints: Hints
    payments: Payments


def open_gateways(app: Flask, settings: Settings) -> None:
    """Build every door once and keep them on the application."""
    app.extensions["gateways"] = Gateways(
        settings=settings,
        mail=Mail(app, settings),
        storage=Disk(settings.storage_dir),
        queue=Queue(settings.redis_url),
        hints=Hints(settings.redis_url),
        payments=Payments(settings),
    )


def gateways() -> Gateways:
    """The doors of the application that is running."""
    return current_app.extensions["gateways"]  # type: ignore[no-any-return]
