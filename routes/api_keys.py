"""Keys: a list, a new one (shown once), revoking."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, render_template, request, url_for
from werkzeug.wrappers import Response

from models.accounts import User
from models.api_keys import ApiKey
from routes.answers import Given, answer, form, page_of_list, read, wants_json
from routes.guards import actor
from services import api_keys
from services.training_jobs import iso

bp = Blueprint("api_keys", __name__)


class NewKey(Given):
    name: str
    scope: str = "full"


@bp.get("")
def index() -> Response:
    limit, before = page_of_list()
    keys = [key for key in shown_keys(actor()) if before is None or key["id"] < before]
    return answer(keys[:limit], to=url_for("account.show"))


@bp.post("")
@form("accounts/show.html", lambda: _page_context(None))
def create() -> Response:
    given = read(NewKey)
    row, key = api_keys.create(actor(), given.name, given.scope)
    if wants_json():
        return answer({**_shown(row), "key": key}, 201)
    page = "agents/index.html" if _is_about_agents() else "accounts/show.html"
    return Response(render_template(page, **_page_context(key, row.name)), status=201, mimetype="text/html")


@bp.route("/<int:id>", methods=["DELETE"])
def delete(id: int) -> Response:
    api_keys.revoke(actor(), id)
    return Response(status=204)


@bp.post("/<int:id>/revoke")
def revoke(id: int) -> Response:
    api_keys.revoke(actor(), id)
    flash("The key is revoked. Machines that used it are disconnected.", "success")
    return answer({"status": "revoked"}, to=url_for("agents.index" if _is_about_agents() else "account.show"))


def _is_about_agents() -> bool:
    """Whether the form stood on the page of machines, which is shown again then."""
    return request.form.get("next") == "/agents"


def shown_keys(user: User, scope: str | None = None) -> list[dict[str, Any]]:
    """The live keys of a member, without the keys themselves."""
    return [_shown(key) for key in api_keys.list_for(user) if scope in (None, key.scope)]


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id, "name": key.name, "scope": key.scope, "prefix": key.prefix, "created_at": iso(key.created_at),
        "last_used_at": iso(key.last_used_at), "revoked_at": iso(key.revoked_at),
    }  # fmt: skip


def _page_context(new_key: str | None, name: str = "") -> dict[str, Any]:
    """What the page shows on which a key was asked for."""
    from routes import accounts, agents  # both show keys, so both import this module

    return agents.context(new_key, name) if request.form.get("next") == "/agents" else accounts.context(new_key)
