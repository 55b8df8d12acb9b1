"""Kilonova's own routes for projects' VPNs and their clients: an administrator's for all, a member's for its own."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct

from kilonova.api.network.bodies import Maybe, Text
from kilonova.api.network.registry import registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud import vpns
from kilonova.cloud.network_lists import owner_of

_VPNS = "/kilonova/vpns"
_ONE = f"{_VPNS}/{{project_id}}"
_CLIENTS = f"{_ONE}/clients"


class NewVpn(Struct, forbid_unknown_fields=True):
    project_id: Text | Maybe = UNSET


class NewVpnRequest(Struct, forbid_unknown_fields=True):
    vpn: NewVpn


class NewClient(Struct, forbid_unknown_fields=True):
    user_name: Annotated[str, Meta(min_length=1, max_length=64)]


class NewClientRequest(Struct, forbid_unknown_fields=True):
    client: NewClient


@registry.route("GET", _VPNS, policy=Policy.READER)
async def list_vpns(request: ApiRequest) -> Any:
    """Every project that has a network: its VPN, or status NONE and the port set aside for it. Makes nothing."""
    return {"vpns": await vpns.find(request.cloud, request.context)}


@registry.route("POST", _VPNS, policy=Policy.MEMBER, status=201, body=NewVpnRequest)
async def run_vpn(request: ApiRequest, body: NewVpnRequest) -> Any:
    """Start the VPN of a project; one that runs is answered as it is."""
    named = body.vpn.project_id
    project_id = owner_of(request.context, named if isinstance(named, str) else None)
    return {"vpn": await vpns.run(request.cloud, request.context, project_id)}


@registry.route("POST", f"{_VPNS}/spawn", policy=Policy.ADMIN)
async def spawn_vpns(request: ApiRequest) -> Any:
    """Start the VPN of every project that has a network and lacks one: `started`, and `failed` with reasons."""
    return await vpns.spawn(request.cloud, request.context)


@registry.route("GET", _ONE, policy=Policy.READER)
async def show_vpn(request: ApiRequest) -> Any:
    return {"vpn": await vpns.show(request.cloud, request.context, request.path["project_id"])}


@registry.route("DELETE", _ONE, policy=Policy.MEMBER, status=204)
async def stop_vpn(request: ApiRequest) -> None:
    """End the VPN and revoke its clients."""
    await vpns.stop(request.cloud, request.context, request.path["project_id"])


@registry.route("POST", _CLIENTS, policy=Policy.MEMBER, status=201, body=NewClientRequest)
async def make_client(request: ApiRequest, body: NewClientRequest) -> Any:
    """Make a client, or give one new keys. `config` is its file for wg-quick; it is not shown again."""
    request.response_headers["Cache-Control"] = "no-store"
    project_id, user_name = request.path["project_id"], body.client.user_name
    return {"client": await vpns.config(request.cloud, request.context, project_id, user_name)}


@registry.route("DELETE", _CLIENTS, policy=Policy.MEMBER)
async def revoke_clients(request: ApiRequest) -> Any:
    """Revoke every client of the VPN: their names."""
    return {"revoked": await vpns.revoke(request.cloud, request.context, request.path["project_id"], None)}


@registry.route("DELETE", f"{_CLIENTS}/{{user_name}}", policy=Policy.MEMBER)
async def revoke_client(request: ApiRequest) -> Any:
    """Revoke one client."""
    project_id, user_name = request.path["project_id"], request.path["user_name"]
    return {"revoked": await vpns.revoke(request.cloud, request.context, project_id, user_name)}
