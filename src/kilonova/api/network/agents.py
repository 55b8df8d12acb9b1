"""The network agents of the hosts, their availability zones, and how many addresses are used."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct

from kilonova.api.network.bodies import Maybe, Text, fields_of
from kilonova.api.network.lists import PARAMETERS, page, query_of, reduced
from kilonova.api.network.registry import VERSION, registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud import ip_availability, network_agents

_FILTERS = ("id", "host", "binary", "agent_type", "alive", "admin_state_up", "availability_zone")


class AgentChange(Struct, forbid_unknown_fields=True):
    admin_state_up: bool | Maybe = UNSET
    """False: the host is drained, its networks, routers and floating ranges go to others that live."""
    description: Text | Maybe = UNSET


class AgentChangeRequest(Struct, forbid_unknown_fields=True):
    agent: AgentChange


@registry.route("GET", f"{VERSION}/agents", policy=Policy.ADMIN, query=(*PARAMETERS, *_FILTERS))
async def list_(request: ApiRequest) -> Any:
    query = query_of(request)
    found = await network_agents.find(request.cloud, query.filters)
    return page(request, "agents", found, query)


@registry.route("GET", f"{VERSION}/agents/{{id}}", policy=Policy.ADMIN, query=("fields",))
async def show(request: ApiRequest) -> Any:
    return {"agent": reduced(request, await network_agents.show(request.cloud, request.path["id"]))}


@registry.route("PUT", f"{VERSION}/agents/{{id}}", policy=Policy.ADMIN, body=AgentChangeRequest)
async def change(request: ApiRequest, body: AgentChangeRequest) -> Any:
    return {"agent": await network_agents.change(request.cloud, request.path["id"], fields_of(body.agent))}


@registry.route("GET", f"{VERSION}/availability_zones", policy=Policy.READER)
async def zones(request: ApiRequest) -> Any:
    return {"availability_zones": await network_agents.zones(request.cloud)}


@registry.route(
    "GET",
    f"{VERSION}/network-ip-availabilities",
    policy=Policy.ADMIN,
    query=("network_id", "network_name", "project_id", "ip_version"),
)
async def list_availability(request: ApiRequest) -> Any:
    found = await ip_availability.find(request.cloud, query_of(request).filters)
    return {"network_ip_availabilities": found}


@registry.route("GET", f"{VERSION}/network-ip-availabilities/{{network_id}}", policy=Policy.ADMIN)
async def show_availability(request: ApiRequest) -> Any:
    return {"network_ip_availability": await ip_availability.show(request.cloud, request.path["network_id"])}
