"""Buying as people do it: through our pages and the hosted pages of the simulated payment company."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from flask import Flask
from playwright.sync_api import Page, expect

from app import create_app
from models.accounts import User
from models.base import db
from services import accounts, credits, payments, training_jobs
from tests import factories
from tests.browser import scene
from tests.browser.conftest import Site, Visit
from tests.browser.test_pages import faults_of

LOOK_NOW = "document.dispatchEvent(new Event('visibilitychange'))"  # what happens when somebody comes back to the page


@pytest.fixture(scope="module")
def yard(site: Site) -> Flask:
    """An application of our own beside the running server, on the same database."""
    app = create_app(site.settings)
    app.extensions["gateways"].payments.simulator.deliver = False
    return app


@pytest.fixture
def inside(yard: Flask) -> Iterator[None]:
    with yard.app_context():
        yield
        db.session.remove()


@pytest.fixture
def somebody(inside: None) -> Callable[[str | None], User]:
    """A new member, on the Free plan or with another one bought by card."""

    def make(plan: str | None = None) -> User:
        name = f"m{uuid.uuid4().hex[:10]}"
        user = accounts.sign_up(f"{name}@example.com", name, scene.PASSWORD)
        if plan:
            payments.upgrade(user, factories.plan_id(plan))
        return user

    return make


def spend(user: User, leave: int) -> None:
    amount = credits.spendable(user.id) - leave
    usage = credits.Usage("message", quantity=amount)
    assert not credits.spend(user.id, amount, key=uuid.uuid4().hex, reason="Messages", usage=usage).refused


def plan_of(page: Page, name: str) -> None:
    expect(page.locator("section[aria-labelledby=plan-title] h2")).to_have_text(f"{name} plan")


def toast(page: Page, words: str) -> None:
    expect(page.locator(".toast-note").filter(has_text=words)).to_be_visible()


def left(page: Page, credits_left: str) -> None:
    expect(page.locator("[data-credits-left]")).to_have_text(credits_left)


def test_an_upgrade_with_the_card_on_file_is_confirmed_and_there_at_once(
    visit: Visit, somebody: Callable[..., User]
) -> None:
    page = visit.log_in(somebody().email)
    visit.open("/pricing")
    page.get_by_role("button", name="Upgrade to Basic").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("To pay now$9.99")
    expect(dialog).to_contain_text("Credits at once200")
    dialog.get_by_role("button", name="Go back").click()  # nothing has happened yet
    left(page, "20")
    page.get_by_role("button", name="Upgrade to Basic").click()
    dialog.get_by_role("button", name="Upgrade to Basic").click()
    page.wait_for_url("**/billing")
    toast(page, "You are on the plan Basic")
    plan_of(page, "Basic")
    left(page, "200")
    expect(page.locator("#invoices")).to_contain_text("$9.99")
    assert visit.complaints == []


def test_the_sum_that_is_shown_is_the_sum_that_is_charged(visit: Visit, somebody: Callable[..., User]) -> None:
    page = visit.log_in(somebody("basic").email)
    visit.open("/billing?interval=year#change")
    page.get_by_role("button", name="Upgrade to Pro").click()
    dialog = page.get_by_role("dialog")
    shown = dialog.locator("dd").first.inner_text()
    assert re.fullmatch(r"\$2\d\d\.\d\d", shown), shown  # a year of Pro, less what was paid for Basic
    dialog.get_by_role("button", name="Upgrade to Pro").click()
    toast(page, "You are on the plan Pro")
    expect(page.locator("#invoices tbody tr").first).to_contain_text(shown)
    visit.open("/pricing")
    expect(page.locator(".plan.mine h2")).to_have_text("Pro")


def test_a_smaller_plan_waits_and_can_be_taken_back(visit: Visit, somebody: Callable[..., User]) -> None:
    page = visit.log_in(somebody("pro").email)
    visit.open("/billing")
    page.get_by_role("button", name="Change to Basic").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Nothing is charged now. Pro stays until")
    dialog.get_by_role("button", name="Change to Basic").click()
    toast(page, "You stay on Pro until")
    expect(page.locator("section[aria-labelledby=plan-title]")).to_contain_text("the Basic plan")
    page.get_by_role("button", name="Keep Pro").click()
    toast(page, "You stay on the plan Pro")
    expect(page.get_by_role("button", name="Keep Pro")).to_have_count(0)


def test_without_a_card_the_payment_page_asks_for_one(visit: Visit, somebody: Callable[..., User]) -> None:
    user = somebody()
    payments.choose_test_card(user, "none")
    page = visit.log_in(user.email)
    visit.open("/billing")
    expect(page.locator("section[aria-labelledby=card-title]")).to_contain_text("No card on file")
    page.get_by_role("button", name="Upgrade to Pro").click()
    page.get_by_role("dialog").get_by_role("button", name="Upgrade to Pro").click()
    page.wait_for_url("**/simulated/checkout/*")
    page.get_by_role("link", name="Cancel and go back").click()
    toast(page, "You left the payment page")
    page.get_by_role("button", name="Upgrade to Pro").click()
    page.get_by_role("dialog").get_by_role("button", name="Upgrade to Pro").click()
    page.wait_for_url("**/simulated/checkout/*")
    page.get_by_role("button", name="Pay $29.99").click()
    page.wait_for_url("**/billing")
    toast(page, "You are on the plan Pro")
    left(page, "1,000")
    assert visit.complaints == []


def test_a_declined_card_is_said_and_nothing_is_charged(visit: Visit, somebody: Callable[..., User]) -> None:
    page = visit.log_in(somebody("basic").email)
    visit.open("/billing")
    page.get_by_role("button", name="Change the card").click()
    page.wait_for_url("**/simulated/portal/*")
    page.locator("label.choice", has_text="is declined").click()
    page.get_by_role("button", name="Save the card").click()
    page.wait_for_url("**/billing?from=portal")
    expect(page.locator("section[aria-labelledby=card-title]")).to_contain_text("ending in 0002")
    page.locator("form[data-pack='100'] button").click()
    page.get_by_role("dialog").get_by_role("button", name="Buy for $10.00").click()
    expect(page.locator("main")).to_contain_text("Your card was declined and nothing was charged")
    left(page, "200")
    visit.open("/billing")
    expect(page.locator("#history")).not_to_contain_text("100 credits")


def test_a_pack_is_bought_with_the_card_and_explained(visit: Visit, somebody: Callable[..., User]) -> None:
    page = visit.log_in(somebody("basic").email)
    visit.open("/billing#packs")
    page.locator("form[data-pack='250'] button").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("$20.00, once. It is charged to your Visa ending in 4242")
    dialog.get_by_role("button", name="Buy for $20.00").click()
    toast(page, "250 credits are there")
    left(page, "450")
    pack = page.locator(".lots tbody tr").filter(has_text="Pack")
    expect(pack).to_contain_text("250 of 250")
    expect(pack).to_contain_text("they are spent")
    expect(page.locator("#history tbody tr").first).to_contain_text("+250")
    assert visit.complaints == []


def test_a_plan_is_cancelled_and_kept_after_all(visit: Visit, somebody: Callable[..., User]) -> None:
    page = visit.log_in(somebody("basic").email)
    visit.open("/billing")
    page.get_by_role("button", name="Cancel the plan").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel the plan").click()
    toast(page, "Your plan ends on")
    expect(page.locator("main")).to_contain_text("Until then nothing changes")
    plan_of(page, "Basic")
    page.get_by_role("button", name="Keep Basic").click()
    toast(page, "You stay on the plan Basic")
    expect(page.get_by_role("button", name="Cancel the plan")).to_be_visible()


def test_low_credits_are_said_on_every_page_as_soon_as_they_are_low(
    visit: Visit, somebody: Callable[..., User]
) -> None:
    user = somebody("basic")
    page = visit.log_in(user.email)
    visit.open("/datasets")
    expect(page.locator("[data-low]")).to_be_hidden()
    spend(user, leave=40)
    page.evaluate(LOOK_NOW)
    left(page, "40")
    expect(page.locator("[data-low]")).to_contain_text("40 credits left")
    expect(page.locator("#announcer")).to_have_text("40 credits left.")
    visit.open("/agents")
    banner = page.get_by_role("complementary", name="Credits")
    expect(banner.get_by_role("link")).to_have_text(["Buy a pack", "Change plan", "Use your machine"])
    assert faults_of(visit, "/billing") == []


def test_the_billing_page_follows_what_is_spent(visit: Visit, somebody: Callable[..., User]) -> None:
    user = somebody("basic")
    page = visit.log_in(user.email)
    visit.open("/billing")
    expect(page.locator("#history tbody tr").first).to_contain_text("+200")
    spend(user, leave=150)
    page.evaluate(LOOK_NOW)
    expect(page.locator("#history tbody tr").first).to_contain_text("−50")
    expect(page.locator("[data-region=credits] .big-number")).to_contain_text("150")
    expect(page.locator("[data-region=usage] figcaption")).to_contain_text("50 credits")


def test_without_credits_what_costs_them_offers_the_ways_on(visit: Visit, somebody: Callable[..., User]) -> None:
    user = somebody("basic")
    paused = factories.make_server_job(user)
    training_jobs.stop(user, paused.id)
    spend(user, leave=0)
    page = visit.log_in(user.email)
    visit.open(f"/training-jobs/{paused.id}")
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("dialog", name="Go on with").get_by_role("button", name="Resume").click()
    dialog = page.get_by_role("dialog", name="No credits left")
    expect(dialog.get_by_role("link")).to_contain_text(["Upgrade the plan", "Buy a pack", "Train on your own machine"])
    dialog.get_by_role("button", name="Not now").click()
    visit.open("/training-jobs/new")
    for _ in range(3):
        page.locator("[data-next]:visible").click()
    page.click("label:has(input[name=place][value=server])")
    page.locator("button[type=submit]:visible", has_text="Start").click()
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page).to_have_url(re.compile("/training-jobs/new$"))
    visit.open("/agents")  # what costs nothing is not asked
    page.fill("form[action='/keys'] input[name=name]", "den")
    page.click("form[action='/keys'] button[type=submit]")
    expect(page.locator("main")).to_contain_text("ty_")
    db.session.expire_all()
    assert len(training_jobs.list_for(user)) == 1


def test_where_nothing_is_sold_the_pages_say_whom_to_ask(site: Site) -> None:
    app = create_app(replace(site.settings, payments="off", support_email="credits@example.com"))
    client = app.test_client()
    assert client.post("/login", data={"email": scene.NEWCOMER, "password": scene.PASSWORD}).status_code == 303
    for path in ("/pricing", "/billing"):
        text = client.get(path).text
        assert "credits@example.com" in text
        for button in ("Upgrade to", "data-pack=", "/stripe/create-portal-session"):
            assert button not in text, (path, button)
