"""Members, subscriptions and charges in any number, brought in by COPY, in the state that the yard's own verbs leave."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import psycopg
from sqlalchemy import Table

from models.accounts import User
from models.base import now
from models.credits import GRANTED, MONTHLY, LedgerAccount, LedgerOperation, LedgerTransfer, Wallet
from models.subscriptions import CreditPeriod, PlanChange, Subscription
from models.usage import UsageDay, UsageRecord
from services import calendar
from services.accounts import hasher
from services.credits.ledger import fingerprint, operation_hash

EMAIL, PASSWORD = "alice@example.com", "correct horse battery"
LARGE = 1_000_000  # what everybody was granted beside the monthly credits
AT_ONCE = 50_000
PAYING = 5  # every fifth member pays
CHARGED = """
    UPDATE ledger_accounts SET balance = balance - charged.amount
    FROM (SELECT from_id, sum(amount) AS amount FROM ledger_transfers GROUP BY from_id) AS charged
    WHERE ledger_accounts.id = charged.from_id AND user_id IS NOT NULL
"""


@dataclass(frozen=True)
class Crowd:
    """The first of the `members` is alice, a superadmin, with a share of the charges. `are_due`: all are to be renewed."""

    members: int
    usage: int
    hers: float = 0.1
    are_due: bool = False


def fill(url: str, crowd: Crowd) -> None:
    """Write the crowd into a database that has the tables and the price list, and nobody in it."""
    with psycopg.connect(url) as connection:
        _Filling(connection, crowd).all()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


class _Filling:
    """Rows wait here until there are many; each wallet's end of its chain is kept."""

    def __init__(self, connection: psycopg.Connection[Any], crowd: Crowd) -> None:
        self.connection, self.crowd, self.moment = connection, crowd, now()
        self.system: dict[str, int] = dict(
            connection.execute("SELECT kind, id FROM ledger_accounts WHERE user_id IS NULL").fetchall()
        )
        self.plans: dict[str, tuple[int, int, int]] = {
            row[0]: row[1:] for row in connection.execute("SELECT name, id, monthly_credits, price_cents FROM plans")
        }
        self.rows: dict[Table, list[dict[str, Any]]] = {}
        self.wallets: dict[int, dict[str, Any]] = {}
        self.lots: dict[int, int] = {}
        self.days: dict[tuple[Any, ...], int] = {}
        self.operations = 0
        self.accounts = max(self.system.values())

    def all(self) -> None:
        password = hasher.hash(PASSWORD)
        for number in range(1, self.crowd.members + 1):
            self._member(number, password)
        self._flush()
        dice = random.Random(1)
        first = self.moment - timedelta(days=390)
        for number in range(self.crowd.usage):
            user = 1 if dice.random() < self.crowd.hers else dice.randint(1, self.crowd.members)
            self._charge(user, first + timedelta(days=390) * number / self.crowd.usage, dice)
            if len(self._of(LedgerOperation)) >= AT_ONCE:
                self._flush()
        for user, day, action, recipe, model in self.days:
            credits = self.days[user, day, action, recipe, model]
            self._put(
                UsageDay,
                user_id=user,
                day=day,
                action=action,
                recipe=recipe,
                base_model=model,
                quantity=credits,
                credits=credits,
            )
        self._of(Wallet).extend(self.wallets.values())
        self._flush()
        self.connection.execute(CHARGED)
        for table in ("users", "subscriptions", "ledger_accounts", "ledger_operations"):
            self.connection.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
            )

    def _member(self, number: int, password: str) -> None:
        pays = number % PAYING == 0
        plan, allotment, cents = self.plans["basic" if pays else "free"]
        anchor = self._anchor(number)
        k = calendar.index_at(anchor, self.moment) - self.crowd.are_due
        starts_at, ends_at = calendar.start(anchor, k), calendar.start(anchor, k + 1)
        name = "alice" if number == 1 else f"member-{number}"
        self._put(User, id=number, email=f"{name}@example.com", username=name, password_hash=password, created_at=anchor,
                  role="superadmin" if number == 1 else "member", customer_id=f"cus_{number}" if pays else None)  # fmt: skip
        self._put(
            Subscription, id=number, user_id=number, plan_id=plan, source="gateway" if pays else "free", anchor_at=anchor,
            next_period=k + 1, next_reset_at=ends_at, term_ends_at=ends_at if pays else None, created_at=anchor,
            gateway_id=f"sub_{number}" if pays else None,
        )  # fmt: skip
        self._put(CreditPeriod, subscription_id=number, k=k, starts_at=starts_at, ends_at=ends_at, plan_id=plan,
                  allotment=allotment, opened_by="signup")  # fmt: skip
        self._put(PlanChange, user_id=number, subscription_id=number, at=anchor, plan_id=plan, source="gateway" if pays else "free",
                  mrr_before=0, mrr_after=cents if pays else 0)  # fmt: skip
        self.wallets[number] = _row(Wallet, user_id=number, low_at=(allotment + LARGE) // 5)
        self._lot(number, f"period:{number}:{k}", allotment, MONTHLY, starts_at, ends_at)
        self.lots[number] = self._lot(number, f"admin:bench:{number}", LARGE, GRANTED, starts_at, None)

    def _anchor(self, number: int) -> datetime:
        """Everybody's own; when all are due, all periods ended within the last hour."""
        if self.crowd.are_due:
            return calendar.start(self.moment, -3) - timedelta(milliseconds=36 * (number % 100_000))
        return self.moment - timedelta(days=400, seconds=number * 37 % 2_500_000)

    def _lot(
        self, user: int, key: str, amount: int, priority: int, starts_at: datetime, expires_at: datetime | None
    ) -> int:
        self.accounts += 1
        self._put(
            LedgerAccount, id=self.accounts, kind="lot", user_id=user, balance=amount, granted=amount, priority=priority,
            source=key, effective_at=starts_at, expires_at=expires_at,
        )  # fmt: skip
        given = {"amount": amount, "priority": priority, "expires_at": expires_at and expires_at.isoformat()}
        self._operation(user, key, "grant", given, amount, amount, (self.system["issued"], self.accounts), starts_at)
        return self.accounts

    def _charge(self, user: int, at: datetime, dice: random.Random) -> None:
        """One credit for one of a few things, from the lot that does not expire."""
        action, recipe, model = dice.choice((("chat_message", "language", "yard-tiny"), ("image", "image_lora", "sd")))
        given = {"amount": 1, "action": action}
        key = f"bench:fill:{self.operations}"
        self._operation(user, key, "spend", given, 1, -1, (self.lots[user], self.system["consumed"]), at)
        self._put(UsageRecord, operation_id=self.operations, user_id=user, at=at, action=action, recipe=recipe,
                  base_model=model, quantity=1, credits=1)  # fmt: skip
        day = (user, at.date(), action, recipe, model)
        self.days[day] = self.days.get(day, 0) + 1

    def _operation(
        self, user: int, key: str, kind: str, given: dict[str, Any], amount: int, change: int, move: tuple[int, int], at: datetime
    ) -> None:  # fmt: skip
        self.operations += 1
        wallet = self.wallets[user]
        wallet["balance"] += change
        wallet["available"] += change
        row = _row(
            LedgerOperation, id=self.operations, key=key, fingerprint=fingerprint(given), kind=kind, user_id=user,
            reason="Monthly credits" if kind == "grant" else "A message", outcome="done", amount=amount, change=change,
            balance_after=wallet["balance"], available_after=wallet["available"], event_at=at, created_at=at,
        )  # fmt: skip
        row["details"] = json.dumps({})
        row["hash"] = wallet["head"] = operation_hash(wallet["head"], row, [(*move, amount)])
        self._of(LedgerOperation).append(row)
        self._put(LedgerTransfer, operation_id=self.operations, seq=0, from_id=move[0], to_id=move[1], amount=amount)

    def _of(self, model: Any) -> list[dict[str, Any]]:
        return self.rows.setdefault(model.__table__, [])

    def _put(self, model: Any, **given: Any) -> None:
        self._of(model).append(_row(model, **given))

    def _flush(self) -> None:
        """In the order in which tables point at each other."""
        for table in sorted(self.rows, key=lambda table: table.metadata.sorted_tables.index(table)):
            rows = self.rows[table]
            if not rows:
                continue
            names = ", ".join(f'"{name}"' for name in rows[0])
            with self.connection.cursor().copy(f"COPY {table.name} ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(tuple(row.values()))
            rows.clear()


_defaults: dict[Any, dict[str, Any]] = {}


def _row(model: Any, **given: Any) -> dict[str, Any]:
    """All columns of a table: what is given, else the model's own default. An id that is not given is the database's."""
    if model not in _defaults:
        moment = now()
        _defaults[model] = {
            column.name: moment if column.name == "created_at" else column.default.arg if column.default else None
            for column in model.__table__.columns
            if column.name != "id"
        }
    return {**_defaults[model], **given}
