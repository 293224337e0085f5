"""Many rows in few statements: PostgreSQL gets them as one JSON parameter, which it takes apart; SQLite one by one.

A round trip, and a statement of its own for each row, cost more than the rows. The session does not follow such rows, and
defaults of columns are not applied: a row names every column that must not be empty.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any

from sqlalchemy import ARRAY, JSON, Integer, Table, Text, bindparam, cast, column, func, insert, select, update

from models.base import db

Rows = Sequence[Mapping[str, Any]]


def insert_many(table: Table, rows: Rows) -> None:
    """Insert rows that all name the same columns."""
    if rows and on_postgres():
        db.session.execute(_insert_select(table, tuple(rows[0])), {"rows": as_json(_placed(rows))})
    elif rows:
        db.session.execute(insert(table), list(rows))


def insert_with_ids(table: Table, rows: Rows) -> list[int]:
    """As `insert_many`; answers the new ids, which rise in the order of the rows."""
    if not rows:
        return []
    if on_postgres():
        made = _insert_select(table, tuple(rows[0])).returning(table.c.id)
        return sorted(db.session.execute(made, {"rows": as_json(_placed(rows))}).scalars())
    made = insert(table).returning(table.c.id, sort_by_parameter_order=True)
    return list(db.session.execute(made, list(rows)).scalars())


def update_many(table: Table, rows: Rows) -> None:
    """Give the rows with these values of the first column named the values of the others."""
    if rows and on_postgres():
        db.session.connection().execute(_update_from(table, tuple(rows[0])), {"rows": as_json(rows)})
    elif rows:
        named = [{f"new_{name}": value for name, value in row.items()} for row in rows]
        db.session.connection().execute(_update_one(table, tuple(rows[0])), named)


def put(row: Any, **values: Any) -> None:
    """Set what a statement of this module stores, where the session keeps what it has loaded: it sees no change."""
    vars(row).update(values)


def among(column: Any, values: Collection[Any]) -> Any:
    """Whether a column is one of many values: one array for PostgreSQL, where IN would be a parameter for each."""
    return column == func.any(cast(list(values), ARRAY(column.type))) if on_postgres() else column.in_(values)


def on_postgres() -> bool:
    """Whether the database takes rows as JSON."""
    return bool(db.engine.dialect.name == "postgresql")


def given(name: str, **columns: Any) -> Any:
    """PostgreSQL: the rows in the JSON parameter `name`, as a table with columns of these types."""
    wanted = [column(each, kind) for each, kind in columns.items()]
    rows = func.json_to_recordset(cast(bindparam(name, type_=Text), JSON)).table_valued(*wanted)
    return rows.render_derived(name=f"given_{name}", with_types=True)


def types(table: Table, *names: str) -> dict[str, Any]:
    """The types of these columns."""
    return {name: table.c[name].type for name in names}


def as_json(rows: Rows) -> str:
    """Rows as the parameter of `given`."""
    return json.dumps(rows, default=_as_text)


def _as_text(value: date) -> str:
    return value.isoformat()


def _placed(rows: Rows) -> Rows:
    return [{**row, "place": place} for place, row in enumerate(rows)]


@lru_cache
def _insert_select(table: Table, names: tuple[str, ...]) -> Any:
    rows = given("rows", **types(table, *names), place=Integer())
    source = select(*[rows.c[name] for name in names]).order_by(rows.c.place)
    return insert(table).from_select(list(names), source, include_defaults=False)


@lru_cache
def _update_from(table: Table, names: tuple[str, ...]) -> Any:
    rows = given("rows", **types(table, *names))
    known = update(table).where(table.c[names[0]] == rows.c[names[0]])
    return known.values({name: rows.c[name] for name in names[1:]})


@lru_cache
def _update_one(table: Table, names: tuple[str, ...]) -> Any:
    known = update(table).where(table.c[names[0]] == bindparam(f"new_{names[0]}"))
    return known.values({name: bindparam(f"new_{name}") for name in names[1:]})
