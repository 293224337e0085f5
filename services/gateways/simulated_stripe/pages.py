"""What the hosted pages show, in the words of the pages. Amounts in cents."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Line:
    """What is paid for, and how much in cents."""

    words: str
    cents: int


@dataclass(frozen=True)
class CheckoutPage:
    """A checkout session as its page shows it. `every` is `month`, `year` or None; `card` the one chosen beforehand."""

    id: str
    status: str
    lines: list[Line]
    cents: int
    every: str | None
    email: str | None
    card: str
    success_url: str
    cancel_url: str | None


@dataclass(frozen=True)
class InvoicePage:
    """An invoice as its page shows it: `carried` cents come from the customer's balance."""

    id: str
    number: str
    status: str
    lines: list[Line]
    carried: int
    cents: int
    email: str | None
    card: str


@dataclass(frozen=True)
class Subscribed:
    """A subscription as the portal shows it."""

    id: str
    name: str
    status: str
    cents: int
    every: str
    ends: bool
    until: datetime


@dataclass(frozen=True)
class Billed:
    """An invoice as the portal lists it."""

    id: str
    number: str
    status: str
    cents: int
    at: datetime


@dataclass(frozen=True)
class PortalPage:
    """The billing portal of one customer. `card` is the kind in use, `none` without one."""

    id: str
    open: bool
    card: str
    email: str | None
    subscriptions: list[Subscribed]
    invoices: list[Billed]
    return_url: str | None
