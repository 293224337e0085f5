"""Mail through a real SMTP server, and into the outbox without one."""

from __future__ import annotations

import email
import queue
import socket
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from flask import Flask

from models.base import db, now, transaction
from models.notices import OutgoingMail
from services import mails
from services.config import Settings
from services.gateways import gateways
from services.gateways.mail import Mail


class Inbox:
    """Keeps what the SMTP server is handed."""

    def __init__(self) -> None:
        self.messages: queue.Queue[Any] = queue.Queue()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.messages.put(envelope)
        return "250 Message accepted"


def test_with_a_server_mail_goes_there(tmp_path: Path) -> None:
    inbox = Inbox()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(inbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        env = {"VAR_DIR": str(tmp_path), "MAIL_SERVER": "127.0.0.1", "MAIL_PORT": str(port), "MAIL_USE_TLS": "no"}
        app = Flask("test")
        with app.app_context():
            Mail(app, Settings.from_env(env)).send("alice@example.com", "Hello", "A link: http://localhost/x\n")
        envelope = inbox.messages.get(timeout=10)
    finally:
        controller.stop()
    message = email.message_from_bytes(envelope.content, policy=default)
    assert envelope.rcpt_tos == ["alice@example.com"] and message["Subject"] == "Hello"
    assert "http://localhost/x" in message.get_content()


def test_without_a_server_mail_lies_in_the_outbox(tmp_path: Path) -> None:
    Mail(Flask("test"), Settings.from_env({"VAR_DIR": str(tmp_path)})).send(
        "bob@example.com", "Hi", "Text with ü\n" + "x" * 200
    )
    (path,) = (tmp_path / "outbox").iterdir()
    message = email.message_from_bytes(path.read_bytes(), policy=default)
    assert (message["To"], message["Subject"]) == ("bob@example.com", "Hi") and "ü" in message.get_content()
    assert oct(path.stat().st_mode)[-3:] == "600"


def test_mail_is_stored_with_what_it_reports_and_sent_after_the_commit(app: Flask) -> None:
    with pytest.raises(ZeroDivisionError), transaction():
        mails.put("alice@example.com", "Never", "This is rolled back.")
        raise ZeroDivisionError
    mails.put("alice@example.com", "Hello", "This goes.")
    (row,) = db.session.scalars(db.select(OutgoingMail)).all()
    assert (row.subject, row.sent_at is not None, row.tries) == ("Hello", True, 1)
    assert len(list(gateways().settings.outbox_dir.iterdir())) == 1
    assert mails.send_due() == 0


def test_mail_that_does_not_go_is_tried_again_later(app: Flask) -> None:
    outbox = gateways().settings.outbox_dir
    outbox.parent.mkdir(parents=True, exist_ok=True)
    outbox.write_text("a file where the folder should be")
    mails.put("alice@example.com", "Hello", "This waits.")
    (row,) = db.session.scalars(db.select(OutgoingMail)).all()
    assert row.sent_at is None and row.tries == 1 and row.next_try_at > now() and "Exists" in (row.error or "")
    outbox.unlink()
    with transaction():
        row.next_try_at = now()
    assert mails.send_due() == 1
    db.session.refresh(row)
    assert row.sent_at is not None and row.error is None
