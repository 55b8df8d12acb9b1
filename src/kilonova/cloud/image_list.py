"""Lists of images: filters, sorting and paging as the image API has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, and_, cast, exists, false, or_, select

from kilonova.cloud.images import VISIBILITIES, Image, of_row
from kilonova.context import Context
from kilonova.errors import BadRequest
from kilonova.store.paging import Page, SortKey, paged
from kilonova.store.schema import image_members, images

MEMBER_STATUSES = ("accepted", "pending", "rejected", "all")

SORT_COLUMNS = {
    "name": "name",
    "status": "status",
    "container_format": "container_format",
    "disk_format": "disk_format",
    "size": "size_bytes",
    "id": "id",
    "created_at": "created_at",
    "updated_at": "updated_at",
}

_EQUAL = {
    "owner": images.c.project_id,
    "checksum": images.c.checksum,
    "os_hash_algo": images.c.hash_algorithm,
    "os_hash_value": images.c.hash_value,
}
_ONE_OF = {
    "id": images.c.id,
    "name": images.c.name,
    "status": images.c.status,
    "disk_format": images.c.disk_format,
    "container_format": images.c.container_format,
}
_NUMBERS = {"min_disk": images.c.min_disk_gb, "min_ram": images.c.min_ram_mb, "size": images.c.size_bytes}
_TIMES = {"created_at": images.c.created_at, "updated_at": images.c.updated_at}


@dataclass(frozen=True)
class Filters:
    """What the query parameters say; `by_name` holds attributes and arbitrary properties."""

    by_name: Mapping[str, str] = field(default_factory=dict)
    tags: Sequence[str] = ()
    visibility: str | None = None
    member_status: str = "accepted"
    hidden: bool = False


def list_(tx: Connection, context: Context, filters: Filters, page: Page) -> list[Image]:
    """The images that the caller sees in a list. Raises `BadRequest` naming a filter that cannot be."""
    query = select(images).where(_listed(context, filters), images.c.hidden == filters.hidden)
    for tag in filters.tags:
        query = query.where(_has_tag(tag))
    for name, value in filters.by_name.items():
        query = query.where(_condition(name, value))
    default = (SortKey("created_at", descending=True),)
    return [of_row(row) for row in paged(tx, query, images, page, default=default)]


def _listed(context: Context, filters: Filters) -> ColumnElement[bool]:
    """Who sees what in a list: community images of others only when asked for, shared ones by their member's status."""
    visibility, status = filters.visibility, filters.member_status
    if visibility is not None and visibility not in {*VISIBILITIES, "all"}:
        raise BadRequest(f"visibility: '{visibility}' is none of {', '.join(VISIBILITIES)}, all")
    if status not in MEMBER_STATUSES:
        raise BadRequest(f"member_status: '{status}' is none of {', '.join(MEMBER_STATUSES)}")
    own = images.c.project_id == (context.project_id or "")
    member = and_(image_members.c.image_id == images.c.id, image_members.c.project_id == (context.project_id or ""))
    if status != "all":
        member = and_(member, image_members.c.status == status)
    shared_with_me = and_(images.c.visibility == "shared", exists().where(member))
    community = images.c.visibility == "community"
    if context.is_admin:
        seen: ColumnElement[bool] = images.c.id.is_not(None)
    else:
        seen = or_(own, images.c.visibility == "public", shared_with_me, community)
    if visibility is None:
        return and_(seen, or_(own, ~community))
    if visibility == "all":
        return seen
    return and_(seen, images.c.visibility == visibility)


def _condition(name: str, value: str) -> ColumnElement[bool]:
    if name in _ONE_OF:
        column = _ONE_OF[name]
        return column.in_(_words(value.removeprefix("in:"))) if value.startswith("in:") else column == value
    if name in _EQUAL:
        return _EQUAL[name] == value
    if name in _TIMES:
        return _compared(_TIMES[name], name, value)
    if name in _NUMBERS:
        return _NUMBERS[name] == _number(name, value)
    if name in {"size_min", "size_max"}:
        size, bound = images.c.size_bytes, _number(name, value)
        return size >= bound if name == "size_min" else size <= bound
    if name == "protected":
        if value.lower() not in {"true", "false"}:
            raise BadRequest(f"protected: '{value}' is not true or false")
        return images.c.protected == (value.lower() == "true")
    if '"' in name or "\\" in name:
        return false()  # no path into a JSON document can name it
    matches: ColumnElement[bool] = images.c.properties[name].as_string() == value
    return matches


def _has_tag(tag: str) -> ColumnElement[bool]:
    """The tags are a JSON list; within a string a quote follows a backslash, so these needles are exact."""
    encoded, text = json.dumps(tag), cast(images.c.tags, Text)
    return or_(text.contains(f"[{encoded}", autoescape=True), text.contains(f", {encoded}", autoescape=True))


def _words(value: str) -> list[str]:
    """The values of an `in:` filter: separated by commas; one in double quotes may hold commas."""
    words, word, quoted = [], "", False
    for character in value:
        if character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            words.append(word)
            word = ""
        else:
            word += character
    if quoted:
        raise BadRequest(f"the filter in:{value[:80]} has an open quote")
    return [*words, word]


def _number(name: str, value: str) -> int:
    if not value.isdecimal() or len(value) > 18:
        raise BadRequest(f"{name}: '{value[:40]}' is not a number")
    return int(value)


def _compared(column: Any, name: str, value: str) -> ColumnElement[bool]:
    operator, _, moment = value.partition(":")
    if operator not in {"gt", "gte", "lt", "lte", "eq", "neq"}:
        operator, moment = "eq", value
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        raise BadRequest(f"{name}: '{moment[:40]}' is not a time (ISO 8601)") from None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    match operator:
        case "gt":
            found = column > at
        case "gte":
            found = column >= at
        case "lt":
            found = column < at
        case "lte":
            found = column <= at
        case "neq":
            found = column != at
        case _:
            found = column == at
    condition: ColumnElement[bool] = found
    return condition
