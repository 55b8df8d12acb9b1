"""Kilonova's own routes for administrators: the pool of project networks and the ranges of floating addresses."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct

from kilonova.api.network.bodies import Maybe, Text
from kilonova.api.network.registry import registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud import floating_ranges, pool

_POOL = "/kilonova/pool-networks"
_RANGES = "/kilonova/floating-ranges"
_POOL_FILTERS = ("project_id", "network_id", "manager", "physical_network", "cidr", "bridge")

Whole = Annotated[int, Meta(ge=-(2**31), le=2**40)]


class PoolNetworks(Struct, forbid_unknown_fields=True):
    fixed_range: Text = "10.0.0.0/8"
    num_networks: Whole = 1000
    network_size: Whole = 256
    vlan_start: Whole = 100
    vpn_start: Whole = 1000
    manager: Text = "vlan"
    physical_network: Annotated[str, Meta(max_length=64)] = ""


class PoolNetworksRequest(Struct, forbid_unknown_fields=True):
    pool_networks: PoolNetworks


class FloatingRange(Struct, forbid_unknown_fields=True):
    host: Text
    cidr: Text
    gateway: Text | Maybe | None = UNSET
    exclude: Annotated[list[Text], Meta(max_length=100)] = msgspec.field(default_factory=list)


class FloatingRangeRequest(Struct, forbid_unknown_fields=True):
    floating_range: FloatingRange


@registry.route("POST", _POOL, policy=Policy.ADMIN, status=201, body=PoolNetworksRequest)
async def create_pool_networks(request: ApiRequest, body: PoolNetworksRequest) -> Any:
    wanted = pool.PoolRequest(**msgspec.to_builtins(body.pool_networks))
    return {"pool_networks": await pool.create(request.cloud, request.context, wanted)}


@registry.route("GET", _POOL, policy=Policy.ADMIN, query=("assigned", *_POOL_FILTERS))
async def list_pool_networks(request: ApiRequest) -> Any:
    filters = {name: value for name, value in request.http.query_params.items() if name != "assigned"}
    found = await pool.find(request.cloud, request.context, filters, assigned=request.query_bool("assigned"))
    return {"pool_networks": found}


@registry.route("GET", f"{_POOL}/{{id}}", policy=Policy.ADMIN)
async def show_pool_network(request: ApiRequest) -> Any:
    return {"pool_network": await pool.show(request.cloud, request.context, request.path["id"])}


@registry.route("DELETE", f"{_POOL}/{{id}}", policy=Policy.ADMIN, status=204)
async def delete_pool_network(request: ApiRequest) -> None:
    await pool.remove(request.cloud, request.context, request.path["id"])


@registry.route("POST", _RANGES, policy=Policy.ADMIN, status=201, body=FloatingRangeRequest)
async def create_floating_range(request: ApiRequest, body: FloatingRangeRequest) -> Any:
    wanted = body.floating_range
    gateway = wanted.gateway if isinstance(wanted.gateway, str) else None
    made = await floating_ranges.create(
        request.cloud, request.context, wanted.host, wanted.cidr, gateway=gateway, exclude=wanted.exclude
    )
    return {"floating_range": made}


@registry.route("GET", _RANGES, policy=Policy.ADMIN)
async def list_floating_ranges(request: ApiRequest) -> Any:
    return {"floating_ranges": await floating_ranges.find(request.cloud, request.context)}


@registry.route("DELETE", f"{_RANGES}/{{address}}/{{prefix}}", policy=Policy.ADMIN, status=204)
async def delete_floating_range(request: ApiRequest) -> None:
    """The path ends in the range itself, such as 203.0.113.0/24."""
    cidr = f"{request.path['address']}/{request.path['prefix']}"
    await floating_ranges.remove(request.cloud, request.context, cidr)
