"""Signs of life of many machines are stored together, and none is lost."""

from __future__ import annotations

from datetime import datetime

import pytest
from flask import Flask

from models.accounts import User
from models.agents import Agent
from models.base import db
from services import agents, signs_of_life
from tests.factories import make_agent

pytestmark = pytest.mark.usefixtures("app")


@pytest.fixture
def machines(app: Flask, alice: User) -> list[Agent]:
    app.extensions.pop("signs_of_life", None)
    return [make_agent(alice, f"machine-{number}") for number in range(3)]


def last_seen(agent: Agent) -> datetime:
    db.session.refresh(agent)
    return agent.last_seen_at


def test_the_first_sign_after_a_pause_is_stored_at_once(machines: list[Agent]) -> None:
    before = last_seen(machines[0])
    signs_of_life.note(machines[0].id)
    assert last_seen(machines[0]) > before


def test_signs_within_a_moment_are_stored_with_the_next(machines: list[Agent], monkeypatch: pytest.MonkeyPatch) -> None:
    before = [last_seen(agent) for agent in machines]
    for agent in machines[:2]:
        signs_of_life.note(agent.id)
    assert [last_seen(agent) > was for agent, was in zip(machines, before, strict=True)] == [True, False, False]
    monkeypatch.setattr(signs_of_life, "TOGETHER_SECONDS", 0.0)
    signs_of_life.note(machines[2].id)
    after = [last_seen(agent) for agent in machines]
    assert all(at > was for at, was in zip(after, before, strict=True)) and after[0] < after[1] < after[2]


def test_a_machine_that_left_stays_away(machines: list[Agent], monkeypatch: pytest.MonkeyPatch) -> None:
    for agent in machines[:2]:
        signs_of_life.note(agent.id)
    agents.leave(["session of machine-1"])
    left = last_seen(machines[1])
    monkeypatch.setattr(signs_of_life, "TOGETHER_SECONDS", 0.0)
    signs_of_life.note(machines[2].id)
    assert last_seen(machines[1]) == left and not agents.is_connected(machines[1])


def test_signs_survive_a_database_that_is_away(machines: list[Agent], monkeypatch: pytest.MonkeyPatch) -> None:
    before = last_seen(machines[0])

    def away(*_: object) -> None:
        raise RuntimeError("the database is away")

    monkeypatch.setattr(signs_of_life, "TOGETHER_SECONDS", 0.0)
    with monkeypatch.context() as broken, pytest.raises(RuntimeError):
        broken.setattr(signs_of_life, "transaction", away)
        signs_of_life.note(machines[0].id)
    signs_of_life.note(machines[1].id)
    assert last_seen(machines[0]) > before
