"""Quotas of network resources."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct

from kilonova.api.network.bodies import Maybe, Text
from kilonova.api.network.registry import VERSION, registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud import quotas
from kilonova.network.quota import DEFAULTS

Limit = Annotated[int, Meta(ge=-1, le=2**31 - 1)]


class Limits(Struct, forbid_unknown_fields=True):
    network: Limit | Maybe = UNSET
    subnet: Limit | Maybe = UNSET
    port: Limit | Maybe = UNSET
    router: Limit | Maybe = UNSET
    floatingip: Limit | Maybe = UNSET
    security_group: Limit | Maybe = UNSET
    security_group_rule: Limit | Maybe = UNSET
    tenant_id: Text | Maybe = UNSET
    project_id: Text | Maybe = UNSET
    check_limit: bool | Maybe = UNSET
    """Refuse a limit below what is used."""
    force: bool | Maybe = UNSET


class LimitsRequest(Struct, forbid_unknown_fields=True):
    quota: Limits


@registry.route("GET", f"{VERSION}/quotas", policy=Policy.READER)
async def list_(request: ApiRequest) -> Any:
    return {"quotas": await quotas.listed(request.cloud, request.context)}


@registry.route("GET", f"{VERSION}/quotas/{{project_id}}", policy=Policy.READER)
async def show(request: ApiRequest) -> Any:
    return {"quota": await quotas.show(request.cloud, request.context, request.path["project_id"])}


@registry.route("GET", f"{VERSION}/quotas/{{project_id}}/default", policy=Policy.READER)
async def show_default(request: ApiRequest) -> Any:
    return {"quota": DEFAULTS}


@registry.route("GET", f"{VERSION}/quotas/{{project_id}}/details", policy=Policy.READER)
async def details(request: ApiRequest) -> Any:
    return {"quota": await quotas.details(request.cloud, request.context, request.path["project_id"])}


@registry.route("GET", f"{VERSION}/quotas/{{project_id}}/details.json", policy=Policy.READER)
async def details_json(request: ApiRequest) -> Any:
    return await details(request)


@registry.route("PUT", f"{VERSION}/quotas/{{project_id}}", policy=Policy.ADMIN, body=LimitsRequest)
async def change(request: ApiRequest, body: LimitsRequest) -> Any:
    limits: dict[str, int] = {
        name: limit for name, limit in msgspec.to_builtins(body.quota).items() if name in DEFAULTS
    }
    checked = body.quota.check_limit is True and body.quota.force is not True
    project_id = request.path["project_id"]
    return {"quota": await quotas.change(request.cloud, request.context, project_id, limits, checked=checked)}


@registry.route("DELETE", f"{VERSION}/quotas/{{project_id}}", policy=Policy.ADMIN, status=204)
async def reset(request: ApiRequest) -> None:
    await quotas.reset(request.cloud, request.context, request.path["project_id"])
