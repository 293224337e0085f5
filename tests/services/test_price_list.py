"""The price list: installed as often as one likes, archived instead of deleted, refused when it cannot be."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from models.accounts import User
from models.base import db, transaction
from models.plans import ActionPrice
from services import catalogues, payments, price_list, subscriptions
from services.errors import Conflict, Invalid
from tests.conftest import ROOT
from tests.factories import on_plan


def catalogue() -> dict[str, Any]:
    return copy.deepcopy(catalogues.DEFAULT)


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
        payments.upgrade(bob, kept.id)


def test_a_changed_price_is_taken_over(app: Flask) -> None:
    dearer = catalogue()
    dearer["prices"][catalogues.TRAINING_MINUTE_CPU] = 3
    price_list.install(dearer)
    assert price_list.price(catalogues.TRAINING_MINUTE_CPU) == 3


@pytest.mark.parametrize("spoil, sentence", [
    (lambda c: c.pop("plans"), "plans"), (lambda c: c["plans"].append(c["plans"][1]), "twice"),
    (lambda c: c["plans"][1].update(price_cents=-1), "price_cents"), (lambda c: c["packs"][0].update(price_cents=0), "Pack 1"),
    (lambda c: c["plans"][0].pop("limits"), "Plan 1"),
    (lambda c: c["plans"][1].update(price_cents=9.99), "price_cents"), (lambda c: c["plans"].pop(0), "costs nothing"),
    (lambda c: c["plans"][1]["limits"].pop("queue"), "limits"), (lambda c: c["prices"].update(image=-1), "image"),
])  # fmt: skip
def test_a_list_that_cannot_be_is_refused_whole(sqlite_app: Flask, spoil: Any, sentence: str) -> None:
    spoiled = catalogue()
    spoil(spoiled)
    with pytest.raises(Invalid, match=sentence):
        price_list.install(spoiled)
    assert len(price_list.plans()) == 4


@pytest.mark.parametrize("path", sorted((ROOT / "docs/catalogs").glob("*.toml")), ids=lambda path: path.stem)
def test_the_example_catalogues_can_be_installed(sqlite_app: Flask, path: Path) -> None:
    price_list.install(catalogues.read(path))
    assert [plan.name for plan in price_list.plans()][0] == "free"
    assert price_list.install(catalogues.read(path)) == {"added": [], "changed": [], "archived": []}


def test_a_catalogue_that_is_not_toml_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[[plans]\nname = 1\n")
    with pytest.raises(Invalid, match="mine.toml is not TOML.*line 1"):
        catalogues.read(path)


def test_a_changed_plan_is_a_new_version_and_members_keep_theirs(app: Flask, alice: User) -> None:
    on_plan(alice, "basic")
    dearer = catalogue()
    dearer["plans"][1]["price_cents"] = 1499
    assert price_list.install(dearer)["changed"] == ["basic"]
    offered = next(plan for plan in price_list.plans() if plan.name == "basic")
    kept = subscriptions.current(alice).plan
    assert (offered.version, offered.price_cents, kept.version, kept.price_cents) == (2, 1499, 1, 999)
    price_list.activate(kept.id)
    assert [plan.version for plan in price_list.plans() if plan.name == "basic"] == [1]


def test_what_admins_changed_in_the_panel_stays_when_the_list_is_completed(app: Flask) -> None:
    basic = next(plan for plan in price_list.plans() if plan.name == "basic")
    price_list.edit(basic.id, {"price_cents": 1200})
    price_list.create_plan({**catalogue()["plans"][1], "name": "lab", "display_name": "Lab"})
    with transaction():
        db.session.merge(ActionPrice(action="message", credits=2))
        db.session.delete(db.session.get_one(ActionPrice, "image"))
    assert price_list.complete() == {"added": ["price of image"]}
    assert price_list.complete() == {"added": []}
    found = {plan.name: plan.price_cents for plan in price_list.plans()}
    assert (found["basic"], "lab" in found, price_list.price("message")) == (1200, True, 2)


def test_a_list_that_is_put_over_it_names_the_prices_that_change(app: Flask) -> None:
    with transaction():
        db.session.merge(ActionPrice(action="message", credits=2))
    assert price_list.install(catalogue())["changed"] == ["price of message"]
