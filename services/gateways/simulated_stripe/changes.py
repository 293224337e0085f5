"""What changing a subscription costs and leads to: one computation for the preview and for the change itself.

Prorations count seconds, as Stripe's do: the unused part of the old price is given back, the remaining part of the new
one is charged, each rounded to the cent once.
"""

from __future__ import annotations

from dataclasses import dataclass

from services import calendar
from services.gateways.simulated_stripe import invoices
from services.gateways.simulated_stripe.books import Books, Thing, instant
from services.gateways.simulated_stripe.wire import Params, invalid

BEHAVIOURS = ("create_prorations", "always_invoice", "none")


@dataclass(frozen=True)
class Change:
    """A change worked out. `item` is the subscription item as it will be, `lines` what it costs, `now` whether an
    invoice of its own is due at once."""

    item: Thing
    anchor: int
    lines: list[Thing]
    now: bool


def months(price: Thing) -> int:
    """How many months one period of a price lasts."""
    return int(price["recurring"]["interval_count"]) * (12 if price["recurring"]["interval"] == "year" else 1)


def period_after(anchor: int, price: Thing, start: int) -> tuple[int, int]:
    """The period that begins at `start`, which lies on the cycle of `anchor`. Seconds."""
    first, length = instant(anchor), months(price)
    passed = calendar.index_at(first, instant(start)) // length
    return start, int(calendar.start(first, (passed + 1) * length).timestamp())


def asked(books: Books, subscription: Thing, given: Params) -> Change | None:
    """Work out the change that `items`, `proration_behavior`, `proration_date` and `billing_cycle_anchor` ask for; None
    when there is none. Raises Refused 400."""
    item = subscription["items"]["data"][0]
    price, quantity = wanted_item(books, given, item)
    moves = _moves_anchor(given) or (months(price), price["recurring"]["interval"]) != (
        months(item["price"]), item["price"]["recurring"]["interval"],
    )  # fmt: skip
    behaviour = given.one_of("proration_behavior", BEHAVIOURS, "create_prorations")
    at = _proration_date(books, item, given)
    if price["id"] == item["price"]["id"] and quantity == item["quantity"] and not moves:
        return None
    after = {**item, "price": price, "plan": plan_of(price), "quantity": quantity}
    lines = [] if behaviour == "none" else _prorations(books, subscription, after, at, moves)
    anchor = books.second if moves else subscription["billing_cycle_anchor"]
    if moves:
        after["current_period_start"], after["current_period_end"] = period = period_after(anchor, price, anchor)
        lines.append(invoices.line(books, subscription, price, quantity, period))
    return Change(after, anchor, lines, now=bool(lines) and (moves or behaviour == "always_invoice"))


def apply(subscription: Thing, change: Change) -> None:
    """Make the change in the subscription."""
    subscription["items"]["data"][0] = change.item
    subscription["billing_cycle_anchor"] = change.anchor
    subscription["pending_update"] = None


def wanted_item(books: Books, given: Params, item: Thing | None) -> tuple[Thing, int]:
    """The price and quantity that `items[0]` asks for; those of `item` where it is silent. Raises Refused 400."""
    parts = given.parts("items")
    if len(parts) > 1:
        raise invalid("A simulated subscription has one item.", given.param("items"))
    if not parts:
        if item is None:
            raise invalid(f"Missing required param: {given.param('items')}.", given.param("items"), "parameter_missing")
        return item["price"], item["quantity"]
    part = parts[0]
    part.only(("id", "price", "quantity", "metadata"))
    if item and part.text("id") != item["id"]:
        raise invalid(
            f"A simulated subscription has one item: name it, items[0][id]={item['id']}.",
            part.param("id"),
            "resource_missing",
        )
    price = books.named("price", part, "price") if item is None or "price" in part else item["price"]
    if not price["recurring"]:
        raise invalid(f"The price specified is set to `type=one_time` but this field only accepts prices with "
                      f"`type=recurring`: {price['id']}.", part.param("price"))  # fmt: skip
    if not price["active"] and (item is None or price["id"] != item["price"]["id"]):
        raise invalid(f"The price specified is inactive. This field only accepts active prices: {price['id']}.",
                      part.param("price"))  # fmt: skip
    return price, part.whole("quantity", 1) or (item["quantity"] if item else 1)


def plan_of(price: Thing) -> Thing:
    """The older form of a price that still stands in each subscription item."""
    return {
        "id": price["id"], "object": "plan", "active": price["active"], "amount": price["unit_amount"],
        "amount_decimal": price["unit_amount_decimal"], "billing_scheme": "per_unit", "created": price["created"],
        "currency": price["currency"], "interval": price["recurring"]["interval"],
        "interval_count": price["recurring"]["interval_count"], "livemode": False, "metadata": price["metadata"],
        "meter": None, "nickname": price["nickname"], "product": price["product"], "tiers_mode": None,
        "transform_usage": None, "trial_period_days": None, "usage_type": "licensed",
    }  # fmt: skip


def _prorations(books: Books, subscription: Thing, after: Thing, at: int, moves: bool) -> list[Thing]:
    before = subscription["items"]["data"][0]
    start, end = before["current_period_start"], before["current_period_end"]
    day = f"{instant(at).day} {instant(at):%b %Y}"

    def part(item: Thing, sign: int, words: str) -> Thing:
        whole = item["price"]["unit_amount"] * item["quantity"]
        amount = sign * ((2 * whole * (end - at) + end - start) // (2 * (end - start)))
        return invoices.line(books, subscription, item["price"], item["quantity"], (at, end), amount, words)

    lines = [part(before, -1, f"Unused time on {{name}} after {day}")]
    if not moves:
        lines.append(part(after, 1, f"Remaining time on {{name}} after {day}"))
    return lines


def _moves_anchor(given: Params) -> bool:
    """`billing_cycle_anchor` is an object with a `type` since 2026-09-30; the plain word of before is refused, as there."""
    return given.part("billing_cycle_anchor").one_of("type", ("now", "unchanged"), "unchanged") == "now"


def _proration_date(books: Books, item: Thing, given: Params) -> int:
    at = given.whole("proration_date", 0)
    if at is None:
        return min(max(books.second, item["current_period_start"]), item["current_period_end"])
    if not item["current_period_start"] <= at <= item["current_period_end"]:
        raise invalid(
            "Cannot specify proration_date outside of current subscription period.", given.param("proration_date")
        )
    return at
