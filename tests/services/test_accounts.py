"""How passwords are kept. The other tests hash with next to no work (tests/conftest.py); here is what members get."""

from __future__ import annotations

import pytest
from argon2 import Type, extract_parameters
from flask import Flask

from services import accounts
from tests.conftest import PASSWORD, PRODUCTION_HASHER, PRODUCTION_NOBODY, member


def test_a_password_is_kept_with_the_work_that_rfc_9106_asks_for() -> None:
    """Section 4, the second recommended option: argon2id, t=3, p=4, 64 MiB, 128 bits of salt, 256 bits of hash."""
    used = extract_parameters(PRODUCTION_HASHER.hash(PASSWORD))
    assert used.type is Type.ID
    assert (used.time_cost, used.parallelism, used.memory_cost) == (3, 4, 64 * 1024)
    assert (used.salt_len, used.hash_len) == (16, 32)


def test_an_unknown_person_costs_the_same_work() -> None:
    assert extract_parameters(PRODUCTION_NOBODY) == extract_parameters(PRODUCTION_HASHER.hash(PASSWORD))


def test_a_password_kept_with_less_work_is_kept_anew_when_its_owner_logs_in(
    sqlite_app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = member("alice").password_hash
    monkeypatch.setattr(accounts, "hasher", PRODUCTION_HASHER)
    accounts.log_in("alice@example.com", PASSWORD)
    after = member("alice").password_hash
    assert before != after and extract_parameters(after).memory_cost == 64 * 1024
    accounts.log_in("alice@example.com", PASSWORD)
    assert member("alice").password_hash == after
