"""The page of a member's machines."""

from __future__ import annotations

from flask import Flask
from flask.testing import FlaskClient

from agent import __version__
from models.accounts import User
from services import agents, api_keys
from tests.factories import hello


def test_an_agent_of_another_version_is_shown_with_the_command_that_fetches_this_sites(
    sqlite_app: Flask, alice: User, browser: FlaskClient
) -> None:
    key, _ = api_keys.create(alice, "key", "agent")
    agents.enrol(key.user_id, key.id, hello("desk", version="0.0.7"), session="one")
    agents.enrol(key.user_id, key.id, hello("laptop", version=__version__), session="two")
    old, new = sorted(browser.get("/agents", headers={"Accept": "text/html"}).text.split("<article")[1:3], key=len)[
        ::-1
    ]
    assert "version 0.0.7" in old and f"this site offers {__version__}" in old and "curl -fO" in old
    assert f"version {__version__}" in new and "this site offers" not in new
