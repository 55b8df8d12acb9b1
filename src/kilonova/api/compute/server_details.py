"""Parts of a server: metadata, tags, addresses, security groups, actions and events, diagnostics, topology."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from starlette.responses import Response

from kilonova.api.compute import server_views
from kilonova.api.compute.fields import (
    Document,
    Metadata,
    MetadataValue,
    Tag,
    iso_micro,
    moment,
    next_link,
    page,
)
from kilonova.api.compute.microversions import need
from kilonova.api.compute.registry import V21, registry
from kilonova.api.compute.servers import server_id
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud import server_actions, servers
from kilonova.cloud.server_lists import get_instance, show_server
from kilonova.errors import BadRequest, NotFound, NotSupported

SERVER = f"{V21}/servers/{{server_id}}"


class MetadataBody(Struct, forbid_unknown_fields=True):
    metadata: Metadata


class MetadataItem(Struct, forbid_unknown_fields=True):
    meta: Annotated[dict[str, MetadataValue], Meta(min_length=1, max_length=1)]


class TagsBody(Struct, forbid_unknown_fields=True):
    tags: Annotated[list[Tag], Meta(max_length=50)]


# ------------------------------------------------------------------------------------------------ metadata
@registry.route("GET", f"{SERVER}/metadata", policy=Policy.READER)
async def list_metadata(request: ApiRequest) -> Document:
    row = await request.cloud.store.read(get_instance, request.context, server_id(request))
    return {"metadata": row["metadata"]}


@registry.route("POST", f"{SERVER}/metadata", body=MetadataBody)
async def add_metadata(request: ApiRequest, body: MetadataBody) -> Document:
    write = request.cloud.store.write
    return {"metadata": await write(servers.set_metadata, request.context, server_id(request), body.metadata)}


@registry.route("PUT", f"{SERVER}/metadata", body=MetadataBody)
async def replace_metadata(request: ApiRequest, body: MetadataBody) -> Document:
    items = await request.cloud.store.write(
        servers.set_metadata, request.context, server_id(request), body.metadata, replace=True
    )
    return {"metadata": items}


@registry.route("GET", f"{SERVER}/metadata/{{key}}", policy=Policy.READER)
async def show_metadata_item(request: ApiRequest) -> Document:
    row = await request.cloud.store.read(get_instance, request.context, server_id(request))
    key = request.path["key"]
    if key not in row["metadata"]:
        raise NotFound("Metadata item was not found")
    return {"meta": {key: row["metadata"][key]}}


@registry.route("PUT", f"{SERVER}/metadata/{{key}}", body=MetadataItem)
async def set_metadata_item(request: ApiRequest, body: MetadataItem) -> Document:
    if request.path["key"] not in body.meta:
        raise BadRequest("Request body and URI mismatch")
    await request.cloud.store.write(servers.set_metadata, request.context, server_id(request), body.meta)
    return {"meta": body.meta}


@registry.route("DELETE", f"{SERVER}/metadata/{{key}}", status=204)
async def delete_metadata_item(request: ApiRequest) -> None:
    key = request.path["key"]
    await request.cloud.store.write(servers.delete_metadata, request.context, server_id(request), key)


# ------------------------------------------------------------------------------------------------ tags
@registry.route("GET", f"{SERVER}/tags", policy=Policy.READER)
async def list_tags(request: ApiRequest) -> Document:
    need(request, (2, 26))
    row = await request.cloud.store.read(get_instance, request.context, server_id(request))
    return {"tags": row["tags"]}


@registry.route("PUT", f"{SERVER}/tags", body=TagsBody)
async def replace_tags(request: ApiRequest, body: TagsBody) -> Document:
    need(request, (2, 26))
    tags = await request.cloud.store.write(servers.set_tags, request.context, server_id(request), body.tags)
    return {"tags": tags}


@registry.route("DELETE", f"{SERVER}/tags", status=204)
async def delete_tags(request: ApiRequest) -> None:
    need(request, (2, 26))
    await request.cloud.store.write(servers.set_tags, request.context, server_id(request), [])


@registry.route("GET", f"{SERVER}/tags/{{tag}}", policy=Policy.READER, status=204)
async def has_tag(request: ApiRequest) -> None:
    need(request, (2, 26))
    row = await request.cloud.store.read(get_instance, request.context, server_id(request))
    if request.path["tag"] not in row["tags"]:
        raise NotFound(f"Server {server_id(request)} has no tag '{request.path['tag']}'")


@registry.route("PUT", f"{SERVER}/tags/{{tag}}")
async def add_tag(request: ApiRequest) -> Response:
    need(request, (2, 26))
    tag = request.path["tag"]
    if not 1 <= len(tag) <= 60 or "," in tag or "/" in tag:
        raise BadRequest(f"Invalid tag '{tag[:80]}': 1 to 60 characters, no comma or slash")
    new = await request.cloud.store.write(servers.add_tag, request.context, server_id(request), tag)
    return Response(status_code=201 if new else 204, headers={"Location": request.http.url.path} if new else None)


@registry.route("DELETE", f"{SERVER}/tags/{{tag}}", status=204)
async def delete_tag(request: ApiRequest) -> None:
    need(request, (2, 26))
    tag = request.path["tag"]
    await request.cloud.store.write(servers.delete_tag, request.context, server_id(request), tag)


# ------------------------------------------------------------------------------------------------ addresses, groups
@registry.route("GET", f"{SERVER}/ips", policy=Policy.READER)
async def list_addresses(request: ApiRequest) -> Document:
    record = await request.cloud.store.read(show_server, request.context, server_id(request))
    return {"addresses": server_views.addresses(record.addresses, extended=False)}


@registry.route("GET", f"{SERVER}/ips/{{label}}", policy=Policy.READER)
async def show_addresses(request: ApiRequest) -> Document:
    record = await request.cloud.store.read(show_server, request.context, server_id(request))
    networks, label = server_views.addresses(record.addresses, extended=False), request.path["label"]
    if label not in networks:
        raise NotFound("Network label could not be found: the server has no address on it")
    return {label: networks[label]}


@registry.route("GET", f"{SERVER}/os-security-groups", policy=Policy.READER)
async def list_groups(request: ApiRequest) -> Document:
    groups = await request.cloud.store.read(server_actions.groups_of, request.context, server_id(request))
    return {
        "security_groups": [
            {
                "id": group["id"],
                "name": group["name"],
                "description": group["description"],
                "tenant_id": group["project_id"],
                "rules": [],
            }
            for group in groups
        ]
    }


# ------------------------------------------------------------------------------------------------ actions
@registry.route(
    "GET",
    f"{SERVER}/os-instance-actions",
    policy=Policy.READER,
    query=("limit", "marker", "changes-since", "changes-before"),
)
async def list_actions(request: ApiRequest) -> Document:
    rows = await request.cloud.store.read(server_actions.list_actions, request.context, server_id(request))
    await _check_not_gone(request)
    if request.microversion < (2, 58):
        return {"instanceActions": [_action(request, row) for row in rows]}
    since, before = (moment(name, request.query(name)) for name in ("changes-since", "changes-before"))
    if since is not None:
        rows = [row for row in rows if row["updated_at"] >= since]
    if before is not None and request.microversion >= (2, 66):
        rows = [row for row in rows if row["updated_at"] <= before]
    wanted = page(request)
    if wanted.marker is not None:
        positions = [index for index, row in enumerate(rows) if row["request_id"] == wanted.marker]
        if not positions:
            raise BadRequest(f"marker [{wanted.marker}] not found")
        rows = rows[positions[0] + 1 :]
    rows = rows[: wanted.limit]
    document: Document = {"instanceActions": [_action(request, row) for row in rows]}
    if following := next_link(request, wanted, [row["request_id"] for row in rows]):
        document["links"] = following
    return document


@registry.route("GET", f"{SERVER}/os-instance-actions/{{request_id}}", policy=Policy.READER)
async def show_action(request: ApiRequest) -> Document:
    wanted = request.path["request_id"]
    record = await request.cloud.store.read(server_actions.show_action, request.context, server_id(request), wanted)
    await _check_not_gone(request)
    document = _action(request, record.row)
    if request.context.is_admin or request.microversion >= (2, 51):
        document["events"] = [_event(request, record.row["project_id"], event) for event in record.events]
    return {"instanceAction": document}


async def _check_not_gone(request: ApiRequest) -> None:
    """Before 2.21 the actions of deleted servers are not shown."""
    if request.microversion < (2, 21):
        await request.cloud.store.read(get_instance, request.context, server_id(request))


def _action(request: ApiRequest, row: server_actions.Row) -> Document:
    document: Document = {
        "action": row["action"],
        "instance_uuid": row["instance_id"],
        "request_id": row["request_id"],
        "user_id": row["user_id"],
        "project_id": row["project_id"],
        "start_time": iso_micro(row["started_at"]),
        "message": row["message"],
    }
    if request.microversion >= (2, 58):
        document["updated_at"] = iso_micro(row["updated_at"])
    return document


def _event(request: ApiRequest, project_id: str | None, row: server_actions.Row) -> Document:
    document: Document = {
        "event": row["event"],
        "start_time": iso_micro(row["started_at"]),
        "finish_time": iso_micro(row["finished_at"]),
        "result": row["result"],
    }
    if request.context.is_admin or request.microversion < (2, 51):
        document["traceback"] = row["details"]
    if request.microversion >= (2, 62):
        document["hostId"] = server_views.host_id(project_id or "", row["host"])
        if request.context.is_admin:
            document["host"] = row["host"]
    return document


# ------------------------------------------------------------------------------------------------ machine
@registry.route("GET", f"{SERVER}/diagnostics", policy=Policy.ADMIN)
async def diagnostics(request: ApiRequest) -> Document:
    await request.cloud.store.read(get_instance, request.context, server_id(request))
    raise NotSupported("Diagnostics of servers are not supported by this cloud yet.")


@registry.route("GET", f"{SERVER}/topology", policy=Policy.READER)
async def topology(request: ApiRequest) -> Document:
    """Guests have one NUMA node that is bound to none of the host's."""
    need(request, (2, 78))
    await request.cloud.store.read(get_instance, request.context, server_id(request))
    return {"nodes": [], "pagesize_kb": None}


@registry.route("GET", f"{SERVER}/os-volume_attachments", policy=Policy.READER)
async def list_volume_attachments(request: ApiRequest) -> Document:
    """Servers have no volumes yet; clients ask when they show one."""
    await request.cloud.store.read(get_instance, request.context, server_id(request))
    return {"volumeAttachments": []}
