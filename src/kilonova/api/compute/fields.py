"""Types and small checks that the bodies and queries of the Compute API share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from msgspec import UNSET, Meta, Struct

from kilonova.api.compute.microversions import Version, text
from kilonova.api.routing import ApiRequest
from kilonova.errors import BadRequest
from kilonova.store.paging import Page, SortKey

MOST_PER_PAGE = 1000

Name = Annotated[str, Meta(min_length=1, max_length=255)]
Text255 = Annotated[str, Meta(max_length=255)]
Description = Annotated[str, Meta(max_length=65535)]
MetadataValue = Annotated[str, Meta(max_length=255)]
MetadataKey = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9-_:. ]{1,255}$")]
Metadata = dict[MetadataKey, MetadataValue]
Tag = Annotated[str, Meta(min_length=1, max_length=60, pattern=r"^[^,/]*$")]
Count = int | Annotated[str, Meta(pattern=r"^[0-9]{1,9}$")]
Flag = bool | int | str

_TRUE = frozenset({"true", "1", "on", "yes"})
_FALSE = frozenset({"false", "0", "off", "no"})


def check_name(field: str, value: str) -> str:
    """A name as nova takes it: printable, no space at its ends. Raises `BadRequest`."""
    if value != value.strip() or not value.isprintable():
        raise BadRequest(
            f"Invalid input for field/attribute {field}. Value: {value!r}: it must be printable and must not begin or "
            "end with a space."
        )
    return value


def check_uuid(field: str, value: str) -> str:
    try:
        return str(UUID(value))
    except ValueError:
        raise BadRequest(
            f"Invalid input for field/attribute {field}. Value: {value}. '{value}' is not a 'uuid'"
        ) from None


def flag(field: str, value: Flag) -> bool:
    """True or false in any of nova's spellings."""
    word = str(value).lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise BadRequest(f"Invalid input for field/attribute {field}. Value: {value}. It is not a boolean.")


def count(field: str, value: Count, *, least: int = 1, most: int = 2**31 - 1) -> int:
    number = int(value)
    if not least <= number <= most or isinstance(value, bool):
        raise BadRequest(f"Invalid input for field/attribute {field}. Value: {value}. It must be {least} to {most}.")
    return number


def only_from(request: ApiRequest, body: Struct, since: dict[str, Version]) -> None:
    """Fields that came with later versions are unknown to earlier ones. Raises `BadRequest` naming the field."""
    for field, version in since.items():
        if getattr(body, field) is not UNSET and request.microversion < version:
            raise BadRequest(
                f"Additional properties are not allowed ('{field}' was unexpected: it needs version {text(version)})"
            )


def only_until(request: ApiRequest, body: Struct, until: dict[str, Version]) -> None:
    """Fields that were removed after a version. Raises `BadRequest` naming the field."""
    for field, version in until.items():
        if getattr(body, field) is not UNSET and request.microversion > version:
            raise BadRequest(
                f"Additional properties are not allowed ('{field}' was unexpected: it ended with API version "
                f"{text(version)})"
            )


def only_known(request: ApiRequest, known: Sequence[str]) -> None:
    """From 2.75 unknown query parameters are refused. Raises `BadRequest` naming them."""
    unknown = sorted(set(request.http.query_params) - set(known))
    if unknown and request.microversion >= (2, 75):
        raise BadRequest(f"Additional properties are not allowed ({', '.join(unknown)} unexpected)")


def moment(field: str, value: str | None) -> datetime | None:
    """A query's time, ISO 8601; without an offset it is UTC. Raises `BadRequest`."""
    if value is None:
        return None
    try:
        parsed = datetime.fromisoformat(re.sub(r" (\d\d:\d\d)$", r"+\1", value))
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadRequest(
            f"Invalid input for query parameters {field}. Value: {value}. It is not a date-time."
        ) from None


def page(request: ApiRequest, allowed_sort: Sequence[str] = (), *, default_direction: str = "desc") -> Page:
    """`limit`, `marker`, `sort_key` and `sort_dir` of a list."""
    limit = request.query_int("limit", most=MOST_PER_PAGE)
    keys, directions = request.query_all("sort_key"), request.query_all("sort_dir")
    for key in keys:
        if allowed_sort and key not in allowed_sort:
            raise BadRequest(f"Invalid input for query parameters sort_key. Value: {key}. It is not a key to sort by.")
    for direction in directions:
        if direction not in ("asc", "desc"):
            raise BadRequest(f"Invalid input for query parameters sort_dir. Value: {direction}. Use asc or desc.")
    if len(directions) > len(keys) and keys:
        raise BadRequest("Sort direction size exceeds sort key size.")
    last = directions[-1] if directions else default_direction
    sort = tuple(SortKey(key, (directions[i] if i < len(directions) else last) == "desc") for i, key in enumerate(keys))
    return Page(limit=MOST_PER_PAGE if limit is None else limit, marker=request.query("marker"), sort=sort)


def next_link(request: ApiRequest, wanted: Page, ids: Sequence[str]) -> list[dict[str, str]]:
    """The link to the page after this one, if this one is full."""
    if not ids or wanted.limit is None or len(ids) < wanted.limit:
        return []
    url = request.http.url.include_query_params(marker=ids[-1])
    return [{"rel": "next", "href": f"{request.base_url}{url.path}?{url.query}"}]


def iso(value: datetime | None) -> str | None:
    """2026-11-23T19:00:00Z"""
    return None if value is None else f"{value.isoformat()[:19]}Z"


def iso_micro(value: datetime | None) -> str | None:
    """2026-11-23T19:00:00.000000, as nova writes what it does not convert."""
    return None if value is None else value.isoformat(timespec="microseconds")[:26]


def links(request: ApiRequest, collection: str, resource_id: str) -> list[dict[str, str]]:
    base = request.base_url
    return [
        {"rel": "self", "href": f"{base}/compute/v2.1/{collection}/{resource_id}"},
        {"rel": "bookmark", "href": f"{base}/compute/{collection}/{resource_id}"},
    ]


Document = dict[str, Any]
