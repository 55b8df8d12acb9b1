"""What a client asks of a list, and the links to the pages before and after it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from kilonova.api.routing import ApiRequest
from kilonova.cloud.network_lists import Query
from kilonova.errors import BadRequest

PARAMETERS = ("fields", "sort_key", "sort_dir", "limit", "marker", "page_reverse")


def query_of(request: ApiRequest) -> Query:
    """The list that a request asks for. Raises `BadRequest` naming the parameter."""
    filters: dict[str, list[str]] = defaultdict(list)
    for name, value in request.http.query_params.multi_items():
        if name not in PARAMETERS:
            filters[name].append(value)
    keys, directions = _words(request, "sort_key"), _words(request, "sort_dir")
    if len(directions) > len(keys):
        raise BadRequest("sort_dir: there are more directions than sort keys.")
    for direction in directions:
        if direction not in {"asc", "desc"}:
            raise BadRequest(f"sort_dir: '{direction}' is not asc or desc.")
    directions += ["asc"] * (len(keys) - len(directions))
    limit = request.query_int("limit")
    return Query(
        filters=filters,
        limit=limit or None,
        marker=request.query("marker") or None,
        sort=tuple((key, direction == "desc") for key, direction in zip(keys, directions, strict=True)),
        reverse=bool(request.query_bool("page_reverse")),
    )


def _words(request: ApiRequest, name: str) -> list[str]:
    return [word for value in request.query_all(name) for word in value.split(",") if word]


def page(request: ApiRequest, plural: str, found: Sequence[Mapping[str, Any]], query: Query) -> dict[str, Any]:
    """The body of a list: the documents, reduced to the fields asked for, and links when it is a page."""
    key = plural.replace("-", "_")
    body: dict[str, Any] = {key: [reduced(request, document) for document in found]}
    if query.limit is None:
        return body
    links = []
    is_full = len(found) >= query.limit
    if found and (is_full or query.reverse):
        links.append({"rel": "next", "href": _link(request, found[-1]["id"], reverse=False)})
    if found and query.marker is not None and (is_full or not query.reverse):
        links.append({"rel": "previous", "href": _link(request, found[0]["id"], reverse=True)})
    if links:
        body[f"{key}_links"] = links
    return body


def _link(request: ApiRequest, marker: str, *, reverse: bool) -> str:
    parameters = [
        (name, value)
        for name, value in request.http.query_params.multi_items()
        if name not in {"marker", "page_reverse"}
    ]
    parameters.append(("marker", marker))
    if reverse:
        parameters.append(("page_reverse", "True"))
    return f"{request.base_url}{request.http.url.path}?{urlencode(parameters)}"


def reduced(request: ApiRequest, document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Only the fields that the request names; all of them when it names none."""
    names = request.query_all("fields")
    if not names:
        return document
    wanted = {name for value in names for name in value.split(",")}
    return {name: value for name, value in document.items() if name in wanted}
