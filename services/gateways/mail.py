"""Mail: through SMTP when MAIL_SERVER is set, else one file a message in the outbox folder."""

from __future__ import annotations

import threading
import uuid
from email.message import EmailMessage
from pathlib import Path

import structlog
from flask import Flask
from flask_mail import Mail as FlaskMail
from flask_mail import Message

from services.config import Settings

TRIES = 3
log = structlog.get_logger()


class Mail:
    """`send` returns at once; SMTP is spoken by a thread, so no request waits for it and none tells who has an account."""

    def __init__(self, app: Flask, settings: Settings) -> None:
        self._app, self._settings = app, settings
        if settings.mail_server:
            app.config.update(
                MAIL_SERVER=settings.mail_server, MAIL_PORT=settings.mail_port,
                MAIL_USERNAME=settings.mail_username or None, MAIL_PASSWORD=settings.mail_password or None,
                MAIL_USE_TLS=settings.mail_use_tls, MAIL_DEFAULT_SENDER=settings.mail_sender,
            )  # fmt: skip
            self._smtp = FlaskMail(app)

    def send(self, to: str, subject: str, text: str) -> None:
        """Send one plain-text message."""
        if self._settings.mail_server:
            threading.Thread(target=self._deliver, args=(to, subject, text), daemon=True).start()
        else:
            write_to_outbox(self._settings.outbox_dir, self._settings.mail_sender, to, subject, text)

    def _deliver(self, to: str, subject: str, text: str) -> None:
        pause = threading.Event()
        for attempt in range(1, TRIES + 1):
            try:
                with self._app.app_context():
                    self._smtp.send(Message(subject=subject, recipients=[to], body=text))
                return
            except OSError as error:  # smtplib's errors are OSErrors
                log.warning("mail_not_sent", attempt=attempt, error=type(error).__name__)
                pause.wait(5 * attempt)


def write_to_outbox(folder: Path, sender: str, to: str, subject: str, text: str) -> Path:
    """Write one message as a file that mail programs open."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = sender, to, subject
    message.set_content(text, cte="8bit")  # links stay in one line
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / f"{uuid.uuid4().hex}.eml"
    path.write_bytes(bytes(message))
    path.chmod(0o600)
    return path
