"""How one asks: parse, call one verb, answer. This table says who may enter each room; what is not in it does not exist.

A blueprint may stand in the table twice: once for its pages, once under /api/ for programs. The views are the same, the
verbs are the same, only the answer differs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Blueprint, Flask, request
from flask_sock import Sock

from models.base import end_read
from routes import (
    accounts,
    admin,
    admin_plans,
    admin_reports,
    admin_scheduled_jobs,
    admin_workers,
    agents,
    agents_socket,
    api_keys,
    attempts,
    billing,
    bodies,
    dashboard,
    datasets,
    errors,
    filters,
    gateway_webhook,
    guards,
    guides,
    idempotency,
    limits,
    model_versions,
    pages,
    security,
    simulated_payments,
    subscriptions,
    training_jobs,
    uploads,
    usage,
)
from services.gateways import gateways

# blueprint, name, URL prefix, guard
BLUEPRINTS: list[tuple[Blueprint, str, str, Callable[[], Any]]] = [
    (pages.bp, "pages", "", guards.public),
    (guides.bp, "guides", "/guides", guards.public),
    (accounts.doors, "accounts", "", guards.public),
    (accounts.bp, "account", "/account", guards.signed_in),
    (api_keys.bp, "api_keys", "/keys", guards.signed_in),
    (api_keys.bp, "api_api_keys", "/api/keys", guards.signed_in),
    (subscriptions.shop, "plans", "", guards.public),
    (subscriptions.bp, "subscriptions", "", guards.signed_in),
    (subscriptions.bp, "api_subscriptions", "/api", guards.signed_in),
    (billing.bp, "billing", "/billing", guards.signed_in),
    (usage.bp, "usage", "/api/usage", guards.signed_in),
    (gateway_webhook.bp, "gateway_webhook", "/api/stripe", guards.public),
    (simulated_payments.bp, "simulated_payments", "/simulated", guards.public),
    (dashboard.bp, "dashboard", "/dashboard", guards.signed_in),
    (datasets.bp, "datasets", "/datasets", guards.signed_in),
    (datasets.bp, "api_datasets", "/api/datasets", guards.signed_in),
    (uploads.bp, "uploads", "/api/uploads", guards.uploader),
    (training_jobs.overview, "ai_training", "/ai-training", guards.signed_in),
    (training_jobs.bp, "training_jobs", "/training-jobs", guards.signed_in),
    (training_jobs.bp, "api_training_jobs", "/api/training-jobs", guards.signed_in),
    (model_versions.bp, "model_versions", "/models", guards.signed_in),
    (model_versions.bp, "api_model_versions", "/api/models", guards.signed_in),
    (agents.bp, "agents", "/agents", guards.signed_in),
    (agents.bp, "api_agents", "/api/agents", guards.signed_in),
    (agents.program, "agent_program", "", guards.public),
    (agents_socket.bp, "agents_socket", "/agent", guards.machine),
    (attempts.bp, "attempts", "/api/agents/jobs", guards.attempt),
    (admin.bp, "admin", "/admin", guards.admins),
    (admin.bp, "api_admin", "/api/admin", guards.admins),
    (admin_plans.bp, "admin_plans", "/admin/subscriptions/plans", guards.admins),
    (admin_plans.bp, "api_admin_plans", "/api/admin/subscriptions/plans", guards.admins),
    (admin_plans.changes_bp, "admin_plan_changes", "/admin/subscriptions/plans", guards.superadmins),
    (admin_plans.changes_bp, "api_admin_plan_changes", "/api/admin/subscriptions/plans", guards.superadmins),
    (admin_scheduled_jobs.bp, "admin_scheduled_jobs", "/admin/subscriptions/scheduled-jobs", guards.admins),
    (admin_scheduled_jobs.bp, "api_admin_scheduled_jobs", "/api/admin/subscriptions/scheduled-jobs", guards.admins),
    (admin_reports.bp, "admin_reports", "/admin/subscriptions/reports", guards.admins),
    (admin_reports.bp, "api_admin_reports", "/api/admin/subscriptions/reports", guards.admins),
    (admin_workers.bp, "admin_workers", "/admin/workers", guards.admins),
    (admin_workers.bp, "api_admin_workers", "/api/admin/workers", guards.admins),
]


def init_app(app: Flask, sock: Sock) -> None:
    """Register every room with its guard, and what surrounds all of them."""
    app.url_map.merge_slashes = False  # an address is what it is; no redirect to one that was not asked for
    bodies.init_app(app)
    guards.init_app(app)
    limits.init_app(app, _settings(app))
    idempotency.init_app(app)
    errors.init_app(app)
    filters.init_app(app)
    security.init_app(app)
    agents_socket.register(app, sock)
    guard_of = {name: guard for _, name, _, guard in BLUEPRINTS}
    for blueprint, name, prefix, _ in BLUEPRINTS:
        app.register_blueprint(blueprint, name=name, url_prefix=prefix or None)
    app.before_request(lambda: _guard(guard_of))


def _guard(guard_of: dict[str, Callable[[], Any]]) -> Any:
    if request.blueprint is None:  # static files, and addresses that do not exist
        return None
    answer = guard_of[request.blueprint]()
    end_read()  # whoever asks may take their time to send the rest
    return answer


def _settings(app: Flask) -> Any:
    with app.app_context():
        return gateways().settings
