"""A yard of real processes for what only a real server can be sent. No worker: nothing here trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.running import Member, RunningYard


@dataclass
class Door:
    """A yard, a member in it, and a key that connects machines."""

    yard: RunningYard
    alice: Member
    key: str

    @property
    def port(self) -> int:
        return self.yard.port


@pytest.fixture(scope="session")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """Started once for everything in this folder: whatever is sent to it, it has to stay."""
    with RunningYard(tmp_path_factory.mktemp("bad-input"), WORKERS="0") as yard:
        alice = Member.signed_up(yard.url, "alice", "enterprise")
        yield Door(yard, alice, alice.new_key("stranger")["key"])
