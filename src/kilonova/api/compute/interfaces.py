"""The interfaces of a server: its ports as compute shows them. Source: Compute API, "Port interfaces"."""

from __future__ import annotations

from sqlalchemy import RowMapping

from kilonova.api.compute.fields import Document
from kilonova.api.compute.registry import V21, registry
from kilonova.api.compute.servers import server_id
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud.server_actions import interfaces_of
from kilonova.errors import NotFound, NotSupported

INTERFACES = f"{V21}/servers/{{server_id}}/os-interface"


def _view(request: ApiRequest, port: RowMapping, fixed_ips: list[dict[str, str]]) -> Document:
    shown: Document = {
        "port_id": port["id"],
        "net_id": port["network_id"],
        "mac_addr": port["mac"],
        "port_state": port["status"],
        "fixed_ips": fixed_ips,
    }
    if request.microversion >= (2, 70):
        shown["tag"] = None
    return shown


@registry.route("GET", INTERFACES, policy=Policy.READER)
async def list_interfaces(request: ApiRequest) -> Document:
    found = await request.cloud.store.read(interfaces_of, request.context, server_id(request))
    return {"interfaceAttachments": [_view(request, port, fixed_ips) for port, fixed_ips in found]}


@registry.route("GET", f"{INTERFACES}/{{port_id}}", policy=Policy.READER)
async def show_interface(request: ApiRequest) -> Document:
    wanted = request.path["port_id"]
    for port, fixed_ips in await request.cloud.store.read(interfaces_of, request.context, server_id(request)):
        if port["id"] == wanted:
            return {"interfaceAttachment": _view(request, port, fixed_ips)}
    raise NotFound(f"Port id {wanted} could not be found.")


@registry.route("POST", INTERFACES)
async def attach(request: ApiRequest) -> Document:
    await request.cloud.store.read(interfaces_of, request.context, server_id(request))
    raise NotSupported("Attaching an interface to a server that exists is not supported by this cloud yet.")


@registry.route("DELETE", f"{INTERFACES}/{{port_id}}")
async def detach(request: ApiRequest) -> Document:
    await request.cloud.store.read(interfaces_of, request.context, server_id(request))
    raise NotSupported("Detaching an interface from a server is not supported by this cloud yet.")
