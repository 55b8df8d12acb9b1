"""Lists in the identity API: filters and paging from the query, and the links around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from sqlalchemy import Boolean, Table

from kilonova.api.routing import ApiRequest
from kilonova.auth.listing import COMPARISONS, Filter
from kilonova.errors import BadRequest
from kilonova.store.paging import Page, SortKey

PAGING = ("limit", "marker", "sort_key", "sort_dir")
MOST = 1000


def filters_of(request: ApiRequest, table: Table, *names: str) -> list[Filter]:
    """The filters that the query asks for on these columns; parameters nobody knows are passed over."""
    found: list[Filter] = []
    for name in names:
        if isinstance(table.c[name].type, Boolean):
            truth = request.query_bool(name)
            if truth is not None:
                found.append(Filter(name, truth))
            continue
        value = request.query(name)
        if value is not None:
            found.append(Filter(name, value))
        for comparison in COMPARISONS:
            compared = request.query(f"{name}__{comparison}")
            if compared is not None:
                found.append(Filter(name, compared, comparison))
    return found


def page_of(request: ApiRequest, *sortable: str) -> Page:
    """The page that the query asks for, one item longer so that `collection` knows whether another one follows."""
    limit = request.query_int("limit", least=0, most=MOST)
    directions = request.query_all("sort_dir")
    keys: list[SortKey] = []
    for position, column in enumerate(request.query_all("sort_key")):
        if column not in sortable:
            raise BadRequest(f"sort_key: '{column}' is none of {', '.join(sortable)}")
        direction = directions[position] if position < len(directions) else "asc"
        if direction not in {"asc", "desc"}:
            raise BadRequest(f"sort_dir: '{direction}' is neither asc nor desc")
        keys.append(SortKey(column, direction == "desc"))
    return Page(None if limit in {None, 0} else limit + 1, request.query("marker") or None, tuple(keys))


def collection(request: ApiRequest, name: str, items: Sequence[dict[str, Any]], page: Page) -> dict[str, Any]:
    """The list with its links; `next` is there when another page follows."""
    following = None
    if page.limit is not None and len(items) == page.limit:
        items = items[:-1]
        query = [(key, value) for key, value in request.http.query_params.multi_items() if key != "marker"]
        following = f"{_here(request)}?{urlencode([*query, ('marker', items[-1]['id'])])}"
    query_string = request.http.url.query
    here = f"{_here(request)}?{query_string}" if query_string else _here(request)
    return {name: items, "links": {"self": here, "previous": None, "next": following}}


def link(request: ApiRequest, *path: str) -> dict[str, str]:
    """The `links` of one resource."""
    return {"self": "/".join((request.base_url, "identity/v3", *path))}


def _here(request: ApiRequest) -> str:
    return f"{request.base_url}{request.http.url.path}"
