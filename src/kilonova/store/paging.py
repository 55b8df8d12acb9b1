"""Keyset paging: the next page begins after a marker row, whatever was inserted or deleted before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Connection,
    DateTime,
    Integer,
    Row,
    Select,
    Table,
    and_,
    func,
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
        if sort.column not in table.c:
            raise BadRequest(f"sort_key: '{sort.column}' is not a field to sort by")
    if all(sort.column != key for sort in keys):
        keys.append(SortKey(key, keys[-1].descending if keys else False))
    expressions = [(_comparable(table.c[sort.column]), sort.descending) for sort in keys]
    if page.marker is not None:
        marker = tx.execute(select(*(e for e, _ in expressions)).where(table.c[key] == page.marker)).one_or_none()
        if marker is None:
            raise BadRequest(f"marker: '{page.marker}' is not in this list")
        query = query.where(_after(expressions, marker))
    query = query.order_by(None).order_by(*(e.desc() if down else e.asc() for e, down in expressions))
    if page.limit is not None:
        query = query.limit(page.limit)
    return tx.execute(query).all()


def _comparable(column: Column[Any]) -> ColumnElement[Any]:
    """NULLs sort first and compare equal to the least value."""
    if not column.nullable:
        return column
    if isinstance(column.type, Integer | Boolean):
        return func.coalesce(column, -1)
    if isinstance(column.type, DateTime) or "UTCDateTime" in type(column.type).__name__:
        return column
    return func.coalesce(column, "")


def _after(expressions: list[tuple[ColumnElement[Any], bool]], marker: Row[Any]) -> ColumnElement[bool]:
    """(a, b, c) > marker, lexicographically, with the direction of each key."""
    alternatives: list[ColumnElement[bool]] = []
    for position, (expression, descending) in enumerate(expressions):
        equal = [e == marker[i] for i, (e, _) in enumerate(expressions[:position])]
        beyond = expression < marker[position] if descending else expression > marker[position]
        alternatives.append(and_(*equal, beyond))
    return or_(*alternatives)
