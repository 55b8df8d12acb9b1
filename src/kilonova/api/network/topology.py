"""The auto-allocated topology. Its GET makes the network when there is none: the API is defined so."""

from __future__ import annotations

from typing import Any

from kilonova.api.network.registry import VERSION, registry
from kilonova.api.routing import ApiRequest
from kilonova.cloud import topology
from kilonova.errors import BadRequest

_PATH = f"{VERSION}/auto-allocated-topology/{{project_id}}"


@registry.route("GET", _PATH, query=("fields",))
async def ensure(request: ApiRequest) -> Any:
    fields = request.query_all("fields")
    if "dry-run" in fields:
        found = await topology.check(request.cloud, request.context, _project(request))
    else:
        found = await topology.ensure(request.cloud, request.context, _project(request))
    return {"auto_allocated_topology": found}


@registry.route("DELETE", _PATH, status=204)
async def remove(request: ApiRequest) -> None:
    await topology.remove(request.cloud, request.context, _project(request))


def _project(request: ApiRequest) -> str:
    """The project in the path; some clients write their own as None."""
    named = request.path["project_id"]
    if named not in {"None", "null"}:
        return named
    if request.context.project_id is None:
        raise BadRequest("project_id: the token has no project; name one.")
    return request.context.project_id
