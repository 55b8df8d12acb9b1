"""The interfaces of routers."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct

from kilonova.api.network.bodies import Maybe, Text, fields_of
from kilonova.api.network.registry import VERSION, registry
from kilonova.api.routing import ApiRequest
from kilonova.cloud import routers


class InterfaceRequest(Struct, forbid_unknown_fields=True):
    subnet_id: Text | Maybe = UNSET
    port_id: Text | Maybe = UNSET


@registry.route("PUT", f"{VERSION}/routers/{{id}}/add_router_interface", body=InterfaceRequest)
async def add_interface(request: ApiRequest, body: InterfaceRequest) -> Any:
    return await routers.connect(request.cloud, request.context, request.path["id"], fields_of(body))


@registry.route("PUT", f"{VERSION}/routers/{{id}}/remove_router_interface", body=InterfaceRequest)
async def remove_interface(request: ApiRequest, body: InterfaceRequest) -> Any:
    return await routers.disconnect(request.cloud, request.context, request.path["id"], fields_of(body))
