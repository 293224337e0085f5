"""The books of the simulated company: its objects, the events they cause, one piece of work at a time."""

from __future__ import annotations

import copy
import secrets
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import func, select, text

from models.base import db
from models.simulated_payments import SimulatedEvent, SimulatedObject
from services.gateways.simulated_stripe.wire import LIMIT, Params, invalid, no_such

API_VERSION = "2026-10-28.endive"  # of stripe-python 16.1.0; the shapes here are of this version
INCOMPLETE_LASTS = 23 * 3600  # seconds; after Stripe
ALPHABET = string.ascii_letters + string.digits
ONE_AT_A_TIME = 7247160018  # key of the advisory lock: a number nobody else uses in this database
NOT_SHOWN = {"checkout.session": ("line_items", "simulated_data")}  # answered only when expanded

Thing = dict[str, Any]  # one object in Stripe's JSON


@dataclass
class Books:
    """One piece of work in the books. `at` is when it happens, in whole seconds."""

    at: datetime
    public_url: str
    request_key: str | None = None
    told: list[str] = field(default_factory=list)  # ids of the events of this work
    _open: dict[str, Thing] = field(default_factory=dict)

    @property
    def second(self) -> int:
        """Now, in seconds since 1970."""
        return int(self.at.timestamp())

    def find(self, kind: str, id: str | None) -> Thing | None:
        """One object, the same one whoever asks during this work; None when there is none."""
        if not id:
            return None
        if id not in self._open:
            row = db.session.get(SimulatedObject, id)
            if row is None:
                return None
            self._open[id] = copy.deepcopy(row.data)
        thing = self._open[id]
        return thing if thing["object"] == kind else None

    def get(self, kind: str, id: str, param: str = "id") -> Thing:
        """The object that an address names. Raises Refused 404."""
        thing = self.find(kind, id)
        if thing is None:
            raise no_such(kind, id, param)
        return thing

    def named(self, kind: str, given: Params, name: str) -> Thing:
        """The object that a parameter names. Raises Refused 400 when it is missing or unknown."""
        thing = self.find(kind, given.need(name))
        if thing is None or thing.get("deleted"):
            raise no_such(kind, given.need(name), given.param(name), 400)
        return thing

    def any(self, id: str) -> Thing | None:
        """An object of whatever kind."""
        row = db.session.get(SimulatedObject, id)
        return self.find(row.kind, id) if row else None

    def add(self, thing: Thing, event: str | None = None) -> Thing:
        """Write down a new object and tell `event`."""
        self._open[thing["id"]] = thing
        row = SimulatedObject(
            id=thing["id"], sequence=_next(SimulatedObject), kind=thing["object"], customer=thing.get("customer"),
            parent=parent_of(thing), created_at=instant(thing["created"]), due_at=due_of(thing),
            data=copy.deepcopy(thing),
        )  # fmt: skip
        db.session.add(row)
        db.session.flush()
        if event:
            self.tell(event, thing)
        return thing

    def revise(self, thing: Thing, event: str | None = None) -> Thing:
        """Write down an object that has changed and tell `event` with what it was; nothing when it is the same."""
        row = db.session.get_one(SimulatedObject, thing["id"])
        before = {name: row.data.get(name) for name in thing if row.data.get(name) != thing[name]}
        if before:
            row.data, row.customer, row.due_at = copy.deepcopy(thing), thing.get("customer"), due_of(thing)
            if event:
                self.tell(event, thing, before)
        return thing

    def tell(self, event: str, thing: Thing, before: Thing | None = None) -> None:
        """Write down that something happened to an object."""
        id = new_id("evt")
        about: Thing = {"object": without_hidden(copy.deepcopy(thing))}
        if before:
            about["previous_attributes"] = copy.deepcopy(before)
        data = {
            "id": id, "object": "event", "api_version": API_VERSION, "created": self.second, "data": about,
            "livemode": False, "pending_webhooks": 1, "request": {"id": None, "idempotency_key": self.request_key},
            "type": event,
        }  # fmt: skip
        db.session.add(SimulatedEvent(id=id, sequence=_next(SimulatedEvent), type=event, created_at=self.at, data=data))
        db.session.flush()
        self.told.append(id)

    def all(self, kind: str, *, customer: str | None = None, parent: str | None = None) -> list[Thing]:
        """Every object of a kind of one customer or one parent, oldest first."""
        query = select(SimulatedObject.id).where(SimulatedObject.kind == kind).order_by(SimulatedObject.sequence)
        if customer is not None:
            query = query.where(SimulatedObject.customer == customer)
        if parent is not None:
            query = query.where(SimulatedObject.parent == parent)
        return [self.get(kind, id) for id in db.session.scalars(query)]

    def listing(
        self, kind: str, url: str, given: Params, *, customer: str | None = None, parent: str | None = None,
        fits: Callable[[Thing], bool] = lambda thing: True,
    ) -> Thing:  # fmt: skip
        """One page of a list, newest first, by `limit`, `starting_after`, `ending_before` and `created`."""
        query = select(SimulatedObject.data).where(SimulatedObject.kind == kind)
        if customer is not None:
            query = query.where(SimulatedObject.customer == customer)
        if parent is not None:
            query = query.where(SimulatedObject.parent == parent)
        return page(query, SimulatedObject, url, given, fits)


def page(query: Any, table: Any, url: str, given: Params, fits: Callable[[Thing], bool]) -> Thing:
    """Carry out a list query of objects or events. Raises Refused 400 for a limit or a cursor that cannot be."""
    limit = given.whole("limit", 1) or 10
    if limit > LIMIT:
        raise invalid(f"This value must be less than or equal to {LIMIT}.", "limit", "parameter_invalid_integer")
    query, backward = _after_cursor(_within(query, table, given), table, given)
    found: list[Thing] = []
    for data in db.session.scalars(query.execution_options(yield_per=LIMIT)):
        if fits(data):
            found.append(without_hidden(copy.deepcopy(data)))
        if len(found) > limit:
            break
    shown = found[:limit]
    return {
        "object": "list", "data": shown[::-1] if backward else shown, "has_more": len(found) > limit, "url": url,
    }  # fmt: skip


def new_id(prefix: str, length: int = 24) -> str:
    """A fresh id that nobody can guess."""
    return f"{prefix}_" + "".join(secrets.choice(ALPHABET) for _ in range(length))


def instant(second: int) -> datetime:
    """Seconds since 1970 as an aware datetime."""
    return datetime.fromtimestamp(second, UTC)


def without_hidden(thing: Thing) -> Thing:
    """An object without the parts that Stripe answers only when they are expanded."""
    for name in NOT_SHOWN.get(thing.get("object", ""), ()):
        thing.pop(name, None)
    return thing


def parent_of(thing: Thing) -> str | None:
    """What an object belongs to, besides its customer."""
    match thing["object"]:
        case "invoice":
            return (thing["parent"] or {}).get("subscription_details", {}).get("subscription")
        case "refund" | "dispute":
            return thing["charge"]
        case "charge":
            return thing["payment_intent"]
        case "price":
            return thing["product"]
        case "invoice_payment":
            return thing["invoice"]
        case "invoiceitem":
            return thing["parent"]["subscription_details"]["subscription"]
    return None


def due_of(thing: Thing) -> datetime | None:
    """When time alone changes an object; None when it waits for nobody or for somebody."""
    second: int | None = None
    match thing["object"], thing.get("status"):
        case "checkout.session", "open":
            second = thing["expires_at"]
        case "invoice", "open":
            second = thing["next_payment_attempt"]
        case "subscription", "incomplete":
            second = thing["created"] + INCOMPLETE_LASTS
        case "subscription", "active":
            second = thing["items"]["data"][0]["current_period_end"]
            if thing["pending_update"]:
                second = min(second, thing["pending_update"]["expires_at"])
        case "subscription", "past_due" if thing["pending_update"]:
            second = thing["pending_update"]["expires_at"]
    return None if second is None else instant(second)


def lock() -> None:
    """Let one piece of work at a time write. SQLite does so by itself; PostgreSQL is asked to until the commit."""
    if db.engine.dialect.name == "postgresql":
        db.session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ONE_AT_A_TIME})


def _next(table: Any) -> int:
    return (db.session.scalar(select(func.max(table.sequence))) or 0) + 1


def _within(query: Any, table: Any, given: Params) -> Any:
    created = given.values.get("created")
    if isinstance(created, str):
        return query.where(table.created_at == instant(given.need_whole("created")))
    bounds = given.part("created")
    bounds.only(("gt", "gte", "lt", "lte"))
    for name in bounds.values:
        edge = instant(bounds.need_whole(name))
        column = table.created_at
        query = query.where(
            {"gt": column > edge, "gte": column >= edge, "lt": column < edge, "lte": column <= edge}[name]
        )
    return query


def _after_cursor(query: Any, table: Any, given: Params) -> tuple[Any, bool]:
    for name in ("starting_after", "ending_before"):
        if name in given:
            edge = db.session.scalar(select(table.sequence).where(table.id == given.need(name)))
            if edge is None:
                raise no_such("object", given.need(name), name, 400)
            if name == "ending_before":
                return query.where(table.sequence > edge).order_by(table.sequence), True
            query = query.where(table.sequence < edge)
    return query.order_by(table.sequence.desc()), False
