"""The auto-allocated topology: a project's network, given to it from the pool at the first request for it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from kilonova.cloud.controller import Cloud
from kilonova.cloud.project_networks import release_network
from kilonova.context import Context
from kilonova.errors import Forbidden, NotFound
from kilonova.network.assignment import decide, ensure_project_network, project_network


async def ensure(cloud: Cloud, context: Context, project_id: str) -> dict[str, Any]:
    """The project's network, given to it when it has none. Raises `NoMoreNetworks`, `Forbidden`."""
    _check(context, project_id)
    found = await cloud.store.read(project_network, project_id)
    if found is None:
        found = await cloud.store.write(ensure_project_network, cloud.config, project_id, context)
        await cloud.wake_networks([found["host"]], context)
    return {"id": found["id"], "tenant_id": project_id, "project_id": project_id}


async def check(cloud: Cloud, context: Context, project_id: str) -> dict[str, Any]:
    """Whether `ensure` would succeed; changes nothing. Raises `NoMoreNetworks`, `Forbidden`."""
    _check(context, project_id)

    def unit(tx: Connection) -> None:
        if project_network(tx, project_id) is None:
            decide(tx, cloud.config, project_id)

    await cloud.store.read(unit)
    return {"id": "dry-run=pass", "tenant_id": project_id, "project_id": project_id}


async def remove(cloud: Cloud, context: Context, project_id: str) -> None:
    """Take the project's network away, its default router too. Raises `NotFound`, `InUse` saying by what."""
    _check(context, project_id)
    await cloud.wake_networks(await cloud.store.write(_remove, project_id), context)


def _check(context: Context, project_id: str) -> None:
    if project_id != context.project_id and not context.is_admin:
        raise Forbidden(f"The topology of project {project_id} is another project's.")


def _remove(tx: Connection, project_id: str) -> set[str]:
    if project_network(tx, project_id) is None:
        raise NotFound(f"Project {project_id} has no auto-allocated topology.")
    return release_network(tx, project_id)
