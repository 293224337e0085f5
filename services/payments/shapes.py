"""What the gateway's objects say, whichever of its API versions shaped them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from services.gateways.payments import Object, instant


def id_of(given: Any) -> str | None:
    """An id, whether the gateway gave it alone or as the whole object."""
    found = given.get("id") if isinstance(given, dict) else given
    return str(found) if found else None


def subscription_of_invoice(invoice: Object) -> str | None:
    """The subscription an invoice is for: under `parent` since API version 2025-03-31, at the top before."""
    details = ((invoice.get("parent") or {}).get("subscription_details")) or {}
    return id_of(details.get("subscription") or invoice.get("subscription"))


def intent_of_invoice(invoice: Object) -> str | None:
    """The payment an invoice was paid by: under `payments` since API version 2025-03-31, at the top before."""
    return id_of(paying(invoice).get("payment_intent") or invoice.get("payment_intent"))


def paying(invoice: Object) -> Object:
    """The payment that an invoice was paid with; empty when it says none."""
    found = ((invoice.get("payments") or {}).get("data") or [{}])[0].get("payment")
    return found if isinstance(found, dict) else {}


def period_of(given: Object) -> tuple[datetime, datetime]:
    """The bounds of what is paid for: on the item since 2025-03-31, on the subscription before. Raises ValueError."""
    item = (given.get("items") or {}).get("data", [{}])[0]
    start = instant(item.get("current_period_start") or given.get("current_period_start"))
    end = instant(item.get("current_period_end") or given.get("current_period_end"))
    if start is None or end is None:
        raise ValueError(f"subscription {given.get('id')} of the gateway says no period")
    return start, end
