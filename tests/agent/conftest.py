"""What the agent's tests share: a server on loopback for each test that asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.agent.fake_server import FakeServer


@pytest.fixture
def site() -> Iterator[FakeServer]:
    with FakeServer() as one:
        yield one
