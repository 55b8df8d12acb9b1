"""The pool of project networks: `kilonova network create|list|show|delete`, with the meaning it had in 2010.

A network of the pool is only a row until a project's first run makes it that project's own
(`kilonova.network.assignment`).
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, or_, select
from sqlalchemy.exc import IntegrityError

from kilonova.cloud.controller import Cloud
from kilonova.config import Config
from kilonova.context import Context
from kilonova.errors import AlreadyExists, BadRequest, Conflict, NotFound
from kilonova.ids import new_id
from kilonova.network.errors import NetworkInUse, NotSupportedYet
from kilonova.network.managers import Manager, manager_named
from kilonova.store.schema import networks, now, pool_networks, subnets

SMALLEST_NETWORK = 8
"""Room for the network's, gateway's, services' and broadcast address and some guests."""
LARGEST_PORT = 65535


@dataclass(frozen=True)
class PoolRequest:
    """What `network create` is told; the defaults are those of 2010."""

    fixed_range: str = "10.0.0.0/8"
    num_networks: int = 1000
    network_size: int = 256
    vlan_start: int = 100
    vpn_start: int = 1000
    manager: str = "vlan"
    physical_network: str = ""


async def create(cloud: Cloud, context: Context, request: PoolRequest) -> list[dict[str, Any]]:
    """Add networks to the pool, all or none. Raises `BadRequest`, or `Conflict` naming what is in the way."""
    return await cloud.store.write(_create, cloud.config, request)


async def find(
    cloud: Cloud, context: Context, filters: dict[str, str], *, assigned: bool | None
) -> list[dict[str, Any]]:
    """The pool in the order in which it is handed out. Raises `BadRequest` naming an unknown filter."""
    return await cloud.store.read(_find, filters, assigned)


async def show(cloud: Cloud, context: Context, pool_id: str) -> dict[str, Any]:
    """One network of the pool. Raises `NotFound`."""
    return await cloud.store.read(lambda tx: _document(_get(tx, pool_id)))


async def remove(cloud: Cloud, context: Context, pool_id: str) -> None:
    """Take a network out of the pool. Raises `NotFound`, or `InUse` saying by what."""
    await cloud.store.write(_remove, pool_id)


def _create(tx: Connection, config: Config, request: PoolRequest) -> list[dict[str, Any]]:
    physical = request.physical_network or config.network.physical_network
    manager = manager_named(request.manager)
    cut = _cut(request)
    count = request.num_networks
    manager.check(physical, request.vlan_start, request.vlan_start + count - 1)
    if request.vpn_start < 1 or request.vpn_start + count - 1 > LARGEST_PORT:
        raise BadRequest(
            f"vpn_start: the ports {request.vpn_start} to {request.vpn_start + count - 1} do not fit into 1 to "
            f"{LARGEST_PORT}."
        )
    _refuse_overlaps(tx, cut[0].network_address, cut[-1].broadcast_address)
    _refuse_taken_ids(tx, manager, physical, request)
    position = (tx.execute(select(func.max(pool_networks.c.position))).scalar_one() or 0) + 1
    moment = now()
    rows = [
        {
            "id": new_id(),
            "manager": request.manager,
            "physical_network": physical,
            "segmentation_id": request.vlan_start + i,
            "bridge": manager.bridge_name(config, physical, request.vlan_start + i),
            "cidr": str(network),
            "vpn_port": request.vpn_start + i,
            "position": position + i,
            "created_at": moment,
        }
        for i, network in enumerate(cut)
    ]
    try:
        tx.execute(insert(pool_networks), rows)
    except IntegrityError as error:
        raise AlreadyExists(
            "Another administrator added some of these networks at the same time: try again."
        ) from error
    free = {"project_id": None, "network_id": None, "released_at": None, "released_host": None}
    return [_document({**row, **free}) for row in rows]


def _cut(request: PoolRequest) -> list[IPv4Network]:
    """The networks to make, in order. Raises `BadRequest` naming the number that does not fit."""
    try:
        whole = ip_network(request.fixed_range)
    except ValueError as error:
        raise BadRequest(f"fixed_range: {error}.") from None
    if isinstance(whole, IPv6Network):
        raise NotSupportedYet(f"fixed_range: {whole} is IPv6, which the pool does not have yet.")
    size, count = request.network_size, request.num_networks
    if count < 1:
        raise BadRequest(f"num_networks: {count} is too few, make at least 1.")
    if size < SMALLEST_NETWORK or size & (size - 1):
        raise BadRequest(f"network_size: {size} is not a power of two from {SMALLEST_NETWORK} on (such as 256).")
    if size > 2**32 or size * count > whole.num_addresses:
        raise BadRequest(
            f"fixed_range: {whole} has {whole.num_addresses} addresses, too few for {count} networks of {size}; "
            f"{whole.num_addresses // size} fit."
        )
    prefix = 32 - (size.bit_length() - 1)
    first = int(whole.network_address)
    return [IPv4Network((first + i * size, prefix)) for i in range(count)]


def _refuse_overlaps(tx: Connection, first: Any, last: Any) -> None:
    query = select(pool_networks.c.cidr.label("cidr"), pool_networks.c.bridge.label("name"))
    ranges = select(subnets.c.cidr, networks.c.name).join(networks, networks.c.id == subnets.c.network_id)
    for row in [
        *tx.execute(query),
        *tx.execute(ranges.where(networks.c.external.is_(True), subnets.c.ip_version == 4)),
    ]:
        other = ip_network(row.cidr)
        if other.network_address <= last and other.broadcast_address >= first:
            raise Conflict(
                f"fixed_range: {first} to {last} overlaps {other} ({row.name}): choose another --fixed-range."
            )


def _refuse_taken_ids(tx: Connection, manager: Manager, physical: str, request: PoolRequest) -> None:
    count = request.num_networks
    for table, owner in ((pool_networks, "the pool"), (networks, "a network")):
        query = select(func.min(table.c.segmentation_id)).where(
            table.c.physical_network == physical,
            table.c.segmentation_id.between(request.vlan_start, request.vlan_start + count - 1),
        )
        taken = tx.execute(query).scalar_one()
        if taken is not None:
            raise Conflict(
                f"vlan_start: VLAN id {taken} of {physical} belongs to {owner}: choose another --vlan-start."
            )
    query = select(func.min(pool_networks.c.vpn_port)).where(
        pool_networks.c.vpn_port.between(request.vpn_start, request.vpn_start + count - 1)
    )
    port = tx.execute(query).scalar_one()
    if port is not None:
        raise Conflict(f"vpn_start: VPN port {port} belongs to the pool already: choose another --vpn-start.")


def _find(tx: Connection, filters: dict[str, str], assigned: bool | None) -> list[dict[str, Any]]:
    query = select(pool_networks).order_by(pool_networks.c.position)
    for name, value in filters.items():
        if name not in {"project_id", "network_id", "manager", "physical_network", "cidr", "bridge"}:
            raise BadRequest(f"filter: '{name}' is not a field of the pool to filter by.")
        query = query.where(pool_networks.c[name] == value)
    if assigned is not None:
        taken = pool_networks.c.project_id.is_not(None)
        query = query.where(taken if assigned else ~taken)
    return [_document(row) for row in tx.execute(query).mappings()]


def _get(tx: Connection, pool_id: str) -> RowMapping:
    query = select(pool_networks).where(
        or_(pool_networks.c.id == pool_id, pool_networks.c.cidr == pool_id, pool_networks.c.bridge == pool_id)
    )
    row = tx.execute(query).mappings().first()
    if row is None:
        raise NotFound(f"The pool has no network {pool_id}: see `kilonova network list`.")
    return row


def _remove(tx: Connection, pool_id: str) -> None:
    row = _get(tx, pool_id)
    if row["project_id"] is not None:
        raise NetworkInUse(
            f"Pool network {row['cidr']} ({row['bridge']}) is in use by project {row['project_id']} as network "
            f"{row['network_id']}: delete that network first."
        )
    if row["released_at"] is not None:
        raise NetworkInUse(
            f"Pool network {row['cidr']} ({row['bridge']}) was given back but host {row['released_host']} still holds "
            "it: try again once its network agent runs."
        )
    tx.execute(delete(pool_networks).where(pool_networks.c.id == row["id"]))


def _document(row: Any) -> dict[str, Any]:
    state = "assigned" if row["project_id"] else "held" if row["released_at"] else "free"
    names = ("id", "cidr", "manager", "physical_network", "segmentation_id", "bridge", "vpn_port", "project_id")
    return {name: row[name] for name in names} | {
        "network_id": row["network_id"],
        "state": state,
        "held_by_host": row["released_host"],
        "created_at": row["created_at"].strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
