"""Kilonova's own routes for administrators: the pool, which project has which network of it, floating ranges."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct

from kilonova.api.network.bodies import Maybe, Text
from kilonova.api.network.lists import page, query_of
from kilonova.api.network.registry import registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud import floating_ranges, pool, project_networks
from kilonova.cloud.network_lists import Query

_POOL = "/kilonova/pool-networks"
_RANGES = "/kilonova/floating-ranges"
_PROJECTS = "/kilonova/projects"
_PAGING = ("fields", "sort_key", "sort_dir", "limit", "marker", "page_reverse")
_POOL_FILTERS = ("name", "project_id", "network_id", "manager", "physical_network", "cidr", "bridge")

Whole = Annotated[int, Meta(ge=-(2**31), le=2**40)]
Excluded = Annotated[list[Text], Meta(max_length=100)]


class PoolNetworks(Struct, forbid_unknown_fields=True):
    fixed_range: Text | None = None
    num_networks: Whole | None = None
    network_size: Whole | None = None
    vlan_start: Whole | None = None
    vpn_start: Whole | None = None
    manager: Text = "vlan"
    physical_network: Annotated[str, Meta(max_length=64)] = ""
    gateway: Text | None = None
    exclude: Excluded = msgspec.field(default_factory=list)


class PoolNetworksRequest(Struct, forbid_unknown_fields=True):
    pool_networks: PoolNetworks


class ProjectChange(Struct, forbid_unknown_fields=True):
    network_type: Text | None


class ProjectChangeRequest(Struct, forbid_unknown_fields=True):
    project: ProjectChange


class Assignment(Struct, forbid_unknown_fields=True):
    pool_network: Text | None = None
    manager: Text | None = None


class AssignmentRequest(Struct, forbid_unknown_fields=True):
    network: Assignment


class FloatingRange(Struct, forbid_unknown_fields=True):
    host: Text
    cidr: Text
    gateway: Text | Maybe | None = UNSET
    exclude: Excluded = msgspec.field(default_factory=list)


class FloatingRangeRequest(Struct, forbid_unknown_fields=True):
    floating_range: FloatingRange


@registry.route("POST", _POOL, policy=Policy.ADMIN, status=201, body=PoolNetworksRequest)
async def create_pool_networks(request: ApiRequest, body: PoolNetworksRequest) -> Any:
    fields = msgspec.structs.asdict(body.pool_networks)
    wanted = pool.PoolRequest(**{**fields, "exclude": tuple(fields["exclude"])})
    return {"pool_networks": await pool.create(request.cloud, request.context, wanted)}


@registry.route("GET", _POOL, policy=Policy.ADMIN, query=("assigned", *_POOL_FILTERS, *_PAGING))
async def list_pool_networks(request: ApiRequest) -> Any:
    query = query_of(request)
    filters = {name: values for name, values in query.filters.items() if name != "assigned"}
    plain = Query(filters, query.limit, query.marker, query.sort, query.reverse)
    found = await pool.find(request.cloud, request.context, plain, assigned=request.query_bool("assigned"))
    return page(request, "pool-networks", found, query)


@registry.route("GET", f"{_POOL}/{{id}}", policy=Policy.ADMIN)
async def show_pool_network(request: ApiRequest) -> Any:
    """With the projects that have it and why: `decision` is a list of manager, possible, weight and reason."""
    return {"pool_network": await pool.show(request.cloud, request.context, request.path["id"])}


@registry.route("DELETE", f"{_POOL}/{{id}}", policy=Policy.ADMIN, status=204)
async def delete_pool_network(request: ApiRequest) -> None:
    await pool.remove(request.cloud, request.context, request.path["id"])


@registry.route("GET", _PROJECTS, policy=Policy.ADMIN, query=("id", "name", "network_type", "manager", *_PAGING))
async def list_projects(request: ApiRequest) -> Any:
    query = query_of(request)
    return page(request, "projects", await project_networks.find(request.cloud, request.context, query), query)


@registry.route("GET", f"{_PROJECTS}/{{project_id}}", policy=Policy.ADMIN)
async def show_project(request: ApiRequest) -> Any:
    """The project's network type and network, with the decision that led to it."""
    return {"project": await project_networks.show(request.cloud, request.context, request.path["project_id"])}


@registry.route("PATCH", f"{_PROJECTS}/{{project_id}}", policy=Policy.ADMIN, body=ProjectChangeRequest)
async def change_project(request: ApiRequest, body: ProjectChangeRequest) -> Any:
    """Prefer a network type for the project's next network; null: it is chosen."""
    project_id, wanted = request.path["project_id"], body.project.network_type
    return {"project": await project_networks.prefer(request.cloud, request.context, project_id, wanted)}


@registry.route("POST", f"{_PROJECTS}/{{project_id}}/network", policy=Policy.ADMIN, status=201, body=AssignmentRequest)
async def assign_network(request: ApiRequest, body: AssignmentRequest) -> Any:
    """Give the project its network: the pool network that is named (id, CIDR or bridge), one of a manager, or any."""
    made = await project_networks.assign(
        request.cloud,
        request.context,
        request.path["project_id"],
        named=body.network.pool_network,
        manager=body.network.manager,
    )
    return {"project": made}


@registry.route("DELETE", f"{_PROJECTS}/{{project_id}}/network", policy=Policy.ADMIN, status=204)
async def release_network(request: ApiRequest) -> None:
    """Take its network away from the project; refused while something uses it."""
    await project_networks.release(request.cloud, request.context, request.path["project_id"])


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
