"""How operations reach the tables: on PostgreSQL all rows of all drafts in one statement, on SQLite one for each table.

A round trip costs more than the rows it carries, so on PostgreSQL the rows travel as JSON and the database takes them apart.
Operations and transfers are never changed, so they are plain rows and the session does not follow them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Integer, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from models import bulk
from models.base import db
from models.credits import LedgerAccount, LedgerOperation, LedgerTransfer, Wallet
from models.usage import UsageDay, UsageRecord

Rows = list[dict[str, Any]]
FIGURES = ("available", "held", "balance", "debt", "low_at", "low_since", "head")  # of a wallet, that change with it

_operations: Any = LedgerOperation.__table__
_transfers: Any = LedgerTransfer.__table__
_accounts: Any = LedgerAccount.__table__
_wallets: Any = Wallet.__table__
_records: Any = UsageRecord.__table__
_days: Any = UsageDay.__table__


@dataclass(frozen=True)
class Move:
    """Whole credits, or cents, from one account to another."""

    source: LedgerAccount
    target: LedgerAccount
    amount: int


@dataclass(frozen=True)
class Usage:
    """What a charge was for, as the analysis groups it."""

    action: str
    recipe: str | None = None
    base_model: str | None = None
    quantity: int = 1


@dataclass(frozen=True)
class Draft:
    """An operation that is worked out and not written yet: its row, what it moves, and what was used for it."""

    wallet: Wallet
    row: dict[str, Any]
    moves: Sequence[Move]
    usage: Usage | None


def write(drafts: Sequence[Draft]) -> list[int]:
    """Insert the operations in this order, so that their ids rise, with transfers, usage and cached figures. Their ids."""
    if not drafts:
        return []
    rows = {
        "operations": [{**made.row, "place": place} for place, made in enumerate(drafts)],
        "transfers": [row for made in drafts for row in _transfer_rows(made)],
        "accounts": _account_rows(drafts),
        "wallets": [_wallet_row(wallet) for wallet in {made.wallet.user_id: made.wallet for made in drafts}.values()],
        "records": [_record_row(made) for made in drafts if made.usage],
        "days": [_day_row(made) for made in drafts if made.usage],
    }  # fmt: skip
    with db.session.no_autoflush:
        ids = _write_together(rows) if bulk.on_postgres() else _write_apart(rows)
    return [ids[made.row["key"]] for made in drafts]


# --- rows -----------------------------------------------------------------------------------------------------------------


def _transfer_rows(made: Draft) -> Rows:
    return [
        {"key": made.row["key"], "seq": seq, "from_id": move.source.id, "to_id": move.target.id, "amount": move.amount}
        for seq, move in enumerate(made.moves)
    ]


def _account_rows(drafts: Sequence[Draft]) -> Rows:
    moved = {end.id: end for made in drafts for move in made.moves for end in (move.source, move.target)}
    return [{"id": number, "balance": moved[number].balance} for number in sorted(moved) if moved[number].user_id]


def _wallet_row(wallet: Wallet) -> dict[str, Any]:
    return {"user_id": wallet.user_id, **{name: getattr(wallet, name) for name in FIGURES}}


def _record_row(made: Draft) -> dict[str, Any]:
    operation, usage = made.row, made.usage
    assert usage is not None
    return {
        "key": operation["key"], "user_id": operation["user_id"], "job_id": operation["job_id"],
        "at": operation["event_at"], "action": usage.action, "recipe": usage.recipe, "base_model": usage.base_model,
        "quantity": usage.quantity, "credits": _charged(made), "created_at": operation["created_at"],
    }  # fmt: skip


def _day_row(made: Draft) -> dict[str, Any]:
    usage = made.usage
    assert usage is not None
    return {
        "user_id": made.row["user_id"], "day": made.row["event_at"].date(), "action": usage.action,
        "recipe": usage.recipe or "", "base_model": usage.base_model or "", "quantity": usage.quantity,
        "credits": _charged(made),
    }  # fmt: skip


def _charged(made: Draft) -> int:
    amount: int = made.row["amount"]
    return -amount if made.row["kind"] == "refund" else amount


# --- PostgreSQL: one statement --------------------------------------------------------------------------------------------


def _columns_but(table: Any, *names: str) -> dict[str, Any]:
    return {one.name: one.type for one in table.c if one.name not in names}


def _of_operation(table: Any, rows: Any, operation: Any, *order: Any) -> Any:
    """An INSERT of rows that name their operation by its key."""
    names = [one.name for one in rows.c if one.name != "key"]
    source = select(operation.c.id, *[rows.c[name] for name in names]).join(operation, operation.c.key == rows.c.key)
    return insert(table).from_select(["operation_id", *names], source.order_by(*order), include_defaults=False)


def _operation() -> Any:
    columns = _columns_but(_operations, "id")
    rows = bulk.given("operations", **columns, place=Integer())
    in_order = select(*[rows.c[name] for name in columns]).order_by(rows.c.place)
    made = insert(_operations).from_select(list(columns), in_order, include_defaults=False)
    return made.returning(_operations.c.id, _operations.c.key).cte("operation")


def _all_at_once() -> Any:
    operation, key = _operation(), bulk.types(_operations, "key")
    transfers = bulk.given("transfers", **key, **_columns_but(_transfers, "id", "operation_id"))
    accounts = bulk.given("accounts", **bulk.types(_accounts, "id", "balance"))
    wallets = bulk.given("wallets", **bulk.types(_wallets, "user_id", *FIGURES))
    records = bulk.given("records", **key, **_columns_but(_records, "id", "operation_id"))
    days = bulk.given("days", **_columns_but(_days))
    return select(operation.c.key, operation.c.id).add_cte(
        _of_operation(_transfers, transfers, operation, operation.c.id, transfers.c.seq).cte("transfer"),
        update(_accounts).where(_accounts.c.id == accounts.c.id).values(balance=accounts.c.balance).cte("account"),
        update(_wallets)
        .where(_wallets.c.user_id == wallets.c.user_id)
        .values({name: wallets.c[name] for name in FIGURES})
        .cte("wallet"),
        _of_operation(_records, records, operation, operation.c.id).cte("record"),
        _raised(postgresql.insert(_days).from_select(list(days.c.keys()), select(*days.c))).cte("day"),
    )


def _raised(inserted: Any) -> Any:
    """Add to a day's sums that are there already."""
    more = {name: _days.c[name] + inserted.excluded[name] for name in ("quantity", "credits")}
    return inserted.on_conflict_do_update(index_elements=list(_days.primary_key), set_=more)


def _write_together(rows: dict[str, Rows]) -> dict[str, int]:
    given = {name: bulk.as_json(some) for name, some in rows.items()}
    return dict(db.session.connection().execute(_ALL_AT_ONCE, given).all())  # type: ignore[arg-type]


# --- SQLite: one statement for each table -----------------------------------------------------------------------------------


def _write_apart(rows: dict[str, Rows]) -> dict[str, int]:
    keys = [row["key"] for row in rows["operations"]]
    bulk.insert_many(_operations, [{name: row[name] for name in row if name != "place"} for row in rows["operations"]])
    found = db.session.execute(select(_operations.c.key, _operations.c.id).where(_operations.c.key.in_(keys)))
    ids: dict[str, int] = dict(found.all())  # type: ignore[arg-type]
    for table, name in ((_transfers, "transfers"), (_records, "records")):
        bulk.insert_many(table, [{"operation_id": ids[row.pop("key")], **row} for row in rows[name]])
    bulk.update_many(_accounts, rows["accounts"])
    bulk.update_many(_wallets, rows["wallets"])
    if rows["days"]:
        db.session.execute(_raised(sqlite.insert(_days)), rows["days"])
    return ids


_ALL_AT_ONCE = _all_at_once()
