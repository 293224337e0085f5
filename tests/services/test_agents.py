"""What a machine says about itself: kept within bounds, shown on its page; and which versions of the agent are served."""

from __future__ import annotations

import re
import shlex
from html import unescape
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from agent import protocol
from agent.arguments import parser
from models.accounts import User
from models.agents import Agent
from services import agents, api_keys
from tests.factories import hello


def connected(owner: User, **machine: Any) -> Agent:
    key, _ = api_keys.create(owner, "desk", "agent")
    told = hello()
    return agents.enrol(key.user_id, key.id, {**told, "machine": {**told["machine"], **machine}}, session="one")


def test_a_machine_with_hours_says_on_its_page_when_it_takes_jobs(
    app: Flask, alice: User, browser: FlaskClient
) -> None:
    told = {"windows": ["20:00-08:00", "12:00-13:00"], "open": False, "opens_at": "20:00"}
    assert connected(alice, hours=told).machine["hours"] == told
    page = browser.get("/agents").get_data(as_text=True)
    assert "20:00-08:00, 12:00-13:00, again from 20:00" in page
    assert browser.get("/api/agents").get_json()[0]["machine"]["hours"] == told


def test_an_open_window_is_not_said_to_open_again(sqlite_app: Flask, alice: User, browser: FlaskClient) -> None:
    connected(alice, hours={"windows": ["20:00-08:00"], "open": True, "opens_at": None})
    page = browser.get("/agents").get_data(as_text=True)
    assert "20:00-08:00" in page and "again from" not in page


@pytest.mark.parametrize(("scripts", "state"), [(True, "Ready for scripts"), (False, "Not ready")])
def test_a_machine_without_packages_is_ready_for_scripts_where_they_may_run(
    sqlite_app: Flask, alice: User, browser: FlaskClient, scripts: bool, state: str
) -> None:
    machine = connected(alice, scripts=scripts)
    lacking = {"ready": False, "missing": ["torch", "peft"], "advice": "Install it with: pip install torch peft"}
    assert agents.seen(machine.id, "one", lacking)
    page = browser.get("/agents").get_data(as_text=True)
    card = page[page.index("<article") : page.index("</article>")]
    assert state in card and "torch, peft" in card and "copy-block" in card
    assert ("it cannot train yet" in card) != scripts and ('class="state wait"' in card) != scripts
    assert f"<dt>Scripts</dt><dd>{'allowed' if scripts else 'not allowed'}</dd>" in card


@pytest.mark.parametrize("name", ["desk", "Anna's machine under the desk", "a; rm -rf $HOME `x`", "--insecure", "Büro"])
def test_the_command_that_is_shown_names_the_machine_as_its_key(
    sqlite_app: Flask, alice: User, browser: FlaskClient, name: str
) -> None:
    assert "--name" not in command_shown(browser.get("/agents"))
    typed = {"name": name, "scope": "agent", "next": "/agents"}
    shown = command_shown(browser.post("/keys", data=typed, headers={"Accept": "text/html"}))
    options = parser().parse_args(["connect", *shlex.split(shown)[2:]])
    assert (options.name, options.root) == (name, ["~/models"])


def command_shown(answer: Any) -> str:
    (block,) = re.findall(r'<pre id="agent-run">(.*?)</pre>', answer.get_data(as_text=True), re.DOTALL)
    return unescape(re.sub(r"<[^>]*>", "", block))


@pytest.mark.parametrize("told", [None, 7, "20:00-08:00", [], {}, {"windows": []}, {"windows": "x"}, {"open": False}])
def test_a_machine_without_hours_takes_jobs_always(sqlite_app: Flask, alice: User, told: Any) -> None:
    assert connected(alice, hours=told).machine["hours"] is None


def test_hours_that_are_no_hours_stay_small_and_are_text(sqlite_app: Flask, alice: User, browser: FlaskClient) -> None:
    machine = connected(alice, hours={"windows": ["<script>alert(1)</script>", 7] * 50, "opens_at": "x" * 999}).machine
    assert len(machine["hours"]["windows"]) == 10 and max(map(len, machine["hours"]["windows"])) <= 11
    assert machine["hours"]["opens_at"] == "xxxxx"
    assert "<script>a" not in browser.get("/agents").get_data(as_text=True)


@pytest.mark.parametrize(
    ("newest", "spoken", "code"),
    [
        (1, 1, None),
        (1, 0, "too_old"),
        (1, 2, "too_new"),
        (5, 5, None),
        (5, 3, None),
        (5, 2, "too_old"),
        (5, 6, "too_new"),
    ],
)
def test_the_version_and_the_two_before_it_are_served(
    sqlite_app: Flask, monkeypatch: pytest.MonkeyPatch, newest: int, spoken: int, code: str | None
) -> None:
    monkeypatch.setattr(protocol, "PROTOCOL_VERSION", newest)
    monkeypatch.setattr(protocol, "OLDEST_PROTOCOL", max(1, newest - 2))
    misfit = agents.version_misfit(spoken)
    assert (misfit and misfit[0]) == code
    if misfit:
        assert "curl -fO http://localhost" in misfit[1] and misfit[1].endswith("/train_agent.py")
