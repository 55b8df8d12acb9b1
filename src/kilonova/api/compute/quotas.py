"""Limits and quotas of projects, and what they have used. Source: Compute API, "Limits", "Quota sets"."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, Struct, UnsetType
from sqlalchemy import Connection
from starlette.responses import Response

from kilonova.api.compute.fields import Document, Flag, flag, only_until
from kilonova.api.compute.microversions import Version
from kilonova.api.compute.registry import V21, registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud import limits as use
from kilonova.errors import BadRequest, Forbidden

_UNTIL: dict[str, Version] = {
    "fixed_ips": (2, 35),
    "floating_ips": (2, 35),
    "security_groups": (2, 35),
    "security_group_rules": (2, 35),
    "injected_files": (2, 56),
    "injected_file_content_bytes": (2, 56),
    "injected_file_path_bytes": (2, 56),
}
"""The last version that knows a quota; the others are in all."""

Limit = Annotated[int, Meta(ge=-1, le=2**31 - 1)] | Annotated[str, Meta(pattern=r"^-?[0-9]{1,9}$")] | UnsetType


class QuotaBody(Struct, forbid_unknown_fields=True):
    instances: Limit = UNSET
    cores: Limit = UNSET
    ram: Limit = UNSET
    metadata_items: Limit = UNSET
    key_pairs: Limit = UNSET
    server_groups: Limit = UNSET
    server_group_members: Limit = UNSET
    injected_files: Limit = UNSET
    injected_file_content_bytes: Limit = UNSET
    injected_file_path_bytes: Limit = UNSET
    fixed_ips: Limit = UNSET
    floating_ips: Limit = UNSET
    security_groups: Limit = UNSET
    security_group_rules: Limit = UNSET
    force: Flag | UnsetType = UNSET


class UpdateQuota(Struct, forbid_unknown_fields=True):
    quota_set: QuotaBody


def _known(request: ApiRequest, values: dict[str, int]) -> dict[str, int]:
    return {name: value for name, value in values.items() if request.microversion <= _UNTIL.get(name, (9, 9))}


def _check_project(request: ApiRequest) -> str:
    project_id = request.path["project_id"]
    if not request.context.is_admin and project_id != request.context.project_id:
        raise Forbidden("Only an administrator may see the quota of another project.")
    return project_id


@registry.route("GET", f"{V21}/os-quota-sets/{{project_id}}", policy=Policy.READER)
async def show(request: ApiRequest) -> Document:
    project_id = _check_project(request)
    values = await request.cloud.store.read(use.limits_of, project_id)
    return {"quota_set": {"id": project_id, **_known(request, values)}}


@registry.route("GET", f"{V21}/os-quota-sets/{{project_id}}/defaults", policy=Policy.READER)
async def defaults(request: ApiRequest) -> Document:
    return {"quota_set": {"id": request.path["project_id"], **_known(request, use.DEFAULTS)}}


@registry.route("GET", f"{V21}/os-quota-sets/{{project_id}}/detail", policy=Policy.READER)
async def detail(request: ApiRequest) -> Document:
    project_id = _check_project(request)

    def both(tx: Connection) -> tuple[dict[str, int], dict[str, int]]:
        return use.limits_of(tx, project_id), use.usage_of(tx, project_id)

    most, used = await request.cloud.store.read(both)
    shown: Document = {
        name: {"limit": limit, "in_use": used[name], "reserved": 0} for name, limit in _known(request, most).items()
    }
    return {"quota_set": {"id": project_id, **shown}}


@registry.route("PUT", f"{V21}/os-quota-sets/{{project_id}}", policy=Policy.ADMIN, body=UpdateQuota)
async def update(request: ApiRequest, body: UpdateQuota) -> Document:
    quota, project_id = body.quota_set, request.path["project_id"]
    only_until(request, quota, _UNTIL)
    force = quota.force is not UNSET and flag("force", quota.force)
    wanted: dict[str, int] = {}
    for name in use.DEFAULTS:
        value = getattr(quota, name)
        if value is not UNSET:
            wanted[name] = int(value)
            if wanted[name] < -1:
                raise BadRequest(f"Invalid input for field/attribute {name}. Value: {value}. -1 means unlimited.")

    def unit(tx: Connection) -> dict[str, int]:
        use.set_limits(tx, project_id, wanted, force=force)
        return use.limits_of(tx, project_id)

    values = await request.cloud.store.write(unit)
    return {"quota_set": _known(request, values)}


@registry.route("DELETE", f"{V21}/os-quota-sets/{{project_id}}", policy=Policy.ADMIN)
async def reset(request: ApiRequest) -> Response:
    await request.cloud.store.write(use.reset_limits, request.path["project_id"])
    return Response(status_code=202)


@registry.route("GET", f"{V21}/os-quota-class-sets/{{name}}", policy=Policy.ADMIN)
async def show_class(request: ApiRequest) -> Document:
    """There is one class, `default`; any other name shows the same."""
    known = _known(request, use.DEFAULTS)
    if request.microversion < (2, 50):
        known = {name: value for name, value in known.items() if not name.startswith("server_group")}
    return {"quota_class_set": {"id": request.path["name"], **known}}


@registry.route("GET", f"{V21}/limits", policy=Policy.READER, query=("reserved", "tenant_id"))
async def show_limits(request: ApiRequest) -> Document:
    context = request.context
    project_id = request.query("tenant_id") or context.project_id or ""
    if project_id != context.project_id and not context.is_admin:
        raise Forbidden("Only an administrator may see the limits of another project.")

    def both(tx: Connection) -> tuple[dict[str, int], dict[str, int]]:
        return use.limits_of(tx, project_id), use.usage_of(tx, project_id)

    most, used = await request.cloud.store.read(both)
    shown: Document = {
        "maxServerMeta": most["metadata_items"],
        "maxTotalInstances": most["instances"],
        "maxTotalCores": most["cores"],
        "maxTotalRAMSize": most["ram"],
        "maxTotalKeypairs": most["key_pairs"],
        "maxServerGroups": most["server_groups"],
        "maxServerGroupMembers": most["server_group_members"],
        "totalInstancesUsed": used["instances"],
        "totalCoresUsed": used["cores"],
        "totalRAMUsed": used["ram"],
        "totalServerGroupsUsed": used["server_groups"],
    }
    version = request.microversion
    if version < (2, 36):
        shown |= {
            "maxSecurityGroups": most["security_groups"],
            "maxSecurityGroupRules": most["security_group_rules"],
            "maxTotalFloatingIps": most["floating_ips"],
            "totalFloatingIpsUsed": used["floating_ips"],
            "totalSecurityGroupsUsed": used["security_groups"],
        }
    if version < (2, 39):
        shown["maxImageMeta"] = most["metadata_items"]
    if version < (2, 57):
        shown |= {
            "maxPersonality": most["injected_files"],
            "maxPersonalitySize": most["injected_file_content_bytes"],
        }
    return {"limits": {"rate": [], "absolute": shown}}
