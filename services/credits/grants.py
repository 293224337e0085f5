"""Issuing credits, ending them, and taking them back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from models import bulk
from models.base import add, db, now, transaction
from models.credits import GRANTED, LedgerAccount, LedgerOperation, LedgerTransfer, Wallet
from services.credits import ledger
from services.credits.ledger import Entry
from services.credits.writing import Draft, Move, write
from services.errors import Invalid

_lots: Any = LedgerAccount.__table__


@dataclass(frozen=True)
class Lot:
    """Credits to issue to one member at once: `key` is the fact that is the reason, such as a period."""

    user_id: int
    amount: int
    key: str
    reason: str
    priority: int
    starts_at: datetime
    expires_at: datetime | None


def open_wallet(user_id: int) -> None:
    """Give a new member a wallet."""
    with transaction():
        add(Wallet(user_id=user_id))


def grant(
    user_id: int, amount: int, *, key: str, priority: int, reason: str, expires_at: datetime | None
) -> LedgerOperation:
    """Issue a lot of `amount` credits that burns at `priority` and dies at `expires_at` (None: never)."""
    given = _given(amount, priority, expires_at)
    with transaction():
        wallet = ledger.lock(user_id)
        operation, lots = ledger.look(user_id, key, given)
        if operation:
            return operation
        lot = add(LedgerAccount(**_lot_row(Lot(user_id, amount, key, reason, priority, now(), expires_at))))
        return _issue(wallet, lots, lot, reason)


def grant_many(wanted: Sequence[Lot], wallets: Mapping[int, Wallet] | None = None) -> None:
    """Issue many lots, each an operation of its own, in a few statements; what has died by then is ended first.

    One lot a member at most. A lot whose key is known is left out. The new lots begin at `starts_at`. `wallets` are those
    of a caller who holds their locks.
    """
    with transaction():
        wallets = wallets or ledger.lock_many([lot.user_id for lot in wanted])
        done = set(db.session.scalars(_keys([lot.key for lot in wanted])))
        wanted = [lot for lot in wanted if lot.key not in done]
        lots = _lots_by_user([lot.user_id for lot in wanted])
        drafts: list[Draft] = []
        ended: list[LedgerAccount] = []
        for lot, account in zip(wanted, _new_accounts(wanted), strict=True):
            wallet, mine, at = wallets[lot.user_id], lots.get(lot.user_id, []), lot.starts_at
            dead = [old for old in mine if _is_dead(old, at)]
            drafts += _expired(wallet, mine, dead, "Not used in time", at)
            drafts.append(_issued(wallet, mine, account, lot.reason, at))
            ended += dead
        _store(drafts, ended)


def expire_lots(user_id: int, *, priority: int | None = None, reason: str, tells: bool = True) -> None:
    """End what is left of a member's lots: those past their date, or with `priority` all that burn at it.

    Whoever puts others in their place at once tells nobody that few are left (`tells`)."""
    with transaction():
        wallet = ledger.lock(user_id)
        lots = ledger.open_lots(user_id)
        moment = now()
        before = wallet.available + wallet.held
        dead = [lot for lot in lots if _is_dead(lot, moment) or lot.priority == priority]
        drafts = list(_expired(wallet, lots, dead, reason, moment))
        if drafts and tells:
            ledger.watch(drafts[-1], before)
        _store(drafts, dead)


def adjust(user_id: int, change: int, *, key: str, reason: str) -> LedgerOperation:
    """What an admin gives or takes: a lot of granted credits that does not expire, or so many of the live lots.

    Raises Invalid when more is to be taken than is available.
    """
    if change >= 0:
        return grant(user_id, change, key=key, priority=GRANTED, reason=reason, expires_at=None)
    given = {"change": change}
    with transaction():
        wallet = ledger.lock(user_id)
        operation, lots = ledger.look(user_id, key, given)
        if operation:
            return operation
        spendable = ledger.live(wallet, lots)
        available = ledger.total(spendable)
        if -change > available:
            raise Invalid.of(amount=f"Only {available:,} credits are available, so {-change:,} cannot be taken.")
        moves = ledger.draw(spendable, ledger.system("revoked"), -change)
        return ledger.book(wallet, Entry("revoke", key, given, reason, -change), moves, lots)


def claw_back(user_id: int, source: str, share: tuple[int, int], *, key: str, reason: str) -> int:
    """Make what was taken back of the lot with this source equal the part `share` (numerator, denominator) of it.

    Level-triggered: it looks at what was taken so far and moves the difference, from the lot first; what was spent already
    becomes a debt, which the next credits pay. Answers by how much; negative when credits came back (billing K1, K2).
    """
    with transaction():
        wallet = ledger.lock(user_id)
        lot = db.session.scalar(
            select(LedgerAccount).where(LedgerAccount.source == source, LedgerAccount.kind == "lot")
        )
        if lot is None:
            return 0
        number, taken = ledger.so_far(user_id, key, "clawback")
        change = (lot.granted or 0) * share[0] // share[1] - taken
        if change == 0:
            return 0
        name = f"{key}:{number + 1}"
        moves = list(_take(wallet, lot, change) if change > 0 else _restore(wallet, lot, -change, name))
        entry = Entry("clawback" if change > 0 else "restore", name, {"change": change}, reason, abs(change))
        ledger.book(wallet, entry, moves, ledger.open_lots(user_id))
        return change


def freeze(user_id: int, source: str, *, key: str, reason: str) -> None:
    """Keep the lot with this source from being spent."""
    _set_frozen(user_id, source, key, reason, True)


def unfreeze(user_id: int, source: str, *, key: str, reason: str) -> None:
    """Let the lot with this source be spent again."""
    _set_frozen(user_id, source, key, reason, False)


def gate_monthly(user_id: int, until: datetime | None) -> None:
    """Let monthly lots be spent until an instant only, or (None) without limit."""
    with transaction():
        wallet = ledger.lock(user_id)
        wallet.monthly_until = until
        wallet.available = ledger.total(ledger.live(wallet, ledger.open_lots(user_id)))
        db.session.flush()


def _issue(wallet: Wallet, lots: list[LedgerAccount], lot: LedgerAccount, reason: str) -> LedgerOperation:
    """Book the grant of a lot that has its row."""
    made = _issued(wallet, lots, lot, reason, None)
    return ledger.stored(made)


def _issued(wallet: Wallet, lots: list[LedgerAccount], lot: LedgerAccount, reason: str, at: datetime | None) -> Draft:
    """The grant of a lot that has its row; a debt is paid from it first, and the wallet is no longer low."""
    amount = lot.granted or 0
    moves = [Move(ledger.system("issued"), lot, amount)] if amount else []
    owed = min(amount, -wallet.debt)
    if owed:
        moves.append(Move(lot, ledger.debt_account(wallet.user_id), owed))
    lots.append(lot)
    given = _given(amount, lot.priority or 0, lot.expires_at)
    entry = Entry("grant", str(lot.source), given, reason, amount, at=at, details={"lot": lot.id})
    made = ledger.draft(wallet, entry, moves, lots)
    bulk.put(wallet, low_at=(wallet.available + wallet.held) // 5, low_since=None)
    return made


def _expired(
    wallet: Wallet, lots: list[LedgerAccount], dead: Sequence[LedgerAccount], reason: str, at: datetime
) -> Iterator[Draft]:
    """Close lots; an operation for each that still held something."""
    for lot in dead:
        left = lot.balance or 0
        bulk.put(lot, closed_at=at)
        lots.remove(lot)
        if left:
            entry = Entry("expire", f"expire:{lot.id}", {"lot": lot.id}, reason, left, at=at, details={"lot": lot.id})
            yield ledger.draft(wallet, entry, [Move(lot, ledger.system("expired"), left)], lots)


def _store(drafts: Sequence[Draft], ended: Sequence[LedgerAccount]) -> None:
    write(drafts)
    bulk.update_many(_lots, [{"id": lot.id, "closed_at": lot.closed_at} for lot in ended])


def _new_accounts(wanted: Sequence[Lot]) -> list[LedgerAccount]:
    """The rows of many new lots, outside of the session."""
    rows = [_lot_row(lot) for lot in wanted]
    return [
        LedgerAccount(id=number, **row) for number, row in zip(bulk.insert_with_ids(_lots, rows), rows, strict=True)
    ]


def _take(wallet: Wallet, lot: LedgerAccount, amount: int) -> Iterator[Move]:
    from_lot = min(amount, lot.balance or 0)
    if from_lot:
        yield Move(lot, ledger.system("revoked"), from_lot)
    if amount > from_lot:
        yield Move(ledger.debt_account(wallet.user_id), ledger.system("revoked"), amount - from_lot)


def _restore(wallet: Wallet, lot: LedgerAccount, amount: int, source: str) -> Iterator[Move]:
    """To the debt first, then to the lot as far as it was taken from, and what others have paid meanwhile as a new lot."""
    owed = min(amount, -wallet.debt)
    if owed:
        yield Move(ledger.system("revoked"), ledger.debt_account(wallet.user_id), owed)
    to_lot = min(amount - owed, _taken_from(lot))
    if to_lot:
        yield Move(ledger.system("revoked"), lot, to_lot)
    rest = amount - owed - to_lot
    if rest:
        restored = Lot(wallet.user_id, rest, source, "Restored", GRANTED, now(), None)
        yield Move(ledger.system("revoked"), add(LedgerAccount(**_lot_row(restored))), rest)


def _taken_from(lot: LedgerAccount) -> int:
    """What a lot lost to taking back and did not get again."""
    revoked = ledger.system("revoked").id
    sides = [
        select(func.coalesce(func.sum(LedgerTransfer.amount), 0)).where(
            LedgerTransfer.from_id == source, LedgerTransfer.to_id == target
        )
        for source, target in ((lot.id, revoked), (revoked, lot.id))
    ]
    taken, given = (int(db.session.scalar(side) or 0) for side in sides)
    return taken - given


def _set_frozen(user_id: int, source: str, key: str, reason: str, frozen: bool) -> None:
    """Booked also when it changes nothing: the same key, once more and late, must not find something to do."""
    given = {"frozen": frozen}
    with transaction():
        wallet = ledger.lock(user_id)
        operation, lots = ledger.look(user_id, key, given)
        lot = next((lot for lot in lots if lot.source == source), None)
        if operation or lot is None:
            return
        if (lot.frozen_at is not None) != frozen:
            lot.frozen_at = now() if frozen else None
        ledger.book(wallet, Entry("freeze" if frozen else "unfreeze", key, given, reason, 0), [], lots)


def _lot_row(lot: Lot) -> dict[str, Any]:
    return {
        "kind": "lot", "unit": "credit", "user_id": lot.user_id, "balance": 0, "granted": lot.amount,
        "priority": lot.priority, "source": lot.key, "effective_at": lot.starts_at, "expires_at": lot.expires_at,
        "created_at": now(),
    }  # fmt: skip


def _given(amount: int, priority: int, expires_at: datetime | None) -> dict[str, Any]:
    return {"amount": amount, "priority": priority, "expires_at": expires_at and expires_at.isoformat()}


def _is_dead(lot: LedgerAccount, at: datetime) -> bool:
    return lot.expires_at is not None and lot.expires_at <= at


def _keys(keys: Sequence[str]) -> Any:
    return select(LedgerOperation.key).where(bulk.among(LedgerOperation.key, keys))


def _lots_by_user(user_ids: Sequence[int]) -> dict[int, list[LedgerAccount]]:
    found: dict[int, list[LedgerAccount]] = {}
    for lot in db.session.scalars(ledger.OPEN_LOTS.where(bulk.among(LedgerAccount.user_id, user_ids))):
        assert lot.user_id is not None
        found.setdefault(lot.user_id, []).append(lot)
    return found
