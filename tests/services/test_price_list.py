"""The price list: installed as often as one likes, archived instead of deleted, refused when it cannot be."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from flask import Flask

from models.accounts import User
from services import price_list, subscriptions
from services.errors import Conflict, Invalid
from tests.factories import on_plan


def catalogue() -> dict[str, Any]:
    return copy.deepcopy(price_list.DEFAULT)


def test_installing_again_changes_nothing(app: Flask) -> None:
    assert price_list.install(catalogue()) == {"added": [], "changed": [], "archived": []}


def test_a_plan_that_left_the_list_stays_for_those_who_have_it(app: Flask, alice: User, bob: User) -> None:
    on_plan(alice, "basic")
    smaller = catalogue()
    smaller["plans"] = [plan for plan in smaller["plans"] if plan["name"] != "basic"]
    assert price_list.install(smaller)["archived"] == ["basic"]
    kept = subscriptions.current(alice).plan
    assert kept.name == "basic" and [plan.name for plan in price_list.plans()] == ["free", "pro", "enterprise"]
    with pytest.raises(Conflict, match="not offered"):
        subscriptions.upgrade(bob, kept.id)


def test_a_changed_price_is_taken_over(app: Flask) -> None:
    dearer = catalogue()
    dearer["prices"][price_list.TRAINING_MINUTE_CPU] = 3
    price_list.install(dearer)
    assert price_list.price(price_list.TRAINING_MINUTE_CPU) == 3


@pytest.mark.parametrize("spoil, sentence", [
    (lambda c: c.pop("prices"), "prices"), (lambda c: c["plans"][0].pop("limits"), "Plan 1"),
    (lambda c: c["plans"][1].update(price_cents=9.99), "price_cents"), (lambda c: c["plans"].pop(0), "costs nothing"),
    (lambda c: c["plans"][1]["limits"].pop("queue"), "limits"), (lambda c: c["prices"].update(image=-1), "image"),
])  # fmt: skip
def test_a_list_that_cannot_be_is_refused_whole(sqlite_app: Flask, spoil: Any, sentence: str) -> None:
    spoiled = catalogue()
    spoil(spoiled)
    with pytest.raises(Invalid, match=sentence):
        price_list.install(spoiled)
    assert len(price_list.plans()) == 4
