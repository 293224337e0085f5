"""Where the payment gateway tells what happened: the raw body is verified, stored once and answered."""

from __future__ import annotations

from flask import Blueprint, jsonify, request
from werkzeug.wrappers import Response

from services import payments

bp = Blueprint("gateway_webhook", __name__)


@bp.post("/webhook")
def receive() -> Response:
    is_new = payments.receive(request.get_data(), request.headers.get("Stripe-Signature"))
    return jsonify({"received": True, "known": not is_new})
