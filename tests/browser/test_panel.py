"""The admin's panel as its admins meet it: each page at both widths and in both themes, and what a refused form says."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import scene
from tests.browser.conftest import Site, Visit
from tests.browser.test_pages import faults_now, faults_of, paths

ADMIN = [
    "/admin/dashboard", "/admin/subscriptions/", "/admin/subscriptions/?search=nobody-is-called-so", "/admin/subscriptions/{payer}",
    "/admin/subscriptions/{suspended}", "/admin/subscriptions/{buyer}", "/admin/subscriptions/{suspended}/plan",
    "/admin/subscriptions/{payer}/plan", "/admin/subscriptions/{payer}/credits", "/admin/subscriptions/{payer}/end-plan",
    "/admin/subscriptions/{suspended}/suspend", "/admin/subscriptions/{payer}/role",
    "/admin/subscriptions/{buyer}/payments/{refundable}/refund", "/admin/subscriptions/plans",
    "/admin/subscriptions/plans/{archived_plan}", "/admin/subscriptions/plans/{archived_plan}/activate",
    "/admin/subscriptions/plans/new", "/admin/subscriptions/plans/prices", "/admin/subscriptions/scheduled-jobs",
    "/admin/subscriptions/reports", "/admin/subscriptions/reports?day=2020-01-01", "/admin/audit", "/admin/workers",
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1440)])
def test_no_page_of_the_panel_has_a_fault(site: Site, chromium: Browser, scheme: str, width: int) -> None:
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    visit = Visit(site, context)
    visit.log_in(scene.ADMIN)
    faults = [fault for path in paths(site, ADMIN) for fault in faults_of(visit, path)]
    context.close()
    assert faults == []


def test_a_refused_form_of_the_panel_says_beside_the_field_what_is_wrong(site: Site, visit: Visit) -> None:
    page = visit.log_in(scene.ADMIN)
    visit.open("/admin/subscriptions/plans/new")
    for name, value in (("name", "pro"), ("display_name", "Pro again"), ("price", "12.50"), ("monthly_credits", "300")):
        page.fill(f"input[name={name}]", value)
    page.fill("input[name=reason]", "tried twice")
    page.get_by_role("button", name="Offer this plan").click()
    expect(page.locator("#name-wrong")).to_contain_text("There is a plan pro already")
    expect(page.locator("input[name=name]")).to_have_attribute("aria-invalid", "true")
    for name, value in (("name", "pro"), ("price", "12.50"), ("monthly_credits", "300"), ("reason", "tried twice")):
        assert page.input_value(f"input[name={name}]") == value
    expect(page.locator(".error-summary")).to_be_focused()
    visit.complaints.clear()  # the answer was 409
    assert faults_now(visit, "the refused form") == []


def test_the_record_says_in_words_what_an_admin_changed(site: Site, visit: Visit) -> None:
    page = visit.log_in(scene.ADMIN)
    visit.open(f"/admin/subscriptions/{site.scene.suspended}")
    act = page.locator(".record tbody tr").filter(has_text="Suspend")
    expect(act).to_contain_text("three accounts from one address")
    expect(act).to_contain_text("suspended: no → yes")
