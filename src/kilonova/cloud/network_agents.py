"""The network agents, from the rows of their services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, select, update

from kilonova.cloud.controller import Cloud
from kilonova.cloud.network_lists import as_bool
from kilonova.errors import BadRequest
from kilonova.network.errors import AgentNotFound
from kilonova.scheduler.host_state import is_alive
from kilonova.store.schema import now, services

TYPE = "Kilonova network agent"
BINARY = "kilonova-network"


async def find(cloud: Cloud, filters: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Every agent that the filters let through. Raises `BadRequest` naming an unknown filter."""
    found = await cloud.store.read(_all)
    for name, values in filters.items():
        if found and name not in found[0]:
            raise BadRequest(f"filter: '{name}' is not a field of agents.")
        if name in {"alive", "admin_state_up"}:
            wanted: set[Any] = {as_bool(name, value) for value in values}
        else:
            wanted = set(values)
        found = [agent for agent in found if agent[name] in wanted]
    return found


async def show(cloud: Cloud, agent_id: str) -> dict[str, Any]:
    """One agent. Raises `AgentNotFound`."""
    for agent in await cloud.store.read(_all):
        if agent["id"] == agent_id:
            return agent
    raise AgentNotFound(f"Agent {agent_id} could not be found.")


async def change(cloud: Cloud, agent_id: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Enable, disable or describe one; the networks of a disabled one go elsewhere. Raises `AgentNotFound`."""
    columns = {"admin_state_up": "enabled", "description": "disabled_reason"}
    values = {columns[name]: value for name, value in fields.items()}

    def unit(tx: Connection) -> None:
        if values:
            mine = (services.c.kind == "network", services.c.id == agent_id)
            tx.execute(update(services).where(*mine).values(**values))

    await cloud.store.write(unit)
    return await show(cloud, agent_id)


async def zones(cloud: Cloud) -> list[dict[str, str]]:
    """The availability zones of the agents, for networks and for routers."""
    agents = await cloud.store.read(_all)
    available = dict.fromkeys(sorted({agent["availability_zone"] for agent in agents}), False)
    for agent in agents:
        available[agent["availability_zone"]] |= agent["alive"]
    return [
        {"name": zone, "resource": resource, "state": "available" if alive else "unavailable"}
        for zone, alive in available.items()
        for resource in ("network", "router")
    ]


def _all(tx: Connection) -> list[dict[str, Any]]:
    query = select(services).where(services.c.kind == "network").order_by(services.c.host)
    return [_document(row) for row in tx.execute(query).mappings()]


def _document(row: RowMapping) -> dict[str, Any]:
    return {
        "id": row["id"],
        "agent_type": TYPE,
        "binary": BINARY,
        "topic": f"network.{row['host']}",
        "host": row["host"],
        "admin_state_up": row["enabled"],
        "alive": is_alive(row["seen_at"], row["forced_down"], now()),
        "availability_zone": row["availability_zone"],
        "description": row["disabled_reason"],
        "configurations": {},
        "created_at": f"{row['started_at']:%Y-%m-%d %H:%M:%S}",
        "started_at": f"{row['started_at']:%Y-%m-%d %H:%M:%S}",
        "heartbeat_timestamp": f"{row['seen_at']:%Y-%m-%d %H:%M:%S}",
        "resources_synced": None,
    }
