"""The network agents of the hosts and their availability zones, as the API shows them."""

from __future__ import annotations

from typing import Any

from kilonova.api.network.lists import PARAMETERS, page, query_of, reduced
from kilonova.api.network.registry import VERSION, registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud import network_agents

_FILTERS = ("id", "host", "binary", "agent_type", "alive", "admin_state_up", "availability_zone")


@registry.route("GET", f"{VERSION}/agents", policy=Policy.ADMIN, query=(*PARAMETERS, *_FILTERS))
async def list_(request: ApiRequest) -> Any:
    query = query_of(request)
    found = await network_agents.find(request.cloud, query.filters)
    return page(request, "agents", found, query)


@registry.route("GET", f"{VERSION}/agents/{{id}}", policy=Policy.ADMIN, query=("fields",))
async def show(request: ApiRequest) -> Any:
    return {"agent": reduced(request, await network_agents.show(request.cloud, request.path["id"]))}


@registry.route("GET", f"{VERSION}/availability_zones", policy=Policy.READER)
async def zones(request: ApiRequest) -> Any:
    return {"availability_zones": await network_agents.zones(request.cloud)}
