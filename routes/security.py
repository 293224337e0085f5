"""Headers that every answer carries."""

from __future__ import annotations

from flask import Flask, Response, request

from services.gateways import gateways

# No inline script or style anywhere; pictures in Tabler's CSS are data addresses. `form-action` counts for where an answer
# leads too, so the buttons that lead to Stripe's own pages need those pages in it.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'self'{till}; frame-ancestors 'none'"
)
STRIPES_PAGES = " https://checkout.stripe.com https://billing.stripe.com"


def init_app(app: Flask) -> None:
    """Add the headers."""
    app.after_request(_harden)


def _harden(response: Response) -> Response:
    headers = response.headers
    till = STRIPES_PAGES if gateways().payments.name == "stripe" else ""
    headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY.format(till=till))
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("Referrer-Policy", "same-origin")
    headers.setdefault("Cross-Origin-Opener-Policy", "same-origin")
    headers.setdefault("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
    if request.endpoint == "static" and "v" in request.args:
        headers["Cache-Control"] = "public, max-age=31536000, immutable"
    elif request.endpoint != "static":
        headers.setdefault("Cache-Control", "no-store")
    if request.is_secure:
        headers.setdefault("Strict-Transport-Security", "max-age=31536000")
    return response
