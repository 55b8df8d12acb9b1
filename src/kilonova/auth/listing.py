"""Filtered pages of the identity tables, with the identity API's comparisons (`name__startswith=web`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, String, Table

from kilonova.store.paging import Page, SortKey, paged

COMPARISONS = ("contains", "icontains", "startswith", "istartswith", "endswith", "iendswith")


@dataclass(frozen=True)
class Filter:
    """Keeps the rows whose column equals the value, or compares to it as one of `COMPARISONS` says."""

    column: str
    value: str | bool
    comparison: str = ""


def page_of(
    tx: Connection, query: Select[Any], table: Table, filters: Sequence[Filter], page: Page
) -> Sequence[Row[Any]]:
    """The rows of `query` over `table` that pass every filter, by name unless the page says otherwise."""
    for each in filters:
        query = query.where(_condition(table, each))
    return paged(tx, query, table, page, default=(SortKey("name"),))


def _condition(table: Table, wanted: Filter) -> ColumnElement[bool]:
    column: ColumnElement[Any] = table.c[wanted.column]
    if not wanted.comparison:
        return column == wanted.value
    if not isinstance(table.c[wanted.column].type, String):
        raise ValueError(f"{table.name}.{wanted.column} cannot be compared by {wanted.comparison}")
    return getattr(column, wanted.comparison)(wanted.value, autoescape=True)  # type: ignore[no-any-return]
