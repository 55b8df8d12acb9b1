"""Quotas of network resources as administrators set them and projects read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from kilonova.cloud.controller import Cloud
from kilonova.context import Context
from kilonova.errors import BadRequest, Forbidden
from kilonova.network import quota
from kilonova.store.schema import quotas


async def show(cloud: Cloud, context: Context, project_id: str) -> dict[str, int]:
    """A project's limits. Raises `Forbidden` for another project's."""
    _check(context, project_id)
    return await cloud.store.read(quota.limits_of, project_id)


async def details(cloud: Cloud, context: Context, project_id: str) -> dict[str, dict[str, int]]:
    """A project's limits with what is used. Raises `Forbidden` for another project's."""
    _check(context, project_id)

    def unit(tx: Connection) -> dict[str, dict[str, int]]:
        limits, used = quota.limits_of(tx, project_id), quota.usage_of(tx, project_id)
        return {name: {"limit": limits[name], "used": used[name], "reserved": 0} for name in limits}

    return await cloud.store.read(unit)


async def listed(cloud: Cloud, context: Context) -> list[dict[str, Any]]:
    """The limits of every project (of an administrator: else of its own) that has limits of its own."""

    def unit(tx: Connection) -> list[dict[str, Any]]:
        query = select(quotas.c.project_id).where(quotas.c.resource.in_(quota.DEFAULTS)).distinct()
        if not context.is_admin:
            query = query.where(quotas.c.project_id == context.project_id)
        rows = select(quotas).where(quotas.c.project_id.in_(query), quotas.c.resource.in_(quota.DEFAULTS))
        limits: dict[str, dict[str, Any]] = {}
        for row in tx.execute(rows.order_by(quotas.c.project_id)):
            own = limits.setdefault(row.project_id, quota.DEFAULTS | {})
            own[row.resource] = row.hard_limit
        return [{**own, "project_id": project, "tenant_id": project} for project, own in limits.items()]

    return await cloud.store.read(unit)


async def change(
    cloud: Cloud, context: Context, project_id: str, limits: Mapping[str, int], *, checked: bool = False
) -> dict[str, int]:
    """Set some limits; the project's limits then. Raises `BadRequest`, if `checked`, for one below what is used."""

    def unit(tx: Connection) -> dict[str, int]:
        used = quota.usage_of(tx, project_id) if checked else {}
        for resource, amount in used.items():
            if quota.UNLIMITED < limits.get(resource, amount) < amount:
                raise BadRequest(f"{resource}: {amount} are in use, more than the limit {limits[resource]}.")
        for resource, limit in limits.items():
            where = (quotas.c.project_id == project_id, quotas.c.resource == resource)
            if not tx.execute(update(quotas).where(*where).values(hard_limit=limit)).rowcount:
                tx.execute(insert(quotas).values(project_id=project_id, resource=resource, hard_limit=limit))
        return quota.limits_of(tx, project_id)

    return await cloud.store.write(unit)


async def reset(cloud: Cloud, context: Context, project_id: str) -> None:
    """Back to the defaults, for the network's resources only."""

    def unit(tx: Connection) -> None:
        tx.execute(delete(quotas).where(quotas.c.project_id == project_id, quotas.c.resource.in_(quota.DEFAULTS)))

    await cloud.store.write(unit)


def _check(context: Context, project_id: str) -> None:
    if project_id != context.project_id and not context.is_admin:
        raise Forbidden(f"The quotas of project {project_id} are another project's.")
