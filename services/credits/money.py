"""Sales in US cents: what came in through the gateway, and what went back."""

from __future__ import annotations

from models.base import transaction
from models.credits import LedgerOperation
from services.credits import ledger
from services.credits.ledger import Entry
from services.credits.writing import Move


def sale(user_id: int, payment_id: int, cents: int, *, reason: str) -> LedgerOperation:
    """Book that a member paid `cents`, once for each payment."""
    key, given = f"sale:{payment_id}", {"cents": cents}
    with transaction():
        wallet = ledger.lock(user_id)
        if operation := ledger.known(key, given):
            return operation
        moves = [Move(ledger.system("gateway"), ledger.system("platform"), cents)] if cents else []
        return ledger.book(wallet, Entry("sale", key, given, reason, cents), moves)


def follow_refunds(user_id: int, payment_id: int, total: int, *, reason: str) -> int:
    """Make what is booked as gone of a payment equal `total` cents. Level-triggered, as `claw_back`; answers the change."""
    with transaction():
        wallet = ledger.lock(user_id)
        number, booked = ledger.so_far(user_id, f"sale_refund:{payment_id}", "sale_refund")
        change = total - booked
        if change:
            way = ("platform", "gateway") if change > 0 else ("gateway", "platform")
            moves = [Move(ledger.system(way[0]), ledger.system(way[1]), abs(change))]
            kind = "sale_refund" if change > 0 else "sale_restore"
            key = f"sale_refund:{payment_id}:{number + 1}"
            ledger.book(wallet, Entry(kind, key, {"change": change}, reason, abs(change)), moves)
        return change
