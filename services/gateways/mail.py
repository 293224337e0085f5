"""Mail: through SMTP when MAIL_SERVER is set, else one file a message in the outbox folder."""

from __future__ import annotations

import uuid
from email.message import EmailMessage
from pathlib import Path

from flask import Flask
from flask_mail import Mail as FlaskMail
from flask_mail import Message

from services.config import Settings


class Mail:
    """`send` speaks SMTP when a server is set; `is_slow` says so."""

    def __init__(self, app: Flask, settings: Settings) -> None:
        self._settings = settings
        self.is_slow = bool(settings.mail_server)
        if self.is_slow:
            app.config.update(
                MAIL_SERVER=settings.mail_server, MAIL_PORT=settings.mail_port,
                MAIL_USERNAME=settings.mail_username or None, MAIL_PASSWORD=settings.mail_password or None,
                MAIL_USE_TLS=settings.mail_use_tls, MAIL_DEFAULT_SENDER=settings.mail_sender,
            )  # fmt: skip
            self._smtp = FlaskMail(app)

    def send(self, to: str, subject: str, text: str) -> None:
        """Send one plain-text message. Raises OSError (smtplib's errors are OSErrors)."""
        if self.is_slow:
            self._smtp.send(Message(subject=subject, recipients=[to], body=text))
        else:
            write_to_outbox(self._settings.outbox_dir, self._settings.mail_sender, to, subject, text)


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
