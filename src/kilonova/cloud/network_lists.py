"""Lists of the network API's resources: filters, visibility, order and page, in a fixed number of queries.

A `Resource` describes one kind; its documents are plain dictionaries as clients read them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Connection, Integer, RowMapping, String, Table, and_, cast, not_, or_
from sqlalchemy import select as sql_select

from kilonova.context import Context
from kilonova.errors import BadRequest, Forbidden, NotFound
from kilonova.store import statements
from kilonova.store.paging import Page, SortKey, paged

Document = dict[str, Any]
Condition = Callable[[Sequence[str]], ColumnElement[bool]]

STANDARD_COLUMNS = {
    "id": "id",
    "name": "name",
    "description": "description",
    "project_id": "project_id",
    "tenant_id": "project_id",
    "revision_number": "revision",
    "created_at": "created_at",
    "updated_at": "updated_at",
}


@dataclass(frozen=True)
class Query:
    """What a client asks of a list. Values of one filter are alternatives, filters add up."""

    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    limit: int | None = None
    marker: str | None = None
    sort: tuple[tuple[str, bool], ...] = ()
    """(field, descending)"""
    reverse: bool = False
    """The page before the marker instead of the one after it."""


@dataclass(frozen=True)
class Resource:
    """One kind of resource: where its rows are and how clients see them."""

    noun: str
    table: Table
    columns: Mapping[str, str]
    """Field -> column, of the fields to filter and sort by."""
    documents: Callable[[Connection, Sequence[RowMapping], Context], list[Document]]
    not_found: type[NotFound]
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    """Filters that are not one column's."""
    also_visible: Callable[[Context], ColumnElement[bool]] | None = None
    """What a project sees besides its own."""


def visible(resource: Resource, context: Context) -> ColumnElement[bool] | None:
    """The rows a caller may see; none: all of them."""
    if context.is_admin:
        return None
    own = resource.table.c.project_id == context.project_id
    return own if resource.also_visible is None else or_(own, resource.also_visible(context))


def find(tx: Connection, resource: Resource, context: Context, query: Query) -> list[Document]:
    """The documents of a list. Raises `BadRequest` that names an unknown filter, sort key or marker."""
    statement = sql_select(resource.table)
    seen = visible(resource, context)
    if seen is not None:
        statement = statement.where(seen)
    for name, values in query.filters.items():
        statement = statement.where(_condition(resource, name, values))
    keys = query.sort or (("created_at", False),)
    sort = tuple(SortKey(_column(resource, name, "sort_key"), down != query.reverse) for name, down in keys)
    if all(key.column != "id" for key in sort):
        sort = (*sort, SortKey("id", query.reverse))
    rows = [row._mapping for row in paged(tx, statement, resource.table, Page(query.limit, query.marker, sort))]
    if query.reverse:
        rows.reverse()
    return resource.documents(tx, rows, context)


def get(tx: Connection, resource: Resource, context: Context, resource_id: str) -> RowMapping:
    """One row that the caller may see. Raises the resource's `NotFound`."""
    row = statements.rows(tx, resource.table, id=resource_id).mappings().one_or_none()
    seen = visible(resource, context)
    if row is not None and seen is not None and row["project_id"] != context.project_id:
        shown = sql_select(resource.table).where(resource.table.c.id == resource_id, seen)
        row = tx.execute(shown).mappings().one_or_none()
    if row is None:
        raise resource.not_found(f"{resource.noun} {resource_id} could not be found.")
    return row


def get_own(tx: Connection, resource: Resource, context: Context, resource_id: str) -> RowMapping:
    """One row that the caller may change. Raises `NotFound` for what it cannot see, else `Forbidden`."""
    row = get(tx, resource, context, resource_id)
    if not context.is_admin and row["project_id"] != context.project_id:
        raise Forbidden(f"{resource.noun} {resource_id} belongs to another project.")
    return row


def show(tx: Connection, resource: Resource, context: Context, resource_id: str) -> Document:
    """One document. Raises the resource's `NotFound`."""
    return resource.documents(tx, [get(tx, resource, context, resource_id)], context)[0]


def standard(row: RowMapping) -> Document:
    """The fields that every resource has."""
    return {
        "id": row["id"],
        "tenant_id": row["project_id"],
        "project_id": row["project_id"],
        "description": row["description"],
        "tags": row["tags"],
        "revision_number": row["revision"],
        "created_at": moment(row["created_at"]),
        "updated_at": moment(row["updated_at"]),
    }


def moment(value: datetime) -> str:
    """Whole seconds, as the API writes times."""
    return value.strftime("%Y-%m-%dT%H:%M:%SZ")


def owner_of(context: Context, wanted: str | None) -> str:
    """The project a new resource belongs to. Raises `Forbidden` for another's, `BadRequest` without any."""
    if wanted is not None and wanted != context.project_id and not context.is_admin:
        raise Forbidden(f"project_id: only an administrator makes resources of another project ({wanted}).")
    owner = wanted or context.project_id
    if not owner:
        raise BadRequest("project_id: the token has no project; name one, or use a token scoped to a project.")
    return owner


def _column(resource: Resource, name: str, role: str) -> str:
    if name not in resource.columns:
        raise BadRequest(f"{role}: '{name}' is not a field of {resource.noun.lower()}s that this works with.")
    return resource.columns[name]


def _condition(resource: Resource, name: str, values: Sequence[str]) -> ColumnElement[bool]:
    if name in resource.conditions:
        return resource.conditions[name](values)
    if name in _TAG_CONDITIONS and "tags" in resource.table.c:
        return _TAG_CONDITIONS[name](resource.table, [tag for value in values for tag in value.split(",")])
    column = resource.table.c[_column(resource, name, "filter")]
    if isinstance(column.type, Boolean):
        return column.in_([as_bool(name, value) for value in values])
    if isinstance(column.type, Integer):
        return column.in_([_as_int(name, value) for value in values])
    if not isinstance(column.type, String):
        raise BadRequest(f"filter: '{name}' is not a field to filter by.")
    matches: ColumnElement[bool] = column.in_(values)
    return or_(matches, column.is_(None)) if column.nullable and "" in values else matches


def as_bool(name: str, value: str) -> bool:
    """A flag in a query. Raises `BadRequest` naming it."""
    if value.lower() in {"true", "1", "yes", "on"}:
        return True
    if value.lower() in {"false", "0", "no", "off"}:
        return False
    raise BadRequest(f"{name}: '{value}' is not true or false.")


def _as_int(name: str, value: str) -> int:
    try:
        number = int(value)
    except ValueError:
        raise BadRequest(f"{name}: '{value}' is not an integer.") from None
    if number.bit_length() > 62:
        raise BadRequest(f"{name}: {value} is out of range.")
    return number


def _tagged(table: Table, tag: str) -> ColumnElement[bool]:
    """Tags are a JSON list of strings: one is there when its JSON text is."""
    text = json.dumps(tag)
    return cast(table.c.tags, String).contains(text, autoescape=True)


_TAG_CONDITIONS: dict[str, Callable[[Table, Sequence[str]], ColumnElement[bool]]] = {
    "tags": lambda table, tags: and_(*(_tagged(table, tag) for tag in tags)),
    "tags-any": lambda table, tags: or_(*(_tagged(table, tag) for tag in tags)),
    "not-tags": lambda table, tags: not_(and_(*(_tagged(table, tag) for tag in tags))),
    "not-tags-any": lambda table, tags: not_(or_(*(_tagged(table, tag) for tag in tags))),
}
