"""The failure matrix in virtual time, each row from its seeds; the same seed gives the same history.

`FAULT_SEEDS=20` plays so many seeds of each row (1 without), `FAULT_ROW=11 FAULT_SEED=17` plays one. Row 12 is not among
those that are promised; it shows what happens to a machine that is away for longer than a day.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.faults.simulation import rows_machine, rows_network, rows_orders, rows_server
from tests.faults.simulation.checks import check
from tests.faults.simulation.kept import KEPT
from tests.faults.simulation.stage import Scenario, Stage, play
from tests.faults.simulation.world import World

SEEDS = int(os.environ.get("FAULT_SEEDS", "1"))
POSTGRES_SEEDS = max(1, SEEDS // 10)
ONE_ROW, ONE_SEED = os.environ.get("FAULT_ROW"), os.environ.get("FAULT_SEED")
ROWS: dict[int, Scenario] = {
    int(name.removeprefix("row_")): scenario
    for module in (rows_server, rows_machine, rows_network, rows_orders)
    for name, scenario in sorted(vars(module).items())
    if name.startswith("row_")
}
BOTH_DATABASES = (3, 4, 10, 21, 23)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: what is tested is what is written, not how fast."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as path:
        yield Path(path)


@pytest.fixture(scope="session")
def on_sqlite(folder: Path, redis_url: str) -> Stage:
    return Stage.at(f"sqlite:///{folder}/yard.db", redis_url, folder)


@pytest.fixture(scope="session")
def on_postgres(folder: Path, redis_url: str, postgres_url: str) -> Iterator[Stage]:
    name = f"{postgres_url.rsplit('/', 1)[1]}_simulation"
    url = f"{postgres_url.rsplit('/', 1)[0]}/{name}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}")
        connection.execute(f"CREATE DATABASE {name}")
    yield Stage.at(url, redis_url, folder / "postgres")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def repeated(stage: Stage, row: int, seed: int) -> World:
    """Play one seed of a row; a failure says how to see it again."""
    try:
        return play(stage, stage.folder / "world", f"{row}:{seed}", ROWS[row], check)
    except BaseException as error:
        error.add_note(f"FAULT_ROW={row} FAULT_SEED={seed} pytest tests/faults/test_simulation.py")
        raise


@pytest.mark.timeout(120 + 30 * SEEDS)
@pytest.mark.parametrize("row", [row for row in sorted(ROWS) if ONE_ROW in (None, str(row))])
def test_row(on_sqlite: Stage, row: int) -> None:
    kept = {seed for known, seed in KEPT if known == row}
    for seed in [int(ONE_SEED)] if ONE_SEED else sorted({*range(SEEDS)} | kept):
        world = repeated(on_sqlite, row, seed)
        print(f"row {row} seed {seed}: {world.time:.0f} s, {len(world.history)} events, {world.fingerprint}")


@pytest.mark.postgres
@pytest.mark.timeout(120 + 30 * POSTGRES_SEEDS)
@pytest.mark.parametrize("row", [row for row in BOTH_DATABASES if ONE_ROW in (None, str(row))])
def test_row_on_postgres(on_postgres: Stage, row: int) -> None:
    for seed in [int(ONE_SEED)] if ONE_SEED else range(POSTGRES_SEEDS):
        repeated(on_postgres, row, seed)


def test_the_same_seed_gives_the_same_history(on_sqlite: Stage) -> None:
    first, second = (repeated(on_sqlite, 23, 7) for _ in range(2))
    assert first.history == second.history
    assert repeated(on_sqlite, 23, 8).fingerprint != first.fingerprint
