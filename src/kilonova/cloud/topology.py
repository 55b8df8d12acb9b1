"""The auto-allocated topology: a project's own network, made from the pool at the first request for it."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, select

from kilonova.cloud.controller import Cloud
from kilonova.cloud.networks import delete_network
from kilonova.context import Context
from kilonova.errors import Forbidden, NoMoreNetworks, NotFound
from kilonova.network.assignment import ensure_project_network, project_network
from kilonova.network.errors import NetworkInUse
from kilonova.network.ports import DHCP, ROUTER_INTERFACE
from kilonova.network.routers import clear_gateway
from kilonova.store.ports import release_port
from kilonova.store.schema import pool_networks, ports, routers


async def ensure(cloud: Cloud, context: Context, project_id: str) -> dict[str, Any]:
    """The project's own network, made when it has none. Raises `NoMoreNetworks`, `Forbidden`."""
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
        free = select(pool_networks.c.id).where(
            pool_networks.c.project_id.is_(None), pool_networks.c.released_at.is_(None)
        )
        if project_network(tx, project_id) is None and tx.execute(free.limit(1)).first() is None:
            raise NoMoreNetworks(
                "Deployment error: the pool has no free network; an administrator adds some with `kilonova network "
                "create`."
            )

    await cloud.store.read(unit)
    return {"id": "dry-run=pass", "tenant_id": project_id, "project_id": project_id}


async def remove(cloud: Cloud, context: Context, project_id: str) -> None:
    """Delete the project's own network and default router. Raises `NotFound`, `InUse` saying by what."""
    _check(context, project_id)
    await cloud.wake_networks(await cloud.store.write(_remove, context, project_id), context)


def _check(context: Context, project_id: str) -> None:
    if project_id != context.project_id and not context.is_admin:
        raise Forbidden(f"The topology of project {project_id} is another project's.")


def _remove(tx: Connection, context: Context, project_id: str) -> set[str]:
    network = project_network(tx, project_id)
    if network is None:
        raise NotFound(f"Project {project_id} has no auto-allocated topology.")
    others = select(ports.c.id).where(
        ports.c.network_id == network["id"], ports.c.device_owner.not_in([DHCP, ROUTER_INTERFACE])
    )
    used = tx.execute(others.limit(5)).scalars().all()
    if used:
        raise NetworkInUse(
            f"Unable to delete the auto-allocated topology of project {project_id}: network {network['id']} has ports "
            f"{', '.join(used)}."
        )
    hosts: set[str] = set()
    query = (
        select(routers)
        .join(ports, ports.c.device_id == routers.c.id)
        .where(ports.c.network_id == network["id"], ports.c.device_owner == ROUTER_INTERFACE)
    )
    for router in tx.execute(query).mappings().all():
        hosts.add(router["host"] or "")
        inner = select(ports.c.id).where(
            ports.c.device_id == router["id"],
            ports.c.network_id == network["id"],
            ports.c.device_owner == ROUTER_INTERFACE,
        )
        for port_id in tx.execute(inner).scalars().all():
            release_port(tx, port_id)
        remaining = select(ports.c.id).where(
            ports.c.device_id == router["id"], ports.c.device_owner == ROUTER_INTERFACE
        )
        if router["is_default"] and tx.execute(remaining.limit(1)).first() is None:
            clear_gateway(tx, router["id"])
            tx.execute(delete(routers).where(routers.c.id == router["id"]))
    return hosts | delete_network(tx, network)
