"""Servers: list, create, show, update, delete. Source: Compute API, "Servers"."""

from __future__ import annotations

import re
import secrets
from typing import Any
from uuid import UUID

import msgspec
from starlette.responses import Response

from kilonova.api.compute import server_views
from kilonova.api.compute.fields import (
    Document,
    check_uuid,
    links,
    moment,
    next_link,
    only_known,
    page,
)
from kilonova.api.compute.registry import V21, registry
from kilonova.api.compute.server_bodies import CreateServer, UpdateServer, changes, new_server
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud import servers
from kilonova.cloud.server_lists import SORT_COLUMNS, ServerFilter, list_rows, list_servers, show_server
from kilonova.cloud.server_status import KNOWN
from kilonova.cloud.servers import Pending
from kilonova.errors import BadRequest, Forbidden

_PAGING = ("limit", "marker", "sort_key", "sort_dir")
_FILTERS = (
    "name",
    "status",
    "image",
    "flavor",
    "host",
    "ip",
    "ip6",
    "project_id",
    "tenant_id",
    "user_id",
    "all_tenants",
    "changes-since",
    "changes-before",
    "tags",
    "tags-any",
    "not-tags",
    "not-tags-any",
    "deleted",
    "locked",
    "uuid",
    "reservation_id",
    "availability_zone",
    "config_drive",
    "key_name",
    "vm_state",
    "task_state",
    "power_state",
    "hostname",
    "description",
    "launch_index",
    "progress",
    "node",
    "access_ip_v4",
    "access_ip_v6",
    "root_device_name",
    "kernel_id",
    "ramdisk_id",
    "created_at",
    "launched_at",
    "terminated_at",
    "auto_disk_config",
    "metadata",
    "system_metadata",
    "soft_deleted",
)
QUERY = _PAGING + _FILTERS

_ADMIN_EQUAL = {
    "reservation_id": "reservation_id",
    "availability_zone": "availability_zone",
    "key_name": "key_name",
    "vm_state": "vm_state",
    "task_state": "task_state",
    "hostname": "hostname",
    "description": "description",
    "access_ip_v4": "access_ip_v4",
    "access_ip_v6": "access_ip_v6",
    "node": "host",
}
_EVERYBODYS_EQUAL = {"reservation_id": "reservation_id"}


@registry.route("GET", f"{V21}/servers", policy=Policy.READER, query=QUERY)
async def list_basic(request: ApiRequest) -> Document:
    wanted = page(request, tuple(SORT_COLUMNS))
    rows = await request.cloud.store.read(list_rows, request.context, server_filter(request), wanted)
    document: Document = {"servers": [server_views.basic(request, row) for row in rows]}
    return _with_next(request, document, [row["id"] for row in rows])


@registry.route("GET", f"{V21}/servers/detail", policy=Policy.READER, query=QUERY)
async def list_detail(request: ApiRequest) -> Document:
    wanted = page(request, tuple(SORT_COLUMNS))
    records = await request.cloud.store.read(list_servers, request.context, server_filter(request), wanted)
    document: Document = {"servers": [server_views.detail(request, record) for record in records]}
    return _with_next(request, document, [record.row["id"] for record in records])


def _with_next(request: ApiRequest, document: Document, ids: list[str]) -> Document:
    if following := next_link(request, page(request), ids):
        document["servers_links"] = following
    return document


def server_filter(request: ApiRequest) -> ServerFilter:
    """Which servers the query asks for. Raises `BadRequest` or `Forbidden` naming the parameter."""
    only_known(request, QUERY)
    context, version = request.context, request.microversion
    every = request.query("all_tenants") is not None and request.query_bool("all_tenants") is not False
    if every and not context.is_admin:
        raise Forbidden("Policy doesn't allow os_compute_api:servers:detail:get_all_tenants to be performed.")
    project = request.query("project_id") or request.query("tenant_id")
    equal: dict[str, Any] = {}
    for name, column in (_ADMIN_EQUAL if context.is_admin else _EVERYBODYS_EQUAL).items():
        if (value := request.query(name)) is not None:
            equal[column] = value or None
    statuses, nothing = _statuses(request)
    if request.query("deleted") is not None and context.is_admin and request.query_bool("deleted"):
        nothing = True
    if version >= (2, 26):
        tags = {key: _words(request.query(key)) for key in ("tags", "tags-any", "not-tags", "not-tags-any")}
    else:
        tags = {}
    uuid = request.query("uuid")
    return ServerFilter(
        all_projects=every,
        project_id=project if context.is_admin and (every or project) else None,
        user_id=request.query("user_id") if context.is_admin else None,
        name=_expression(request.query("name")),
        statuses=statuses,
        image_id=_last_part(request.query("image")),
        flavor_id=_last_part(request.query("flavor")),
        host=request.query("host") if context.is_admin else None,
        ip=_expression(request.query("ip")),
        ip6=_expression(request.query("ip6")) if context.is_admin or version >= (2, 5) else None,
        changes_since=moment("changes-since", request.query("changes-since")),
        changes_before=moment("changes-before", request.query("changes-before")) if version >= (2, 66) else None,
        tags=tags.get("tags", ()),
        tags_any=tags.get("tags-any", ()),
        not_tags=tags.get("not-tags", ()),
        not_tags_any=tags.get("not-tags-any", ()),
        locked=request.query_bool("locked") if version >= (2, 73) else None,
        ids=(check_uuid("uuid", uuid),) if uuid else (),
        equal=equal,
        nothing=nothing,
    )


def _statuses(request: ApiRequest) -> tuple[list[str], bool]:
    """The statuses asked for, and whether none of them can be."""
    asked = [status.upper() for status in request.query_all("status")]
    if "DELETED" in asked and not request.context.is_admin:
        raise Forbidden("Only administrators may list deleted instances")
    known = [status for status in asked if status in KNOWN]
    if len(known) < len(asked) and request.microversion >= (2, 38):
        raise BadRequest(f"Invalid status value: {', '.join(status for status in asked if status not in KNOWN)}")
    return known, bool(asked) and not known


def _words(value: str | None) -> list[str]:
    return [word for word in value.split(",") if word] if value else []


def _expression(value: str | None) -> str | None:
    """The regular expressions of `name` and `ip` must be ones, though only a safe part of them has a meaning here."""
    if value is None:
        return None
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError):
        raise BadRequest(f"Invalid filter: '{value[:80]}' is not a regular expression") from None
    return value


def _last_part(reference: str | None) -> str | None:
    return None if reference is None else reference.rstrip("/").rpartition("/")[2]


@registry.route("POST", f"{V21}/servers", status=202, body=CreateServer)
async def create(request: ApiRequest, body: CreateServer) -> Response:
    new = new_server(request, body)
    created = await request.cloud.store.write(servers.create_servers, request.context, request.config, new)
    await wake(request, created.pending)
    asked = body.server.return_reservation_id
    if asked is not msgspec.UNSET and str(asked).lower() in ("true", "1"):
        return _accepted({"reservation_id": created.reservation_id})
    instance_id = created.instance_ids[0]
    server: Document = {
        "id": instance_id,
        "links": links(request, "servers", instance_id),
        "OS-DCF:diskConfig": new.disk_config,
        "security_groups": [{"name": name} for name in dict.fromkeys(new.security_groups or ("default",))],
        "adminPass": body.server.admin_pass or secrets.token_urlsafe(9),
    }
    return _accepted({"server": server}, {"Location": server["links"][0]["href"]})


def _accepted(document: Document, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(document), 202, headers, media_type="application/json")


async def wake(request: ApiRequest, pending: Pending) -> None:
    """Tell the workers what was committed; a lost message only costs a poll interval."""
    for topic, operation_id in pending.operations:
        await request.cloud.run_operation(topic, operation_id, request.context)
    await request.cloud.wake_networks(pending.network_hosts, request.context)


def server_id(request: ApiRequest) -> str:
    """The path's server; an id that is no UUID is found nowhere."""
    wanted = request.path["server_id"]
    try:
        return str(UUID(wanted))
    except ValueError:
        return wanted


@registry.route("GET", f"{V21}/servers/{{server_id}}", policy=Policy.READER)
async def show(request: ApiRequest) -> Document:
    record = await request.cloud.store.read(show_server, request.context, server_id(request))
    return {"server": server_views.detail(request, record, shown_alone=True)}


@registry.route("PUT", f"{V21}/servers/{{server_id}}", body=UpdateServer)
async def update(request: ApiRequest, body: UpdateServer) -> Document:
    values = changes(request, body)
    await request.cloud.store.write(servers.update_server, request.context, server_id(request), values)
    record = await request.cloud.store.read(show_server, request.context, server_id(request))
    document = server_views.detail(request, record, shown_alone=True)
    if request.microversion < (2, 75):
        for extended in [name for name in document if _shown_from_2_75(name)]:
            del document[extended]
    return {"server": document}


def _shown_from_2_75(name: str) -> bool:
    """What the answer of an update leaves out before 2.75."""
    return name.startswith(("OS-EXT-", "OS-SRV-USG", "os-extended-volumes")) or name in {
        "key_name",
        "config_drive",
        "security_groups",
        "host_status",
    }


@registry.route("DELETE", f"{V21}/servers/{{server_id}}", status=204)
async def delete(request: ApiRequest) -> None:
    pending = await request.cloud.store.write(servers.delete_server, request.context, server_id(request))
    await wake(request, pending)
