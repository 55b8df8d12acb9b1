"""How many addresses of each network and subnet are there and used, for administrators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, func, select

from kilonova.cloud.controller import Cloud
from kilonova.errors import BadRequest
from kilonova.network.errors import NetworkNotFound
from kilonova.store.schema import addresses, allocation_pools, networks, subnets

_COLUMNS = {"network_id": networks.c.id, "network_name": networks.c.name, "project_id": networks.c.project_id}


async def find(cloud: Cloud, filters: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Every network that the filters let through. Raises `BadRequest` naming an unknown filter."""
    return await cloud.store.read(_find, filters)


async def show(cloud: Cloud, network_id: str) -> dict[str, Any]:
    """One network. Raises `NetworkNotFound`."""
    found = await cloud.store.read(_find, {"network_id": [network_id]})
    if not found:
        raise NetworkNotFound(f"Network {network_id} could not be found.")
    return found[0]


def _find(tx: Connection, filters: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    query = select(networks.c.id, networks.c.name, networks.c.project_id).order_by(networks.c.created_at)
    versions: Sequence[str] = ("4", "6")
    for name, values in filters.items():
        if name == "ip_version":
            versions = values
        elif name.replace("tenant", "project") in _COLUMNS:
            query = query.where(_COLUMNS[name.replace("tenant", "project")].in_(values))
        else:
            raise BadRequest(f"filter: '{name}' is not a field of the availability of addresses.")
    taken = select(addresses.c.subnet_id, func.count()).group_by(addresses.c.subnet_id)
    used = {subnet_id: int(count) for subnet_id, count in tx.execute(taken)}
    length = allocation_pools.c.last_offset - allocation_pools.c.first_offset + 1
    pools = select(allocation_pools.c.subnet_id, func.sum(length)).group_by(allocation_pools.c.subnet_id)
    total = {subnet_id: int(size) for subnet_id, size in tx.execute(pools)}
    of_network: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in tx.execute(select(subnets).order_by(subnets.c.created_at)):
        if str(row.ip_version) in versions:
            of_network[row.network_id].append(
                {
                    "subnet_id": row.id,
                    "subnet_name": row.name,
                    "cidr": row.cidr,
                    "ip_version": row.ip_version,
                    "total_ips": total.get(row.id, 0),
                    "used_ips": used.get(row.id, 0),
                }
            )
    return [
        {
            "network_id": row.id,
            "network_name": row.name,
            "project_id": row.project_id,
            "tenant_id": row.project_id,
            "subnet_ip_availability": of_network[row.id],
            "total_ips": sum(item["total_ips"] for item in of_network[row.id]),
            "used_ips": sum(item["used_ips"] for item in of_network[row.id]),
        }
        for row in tx.execute(query)
    ]
