"""Pages that belong to nobody: the first one, and whether the yard is up."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, render_template
from sqlalchemy import text

from models.base import db
from routes.subscriptions import tiers

bp = Blueprint("pages", __name__)


@bp.get("/")
def home() -> str:
    return render_template("pages/home.html", plans=tiers())


@bp.get("/healthz")
def health() -> Response:
    db.session.execute(text("SELECT 1"))
    return jsonify({"status": "ok"})
