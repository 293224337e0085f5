"""A member's first page."""

from __future__ import annotations

from flask.testing import FlaskClient

from models.accounts import User
from routes.dashboard import MACHINES
from tests.factories import make_agent


def test_it_shows_the_newest_machines_and_where_the_others_are(browser: FlaskClient, alice: User) -> None:
    for number in range(MACHINES):
        make_agent(alice, f"machine {number}")
    assert "See all machines" not in browser.get("/dashboard").text
    make_agent(alice, "one more")
    page = browser.get("/dashboard").text
    assert "See all machines" in page and page.count('class="clip">workstation') == MACHINES
