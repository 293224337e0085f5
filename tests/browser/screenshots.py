"""Takes the pictures in docs/screenshots: every page, light and dark, on a phone and on a desk (`make screenshots`)."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from app import create_app
from models.base import db
from tests.browser import scene
from tests.browser.conftest import Site, Visit

FOLDER = Path(__file__).parent.parent.parent / "docs" / "screenshots"
GUIDES = FOLDER.parent.parent / "static" / "guides"
PUBLIC = {
    "home": "/", "pricing": "/pricing", "signup": "/signup", "login": "/login", "guides": "/guides",
    "guide-setup": "/guides/setup", "guide-scripts": "/guides/scripts", "guide-training": "/guides/training",
    "guide-troubleshooting": "/guides/troubleshooting", "guide-agent": "/guides/what-the-agent-may-do",
}  # fmt: skip
EMPTY = {"billing-new": "/billing", "dashboard-new": "/dashboard", "datasets-empty": "/datasets"}
PRIVATE = {
    "dashboard": "/dashboard", "account": "/account", "datasets": "/datasets", "dataset-new": "/datasets/new",
    "dataset": "/datasets/{dataset}", "ai-training": "/ai-training", "models": "/ai-training?tab=models",
    "wizard": "/training-jobs/new", "script-new": "/training-jobs/new/script", "job-running": "/training-jobs/{running}", "job-completed": "/training-jobs/{completed}",
    "job-failed": "/training-jobs/{failed}", "job-away": "/training-jobs/{away}",
    "job-script": "/training-jobs/{script}", "model": "/models/{model}", "agents": "/agents",
    "pricing-member": "/pricing?interval=year", "billing": "/billing", "billing-history": "/billing/history",
    "billing-usage": "/billing/usage",
}  # fmt: skip
ADMIN = {
    "admin-dashboard": "/admin/dashboard", "admin-members": "/admin/subscriptions/", "admin-member": "/admin/subscriptions/{buyer}",
    "admin-credits": "/admin/subscriptions/{payer}/credits", "admin-plans": "/admin/subscriptions/plans",
    "admin-plan": "/admin/subscriptions/plans/2", "admin-prices": "/admin/subscriptions/plans/prices",
    "admin-scheduled-jobs": "/admin/subscriptions/scheduled-jobs", "admin-reports": "/admin/subscriptions/reports",
    "admin-record": "/admin/audit", "admin-workers": "/admin/workers",
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_take(site: Site, chromium: Browser, scheme: str, width: int) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    visit = Visit(site, context)
    _take(visit, PUBLIC, scheme, width)
    visit.log_in(scene.NEWCOMER)
    _take(visit, EMPTY, scheme, width)
    context.clear_cookies()
    visit.log_in()
    _take(visit, PRIVATE, scheme, width)
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_take_the_panel(site: Site, chromium: Browser, scheme: str, width: int) -> None:
    with create_app(site.settings).app_context():
        scene.tick()
        scene.worker_is_there()
        db.session.remove()
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    visit = Visit(site, context)
    visit.log_in(scene.ADMIN)
    _take(visit, ADMIN, scheme, width)
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_take_the_pictures_of_the_guides(site: Site, chromium: Browser, scheme: str) -> None:
    """Parts of two pages, as the guides in the site itself show them."""
    GUIDES.mkdir(parents=True, exist_ok=True)
    context = chromium.new_context(viewport={"width": 1100, "height": 560}, color_scheme=scheme)  # type: ignore[arg-type]
    visit = Visit(site, context)
    visit.log_in()
    for name, path, first in (
        ("job", f"/training-jobs/{site.scene.running}", "[data-curve]"),
        ("agents", "/agents", "#setup"),
    ):
        page = visit.open(path)
        page.wait_for_timeout(600)
        top = page.evaluate("part => document.querySelector(part).getBoundingClientRect().top + scrollY - 76", first)
        page.evaluate("top => scrollTo(0, top)", top)
        page.wait_for_timeout(200)
        page.screenshot(path=GUIDES / f"{name}-{scheme}.png")
    context.close()


def _take(visit: Visit, pages: dict[str, str], scheme: str, width: int) -> None:
    for name, path in pages.items():
        page = visit.open(path.format(**vars(visit.site.scene)))
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(400)
        # As tall as the page: what is fixed to the window's edge belongs to the picture's edge.
        height = page.evaluate("document.documentElement.scrollHeight")
        page.set_viewport_size({"width": width, "height": max(900, height)})
        page.wait_for_timeout(150)
        page.screenshot(path=FOLDER / f"{name}-{scheme}-{width}.png", full_page=True)
