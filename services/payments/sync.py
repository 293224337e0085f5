"""Bringing over what the gateway knows: look at an object, then write what follows from it, however often.

The object is fetched outside of any transaction. A subscription's row counts its versions: when somebody else wrote
between our look and our writing, the look is repeated, so an older state never comes last (research: billing F6).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import select, update

from models.accounts import User
from models.base import after_commit, changed, db, end_read, now, transaction
from models.credits import PACK
from models.payments import Checkout, Payment
from models.subscriptions import Subscription
from services import calendar, credits, notices, subscriptions
from services.errors import Conflict, Unavailable
from services.gateways import gateways
from services.gateways.payments import Object, instant
from services.payments import prices
from services.payments.shapes import id_of, intent_of_invoice, paying, period_of, subscription_of_invoice
from services.subscriptions import periods

GRACE = timedelta(days=7)
LOOKS = 5
ENDED = ("canceled", "incomplete_expired")
STANDING = ("active", "trialing", "past_due")
FINAL = ("paid", "void")  # an invoice stays so; a look that says otherwise began before
UNPAID = ("past_due", "unpaid")
Also = Callable[[], None]  # written together with the effect, such as the mark on the event that led here
log = structlog.get_logger()


class Later(Exception):
    """What an object needs is not there yet; look again soon."""


def nothing() -> None:
    """No more to write."""


def sync_checkout(session_id: str, also: Also = nothing) -> None:
    """Carry out what a hosted page was for: a pack that is paid, or the subscription that came of it."""
    session = _seen("checkout", session_id, ["subscription", "payment_intent"])
    checkout_id = (session.get("metadata") or {}).get("checkout_id")
    checkout = db.session.get(Checkout, checkout_id) if checkout_id else None
    if checkout is None:
        with transaction():
            also()
        return
    made, invoice_id = id_of(session.get("subscription")), id_of(session.get("invoice"))
    if made:
        sync_subscription(made)
    if made and invoice_id:
        sync_invoice(invoice_id)
    intent = session.get("payment_intent")
    with transaction():
        if session.get("mode") == "payment" and session.get("payment_status") in ("paid", "no_payment_required"):
            _fulfil_pack(checkout, intent if isinstance(intent, dict) else {"id": intent or session_id}, session)
        elif session.get("status") == "expired":
            close_checkout(checkout.id, "expired")
        also()


def sync_intent(intent_id: str, also: Also = nothing) -> None:
    """A payment that was made without a hosted page: the pack that it was for."""
    intent = _seen("payment_intent", intent_id, ["latest_charge"])
    checkout_id = (intent.get("metadata") or {}).get("checkout_id")
    with transaction():
        checkout = db.session.get(Checkout, checkout_id) if checkout_id else None
        if checkout is not None and checkout.kind == "pack" and intent.get("status") == "succeeded":
            _fulfil_pack(checkout, intent, {})
        also()


def sync_subscription(gateway_id: str, also: Also = nothing) -> None:
    """Make the subscription here agree with the gateway's."""
    for _ in range(LOOKS):
        version = _version(gateway_id)
        given = gateways().payments.retrieve("subscription", gateway_id, ["latest_invoice"])
        if given is not None and version is None and _is_second(given):
            _undo_second(given)
            given = None
        with transaction():
            if given is None:
                also()
                return
            _lock_owner(gateway_id, given)
            known = db.session.scalar(select(Subscription).where(Subscription.gateway_id == gateway_id))
            if known is not None and not _raise_version(known.id, version):
                continue
            if known is None and version is not None:
                continue
            _apply(known, given)
            also()
            return
    raise Unavailable("The subscription changes just now. Try again in a moment.")


def sync_invoice(gateway_id: str, also: Also = nothing) -> None:
    """Note what was paid, or not, for a subscription, and what follows for it."""
    invoice = _seen("invoice", gateway_id, ["payments"])
    subscription_id = subscription_of_invoice(invoice)
    if subscription_id:
        sync_subscription(subscription_id)
    with transaction():
        known = db.session.scalar(select(Subscription).where(Subscription.gateway_id == subscription_id))
        user_id = known.user_id if known else user_of_customer(invoice.get("customer"))
        if user_id is not None:
            _note_invoice(invoice, user_id, known)
        also()


def user_of_customer(customer: Any) -> int | None:
    """Who the gateway's customer is here."""
    return db.session.scalar(select(User.id).where(User.customer_id == id_of(customer)))


def _apply(known: Subscription | None, given: Object) -> None:
    item = given["items"]["data"][0]
    price = id_of(item.get("price") or item.get("plan"))
    found = prices.plan_of(price or "")
    if found is None:
        raise Conflict(f"The gateway's price {price} is none of ours; run `python setup_subscriptions.py`.")
    plan, interval = found
    if known is None:
        _begin(given, plan, interval)
        return
    if known.ended_at is not None or known.source != "gateway":
        _look_late(known, given, plan, interval)
        return
    if given["status"] not in UNPAID:
        periods.renew_due(known.user_id, now(), "gateway")  # what was due before this, as it stood then
        if known.source != "gateway":
            return  # that was its end
    old, was_past_due = known.plan, known.status == "past_due"
    if given["status"] in ENDED:
        subscriptions.fall_back(known, void=was_past_due or known.status == "unpaid")
        return
    if interval != known.interval and instant(given.get("billing_cycle_anchor")) != known.anchor_at:
        _begin_anew(known, given, plan, interval)
        return
    known.status = given["status"]
    known.term_ends_at = period_of(given)[1]
    known.cancel_at_period_end = bool(given.get("cancel_at_period_end") or given.get("cancel_at"))
    _take_price(known, plan, interval, given)
    _gate(known, was_past_due)
    if known.plan_id == old.id:
        periods.note_change(known, old, now())
    db.session.flush()
    periods.renew_due(known.user_id, now(), "gateway")


def _begin(given: Object, plan: Any, interval: str) -> None:
    """A subscription that is new here: a new series begins, counted from the gateway's own anchor."""
    user_id = _user_of(given)
    if user_id is None or given["status"] not in STANDING:
        return
    credits.lock(user_id)
    present = db.session.query(Subscription).filter_by(user_id=user_id, ended_at=None).one()
    if present.gateway_id == given["id"] and present.source == "gateway":
        return  # somebody else has just brought it over
    if present.source == "gateway":
        raise Conflict(f"Member {user_id} pays for {present.gateway_id} already.")  # tried again, it is undone
    subscriptions.end_series(present)
    _series(given, present, plan, interval)
    checkout_id = (given.get("metadata") or {}).get("checkout_id")
    if checkout_id:
        close_checkout(checkout_id, "paid")
    after_commit(_close_other_pages, user_id)


def _begin_anew(known: Subscription, given: Object, plan: Any, interval: str) -> None:
    """The gateway began a new cycle, as it does from month to year: so does the series here (billing H3)."""
    credits.lock(known.user_id)
    subscriptions.end_series(known)
    known.gateway_id = None
    db.session.flush()
    _series(given, known, plan, interval)


def _series(given: Object, present: Subscription, plan: Any, interval: str) -> None:
    """Begin a series as the gateway counts it, after the one that has just ended."""
    anchor = instant(given.get("billing_cycle_anchor")) or period_of(given)[0]
    begun = periods.begin(
        present.user_id, plan, source="gateway", by="gateway", interval=interval, anchor=min(anchor, now()),
        gateway_id=given["id"], term_ends_at=period_of(given)[1], from_plan=present.plan,
    )  # fmt: skip
    begun.status = given["status"]
    begun.cancel_at_period_end = bool(given.get("cancel_at_period_end") or given.get("cancel_at"))


def _look_late(known: Subscription, given: Object, plan: Any, interval: str) -> None:
    """What comes about a plan that ended here changes nothing, unless the gateway lets it go on after all."""
    ends = given.get("cancel_at_period_end") or given.get("cancel_at")
    if known.ended_at is None and given["status"] in STANDING and not ends and period_of(given)[1] > now():
        known.gateway_id = None
        db.session.flush()
        _begin(given, plan, interval)


def _close_other_pages(user_id: int) -> None:
    """Somebody who has a plan now must not buy a second one on a page that stands open in another tab."""
    query = select(Checkout).where(Checkout.user_id == user_id, Checkout.kind == "plan", Checkout.state == "open")
    for checkout_id, session_id in [(one.id, one.session_id) for one in db.session.scalars(query)]:
        if session_id:
            end_read()
            gateways().payments.close_checkout(session_id)
        with transaction():
            close_checkout(checkout_id, "expired")


def _lock_owner(gateway_id: str, given: Object) -> None:
    """Take the wallet's lock before the subscription's row, in the order in which every other verb does."""
    owner = db.session.scalar(select(Subscription.user_id).where(Subscription.gateway_id == gateway_id)) or _user_of(
        given
    )
    if owner is not None:
        credits.lock(owner)


def _user_of(given: Object) -> int | None:
    told = (given.get("metadata") or {}).get("user_id")
    return int(told) if told else user_of_customer(given.get("customer"))


def _is_second(given: Object) -> bool:
    """Whether this would be a second paid subscription beside the one its member has."""
    paying = select(Subscription.id).where(
        Subscription.user_id == _user_of(given), Subscription.ended_at.is_(None), Subscription.source == "gateway",
        Subscription.gateway_id != given["id"],
    )  # fmt: skip
    return given["status"] in STANDING and db.session.scalar(paying) is not None


def _undo_second(given: Object) -> None:
    """End a second subscription at the gateway and give its money back: nobody pays twice."""
    log.error("second_subscription_undone", subscription=given["id"])
    invoice_id = id_of(given.get("latest_invoice"))
    end_read()
    gateways().payments.cancel_now(given["id"])
    invoice = gateways().payments.retrieve("invoice", invoice_id, ["payments"]) if invoice_id else None
    intent = intent_of_invoice(invoice or {})
    if invoice and intent and invoice.get("amount_paid"):
        gateways().payments.refund({"payment_intent": intent}, int(invoice["amount_paid"]), f"second:{intent}")


def _take_price(known: Subscription, plan: Any, interval: str, given: Object) -> None:
    """A dearer plan holds at once; a cheaper one, or the same by another interval, with the next term."""
    if (plan.id, interval) == (known.plan_id, known.interval):
        if known.pending_plan_id is not None and not known.cancel_at_period_end:
            known.pending_plan_id = known.pending_interval = None
        return
    if plan.rank > known.plan.rank or (interval, known.interval) == ("year", "month"):
        periods.move_up(known, plan, interval, f"{known.id}:{id_of(given.get('latest_invoice'))}")
    else:
        known.pending_plan_id, known.pending_interval = plan.id, interval


def _gate(known: Subscription, was_past_due: bool) -> None:
    """Whether monthly credits may be spent: a week of grace, set once, after a payment that failed (G1, G2)."""
    if known.status == "past_due":
        known.grace_until = known.grace_until or now() + GRACE
        credits.gate_monthly(known.user_id, known.grace_until)
        if not was_past_due:
            notices.tell(
                known.user_id, "payment_failed", f"{known.id}:{known.grace_until:%Y%m%d%H%M}", "Your payment did not work",
                f"your bank refused the payment for the plan {known.plan.display_name}. Until "
                f"{known.grace_until:%d %B %Y} everything goes on; please choose another card by then:",
            )  # fmt: skip
    elif known.is_entitled(now()):
        known.grace_until = None
        credits.gate_monthly(known.user_id, None)
        if known.next_reset_at is None:
            known.next_reset_at = calendar.start(known.anchor_at, known.next_period)
    else:
        credits.gate_monthly(known.user_id, now())


def _fulfil_pack(checkout: Checkout, intent: Object, session: Object) -> None:
    """Grant a pack that is paid, once, and book the sale."""
    charge = intent.get("latest_charge")
    payment = _payment(
        str(intent["id"]), checkout.user_id, "pack", f"{checkout.credits:,} credits", checkout.amount_cents
    )
    payment.status, payment.checkout_id, payment.intent_id = "paid", checkout.id, str(intent["id"])
    payment.charge_id = id_of(charge) or payment.charge_id
    payment.url = charge.get("receipt_url") if isinstance(charge, dict) else payment.url
    payment.paid_at = payment.paid_at or now()
    db.session.flush()
    close_checkout(checkout.id, "paid")
    credits.sale(checkout.user_id, payment.id, checkout.amount_cents, reason=payment.what)
    credits.grant(
        checkout.user_id, checkout.credits, key=f"purchase:{checkout.id}", priority=PACK,
        reason=f"Pack of {checkout.credits:,} credits", expires_at=None,
    )  # fmt: skip


def _note_invoice(invoice: Object, user_id: int, subscription: Subscription | None) -> None:
    paid, total = invoice.get("status") == "paid", int(invoice.get("amount_paid") or invoice.get("total") or 0)
    if total <= 0 and not paid:
        return
    what = _words(invoice, subscription)
    payment = _payment(str(invoice["id"]), user_id, "plan", what, max(0, total))
    payment.subscription_id = subscription.id if subscription else payment.subscription_id
    payment.number = invoice.get("number")
    if payment.status not in FINAL:
        payment.status = str(invoice.get("status"))
    payment.amount_cents = max(payment.amount_cents, max(0, total))
    payment.url = invoice.get("hosted_invoice_url")
    payment.intent_id = intent_of_invoice(invoice) or payment.intent_id
    payment.charge_id = id_of(paying(invoice).get("charge") or invoice.get("charge")) or payment.charge_id
    if paid:
        payment.paid_at = payment.paid_at or instant((invoice.get("status_transitions") or {}).get("paid_at")) or now()
    db.session.flush()
    if paid:
        credits.sale(user_id, payment.id, payment.amount_cents, reason=what)


def _words(invoice: Object, subscription: Subscription | None) -> str:
    plan = subscription.plan.display_name if subscription else "Plan"
    words = {"subscription_update": f"{plan}: change of plan", "subscription_cycle": f"{plan}: renewal"}
    return words.get(str(invoice.get("billing_reason")), f"{plan} plan")


def _payment(gateway_id: str, user_id: int, kind: str, what: str, cents: int) -> Payment:
    credits.lock(user_id)  # two that bring over the same payment meet here
    found = db.session.scalar(select(Payment).where(Payment.gateway_id == gateway_id))
    if found is None:
        found = Payment(
            gateway_id=gateway_id,
            user_id=user_id,
            kind=kind,
            what=what,
            amount_cents=cents,
            status="open",
            refunded_cents=0,
            lost_cents=0,
        )
        db.session.add(found)
    return found


def close_checkout(checkout_id: str, state: str) -> None:
    """Say what an intent came to: paid, declined, expired."""
    # What is paid is paid, whatever a try before it came to; nothing else follows on anything but an open one.
    before = Checkout.state != "paid" if state == "paid" else Checkout.state == "open"
    with transaction():
        changed(update(Checkout).where(Checkout.id == checkout_id, before).values(state=state, settled_at=now()))


def _seen(kind: str, gateway_id: str, expand: list[str]) -> Object:
    found = gateways().payments.retrieve(kind, gateway_id, expand)
    if found is None:
        raise Later(f"the gateway does not know the {kind} {gateway_id} yet")
    return found


def _version(gateway_id: str) -> int | None:
    return db.session.scalar(select(Subscription.version).where(Subscription.gateway_id == gateway_id))


def _raise_version(subscription_id: int, version: int | None) -> bool:
    raised = update(Subscription).where(Subscription.id == subscription_id, Subscription.version == version)
    return changed(raised.values(version=Subscription.version + 1))
