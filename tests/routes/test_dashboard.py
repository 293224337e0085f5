"""A member's first page and the list of trainings, where there are many machines."""

from __future__ import annotations

from flask.testing import FlaskClient

from models.accounts import User
from models.base import add, transaction
from models.model_versions import ModelVersion, TrainedModel
from routes.dashboard import MACHINES
from services import agents
from tests.factories import make_agent


def test_it_shows_the_newest_machines_and_where_the_others_are(browser: FlaskClient, alice: User) -> None:
    for number in range(MACHINES):
        make_agent(alice, f"machine {number}")
    assert "See all machines" not in browser.get("/dashboard").text
    make_agent(alice, "one more")
    page = browser.get("/dashboard").text
    assert "See all machines" in page and page.count('class="clip">workstation') == MACHINES


def test_the_list_of_trainings_says_how_many_machines_are_ready(browser: FlaskClient, alice: User) -> None:
    assert "Connect a machine" in browser.get("/ai-training").text
    for number in range(2):
        make_agent(alice, f"machine {number}")
    away = make_agent(alice, "away")
    agents.leave([away.session or ""])
    assert "2 of your machines are ready" in browser.get("/ai-training").text


def test_more_models_than_the_plan_keeps_are_explained(browser: FlaskClient, alice: User) -> None:
    said = "What your own machines train is kept beyond that limit."
    for name in ("first", "second"):
        for path in ("/dashboard", "/billing"):
            assert said not in browser.get(path).text
        with transaction():
            add(TrainedModel(user_id=alice.id, name=name))
    for path in ("/dashboard", "/billing"):
        assert said in browser.get(path).text


def test_who_has_a_model_has_brought_what_it_takes(browser: FlaskClient, alice: User) -> None:
    assert "0 of 3 steps done" in browser.get("/dashboard").text
    make_agent(alice, "desk")
    with transaction():
        model = add(TrainedModel(user_id=alice.id, name="from a script"))
        add(
            ModelVersion(
                trained_model_id=model.id, version=1, recipe="script", base_name="", method="", bytes=1, details={}
            )
        )
    assert "steps done" not in browser.get("/dashboard").text
