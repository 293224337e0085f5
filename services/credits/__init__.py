"""The only package that writes the ledger: wallets, lots, holds, debts, operations.

Each verb is one operation under the wallet's lock, known by a key that is a business fact. The same key with the same
input gives the stored operation again, refusals included; the same key with other input is a Conflict. Rules A to E, K
and N of the billing research hold; `services/reconcile.py` checks them.

ledger    the lock, the lots, and the one function that books      grants   issuing, expiring, taking back
spending  spend, hold, tick, settle, refund                         reading  balances and the statement
money     sales in cents                                         writing  how operations reach the tables
"""

from services.credits.grants import (
    Lot,
    adjust,
    claw_back,
    expire_lots,
    freeze,
    gate_monthly,
    grant,
    grant_many,
    open_wallet,
    unfreeze,
)
from services.credits.ledger import lock, lock_many, open_lots
from services.credits.money import follow_refunds, sale
from services.credits.reading import (
    held,
    held_by_job,
    held_for,
    history,
    lots_of,
    spendable,
    statement,
    used_between,
    wallet_of,
)
from services.credits.spending import hold, refund, require, settle, spend, tick
from services.credits.writing import Usage

__all__ = [
    "Lot",
    "Usage",
    "adjust",
    "claw_back",
    "expire_lots",
    "follow_refunds",
    "freeze",
    "gate_monthly",
    "grant",
    "grant_many",
    "held",
    "held_by_job",
    "held_for",
    "history",
    "hold",
    "lock",
    "lock_many",
    "lots_of",
    "open_lots",
    "open_wallet",
    "refund",
    "require",
    "sale",
    "settle",
    "spend",
    "spendable",
    "statement",
    "tick",
    "unfreeze",
    "used_between",
    "wallet_of",
]
