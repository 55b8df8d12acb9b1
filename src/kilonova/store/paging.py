"""Keyset paging: the next page begins after a marker row, whatever was inserted or deleted before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    Connection,
    LargeBinary,
    Row,
    Select,
    Table,
    and_,
    false,
    literal,
    or_,
    select,
)

from kilonova.errors import BadRequest


@dataclass(frozen=True)
class SortKey:
    column: str
    descending: bool = False


@dataclass(frozen=True)
class Page:
    """Which part of a list, in which order; the primary key `id` is always the last sort key."""

    limit: int | None = None
    marker: str | None = None
    sort: tuple[SortKey, ...] = ()


def paged(
    tx: Connection, query: Select[Any], table: Table, page: Page, *, key: str = "id", default: Sequence[SortKey] = ()
) -> Sequence[Row[Any]]:
    """The rows of `query` (over `table`) on this page.

    Raises `BadRequest` naming an unknown sort key or a marker that is not there.
    """
    keys = list(page.sort or default)
    for sort in keys:
        if sort.column not in table.c or isinstance(table.c[sort.column].type, JSON | LargeBinary):
            raise BadRequest(f"sort_key: '{sort.column}' is not a field to sort by")
    if all(sort.column != key for sort in keys):
        keys.append(SortKey(key, keys[-1].descending if keys else False))
    columns = [(table.c[sort.column], sort.descending) for sort in keys]
    if page.marker is not None:
        query = query.where(_after(columns, _marker(tx, query, table, key, page.marker, [c for c, _ in columns])))
    # NULLs come first, on every database.
    query = query.order_by(None).order_by(
        *(c.desc().nulls_last() if down else c.asc().nulls_first() for c, down in columns)
    )
    if page.limit is not None:
        query = query.limit(page.limit)
    return tx.execute(query).all()


def _marker(
    tx: Connection, query: Select[Any], table: Table, key: str, marker: str, columns: list[Column[Any]]
) -> tuple[Any, ...]:
    """The sort values of the marker's row: of the list, or, when a filter hides it meanwhile, of the table."""
    here = query.add_columns(*columns).where(table.c[key] == marker).order_by(None)
    found = tx.execute(here.limit(1)).one_or_none()
    row = None if found is None else tuple(found)[-len(columns) :]
    if row is None and table.primary_key.columns.keys() == [key]:
        known = tx.execute(select(*columns).where(table.c[key] == marker)).one_or_none()
        row = None if known is None else tuple(known)
    if row is None:
        raise BadRequest(f"marker: '{marker}' is not in this list")
    return row


def _after(columns: list[tuple[Column[Any], bool]], marker: Sequence[Any]) -> ColumnElement[bool]:
    """(a, b, c) > marker, lexicographically, with the direction of each key."""
    alternatives: list[ColumnElement[bool]] = []
    for position, (column, descending) in enumerate(columns):
        equal = [c == marker[i] for i, (c, _) in enumerate(columns[:position])]
        alternatives.append(and_(*equal, _beyond(column, descending, marker[position])))
    return or_(*alternatives)


def _beyond(column: Column[Any], descending: bool, value: Any) -> ColumnElement[bool]:
    """What comes after `value` in this column's order; NULL is less than everything."""
    if value is None:
        return false() if descending else column.is_not(None)
    bound = literal(value, column.type)  # a bare True or False would not be taken for a value to compare with
    return or_(column < bound, column.is_(None)) if descending else column > bound
