"""Money that goes back: refunds and disputes, brought over as they stand, however often (research: billing, part K)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sqlalchemy import select

from models.base import db, end_read, transaction
from models.payments import Payment
from models.subscriptions import Subscription
from services import credits
from services.errors import Conflict, Unavailable
from services.gateways import gateways
from services.gateways.payments import Object
from services.payments.shapes import id_of
from services.payments.sync import LOOKS, Also, Later, nothing, sync_intent, sync_subscription, user_of_customer

LOST, WON = ("lost",), ("won", "warning_closed")


def refund_pack(payment_id: int, key: str) -> Payment:
    """Give back the money for the part of a pack that is not spent. Raises Conflict when nothing is left of it."""
    payment = db.session.get_one(Payment, payment_id)
    if payment.kind != "pack" or payment.status != "paid":
        raise Conflict("Only a pack that was paid can be refunded here.", code="not_refundable")
    if payment.charge_id is None and payment.intent_id:
        sync_intent(payment.intent_id)  # so that what is given back is taken back below, not when an event comes
        db.session.refresh(payment)
    source = f"purchase:{payment.checkout_id}"
    lot = next((lot for lot in credits.open_lots(payment.user_id) if lot.source == source), None)
    cents = payment.amount_cents * (lot.balance or 0) // (lot.granted or 1) if lot else 0
    cents = min(cents, payment.amount_cents - payment.refunded_cents)
    if cents <= 0:
        raise Conflict("Every credit of this pack is spent already.", code="nothing_left")
    of = {"charge": payment.charge_id} if payment.charge_id else {"payment_intent": payment.intent_id}
    gateways().payments.refund(of, cents, key)
    if payment.charge_id:
        sync_charge(payment.charge_id)
    db.session.refresh(payment)
    return payment


def sync_charge(charge_id: str, also: Also = nothing) -> None:
    """Make what was taken back of a pack follow what was refunded of its charge."""
    for _ in range(LOOKS):
        version = _version(charge_id)
        charge = gateways().payments.retrieve("charge", charge_id)
        if charge is None:
            raise Later(f"the gateway does not know the charge {charge_id} yet")
        if _write(charge, version, partial(_follow, charge=charge), also):
            return
    raise Unavailable("This payment changes just now. Try again in a moment.")


def sync_dispute(dispute_id: str, also: Also = nothing) -> None:
    """A dispute freezes the pack it is about; lost, it takes it back and ends a plan; won, it lets it go."""
    charge_id = id_of(_dispute(dispute_id).get("charge")) or ""
    for _ in range(LOOKS):
        version = _version(charge_id)
        dispute = _dispute(dispute_id)
        charge = gateways().payments.retrieve("charge", charge_id) or {"id": charge_id}
        if dispute["status"] in LOST:
            _end_plan_paid_by(charge)
        if _write(charge, version, partial(_follow_dispute, charge=charge, dispute=dispute), also):
            return
    raise Unavailable("This payment changes just now. Try again in a moment.")


def _dispute(dispute_id: str) -> Object:
    found = gateways().payments.retrieve("dispute", dispute_id)
    if found is None:
        raise Later(f"the gateway does not know the dispute {dispute_id} yet")
    return found


def _version(charge_id: str) -> int | None:
    """Which look at a charge was written last; nobody waits for the gateway with the database in hand."""
    version = db.session.scalar(select(Payment.version).where(Payment.charge_id == charge_id))
    end_read()
    return version


def _write(charge: Object, version: int | None, effect: Callable[[Payment], None], also: Also) -> bool:
    """Carry out `effect` on the payment of a charge; False when a later look was written since this one began."""
    with transaction():
        payment = _payment_of(charge)
        if payment is None:
            if user_of_customer(charge.get("customer")) is not None:
                raise Later(f"the payment of charge {charge['id']} is not known yet")
        elif payment.version != version:
            return False
        else:
            payment.version += 1
            effect(payment)
        also()
        return True


def _payment_of(charge: Object) -> Payment | None:
    known = select(Payment).where(Payment.charge_id == charge.get("id"))
    intent = id_of(charge.get("payment_intent"))
    found = db.session.scalar(known)
    if found is None and intent:
        found = db.session.scalar(select(Payment).where(Payment.intent_id == intent))
    if found is not None:
        credits.lock(found.user_id)
        db.session.refresh(found)
        found.charge_id = charge.get("id")
    return found


def _follow(payment: Payment, charge: Object) -> None:
    """Make money and credits agree with what went back: refunds, and what a lost dispute took, never twice (K1, K3)."""
    payment.refunded_cents = min(int(charge.get("amount_refunded") or 0), payment.amount_cents)
    db.session.flush()
    credits.follow_refunds(payment.user_id, payment.id, payment.gone_cents, reason=f"Refund: {payment.what}")
    if payment.kind == "pack":
        credits.claw_back(
            payment.user_id, f"purchase:{payment.checkout_id}", (payment.gone_cents, payment.amount_cents),
            key=f"clawback:{payment.id}", reason=f"Refunded: {payment.what}",
        )  # fmt: skip


def _follow_dispute(payment: Payment, charge: Object, dispute: Object) -> None:
    status, source = str(dispute["status"]), f"purchase:{payment.checkout_id}"
    payment.dispute_id, payment.dispute_status = str(dispute["id"]), status
    payment.lost_cents = int(dispute.get("amount") or 0) if status in LOST else 0
    _follow(payment, charge)
    if status in LOST + WON:
        credits.unfreeze(payment.user_id, source, key=f"unfreeze:{dispute['id']}", reason="The dispute is decided")
    elif payment.kind == "pack":
        credits.freeze(payment.user_id, source, key=f"freeze:{dispute['id']}", reason="Frozen while a dispute is open")


def _end_plan_paid_by(charge: Object) -> None:
    """A lost dispute over a plan ends the plan, at the gateway first (billing K4)."""
    query = (
        select(Subscription.gateway_id)
        .join(Payment, Payment.subscription_id == Subscription.id)
        .where(Payment.charge_id == charge.get("id"), Subscription.gateway_id.is_not(None))
    )
    gateway_id = db.session.scalar(query)
    if gateway_id is not None:
        gateways().payments.cancel_now(gateway_id)
        sync_subscription(gateway_id)
