"""`expand[]`: ids in an answer become the objects they name, and parts that are left out by default are put in.

After https://docs.stripe.com/api/expanding_objects.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

from services.gateways.simulated_stripe.books import Books, Thing, without_hidden
from services.gateways.simulated_stripe.wire import invalid

DEEPEST = 4


def expanded(books: Books, thing: Thing, paths: list[str]) -> Thing:
    """A copy of `thing` with each path expanded. Raises Refused 400 for a path that leads nowhere."""
    answer = without_hidden(copy.deepcopy(thing))
    for path in paths:
        steps = path.split(".")
        if len(steps) > DEEPEST + (answer["object"] == "list"):
            raise invalid(f"You cannot expand more than {DEEPEST} levels of a property ({path}).", "expand")
        _expand(books, answer, steps, path)
    return answer


def _expand(books: Books, thing: Thing, steps: list[str], path: str) -> None:
    first, *rest = steps
    if first not in thing and (made := LEFT_OUT.get((thing.get("object", ""), first))) is not None:
        thing[first] = made(books, thing)
    if first not in thing:
        raise invalid(f"This property cannot be expanded ({path}).", "expand")
    value = thing[first]
    if isinstance(value, str):
        found = books.any(value)
        if found is None:
            raise invalid(f"This property cannot be expanded ({path}).", "expand")
        thing[first] = value = without_hidden(copy.deepcopy(found))
    if not rest:
        return
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, dict):
            _expand(books, part, rest, path)


def _session_items(books: Books, session: Thing) -> Thing:
    return copy.deepcopy(books.get("checkout.session", session["id"])["line_items"])


def _whole(kind: str, url: str, *, parent: bool) -> Callable[[Books, Thing], Thing]:
    def made(books: Books, owner: Thing) -> Thing:
        owned = books.all(kind, parent=owner["id"]) if parent else books.all(kind, customer=owner["id"])
        data = [copy.deepcopy(each) for each in reversed(owned) if each.get("status") != "canceled"]
        return {"object": "list", "data": data, "has_more": False, "url": url.format(id=owner["id"])}

    return made


LEFT_OUT: dict[tuple[str, str], Callable[[Books, Thing], Thing]] = {
    ("checkout.session", "line_items"): _session_items,
    ("invoice", "payments"): _whole("invoice_payment", "/v1/invoice_payments?invoice={id}", parent=True),
    ("charge", "refunds"): _whole("refund", "/v1/charges/{id}/refunds", parent=True),
    ("customer", "subscriptions"): _whole("subscription", "/v1/customers/{id}/subscriptions", parent=False),
}
