"""The plainest statements: rows by equal columns, one more row, a changed row, a removed row.

Each shape (table, columns) is built once and run with bound values: to build a statement takes SQLAlchemy three to
five times as long as to run it, and a request needs dozens. What is more than equality of columns is written out with
SQLAlchemy where it is needed; a statement there is worth keeping too when every request runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    CursorResult,
    Delete,
    Insert,
    Select,
    Table,
    Update,
    bindparam,
    delete,
    insert,
    select,
    update,
)


def rows(tx: Connection, table: Table, **equal: object) -> CursorResult[Any]:
    """The rows whose columns have these values, in no order. None is equal to nothing, as in SQL."""
    return tx.execute(_select(table, tuple(equal)), _bound(equal))


def add(tx: Connection, table: Table, **values: object) -> None:
    """One more row; columns left out get their defaults."""
    tx.execute(_insert(table), values)


def change(tx: Connection, table: Table, equal: Mapping[str, object], **values: object) -> int:
    """Set `values` in the rows whose columns are `equal`; how many rows."""
    return tx.execute(_update(table, tuple(equal)), {**_bound(equal), **values}).rowcount


def remove(tx: Connection, table: Table, **equal: object) -> int:
    """Delete the rows whose columns have these values; how many."""
    return tx.execute(_delete(table, tuple(equal)), _bound(equal)).rowcount


def _bound(equal: Mapping[str, object]) -> dict[str, object]:
    # A name of its own: that of the column is the value to set in an UPDATE.
    return {f"equal_{name}": value for name, value in equal.items()}


def _conditions(table: Table, names: tuple[str, ...]) -> list[ColumnElement[bool]]:
    return [table.c[name] == bindparam(f"equal_{name}") for name in names]


@cache
def _select(table: Table, names: tuple[str, ...]) -> Select[Any]:
    return select(table).where(*_conditions(table, names))


@cache
def _insert(table: Table) -> Insert:
    return insert(table)


@cache
def _update(table: Table, names: tuple[str, ...]) -> Update:
    return update(table).where(*_conditions(table, names))


@cache
def _delete(table: Table, names: tuple[str, ...]) -> Delete:
    return delete(table).where(*_conditions(table, names))
