"""Ranges of floating addresses: `kilonova floating create HOST RANGE|delete RANGE|list`.

A range is one subnet of the external network `public`, on one network host. It costs one row however large it is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, select

from kilonova.cloud.controller import Cloud
from kilonova.cloud.subnets import is_reserved
from kilonova.config import Config
from kilonova.context import Context
from kilonova.errors import BadRequest, Conflict, NoMoreAddresses, NotFound
from kilonova.ids import new_id
from kilonova.network.addresses import usable, without
from kilonova.network.errors import NotSupportedYet, SubnetInUse
from kilonova.network.ports import FLOATING_IP, ROUTER_GATEWAY
from kilonova.network.routers import set_gateway
from kilonova.network.subnets import insert_subnet
from kilonova.store.schema import (
    addresses,
    allocation_pools,
    networks,
    pool_networks,
    ports,
    routers,
    services,
    subnets,
)

log = logging.getLogger(__name__)

PUBLIC = "public"
"""The name of the external network, and of its physical network."""


async def create(
    cloud: Cloud, context: Context, host: str, cidr: str, *, gateway: str | None = None, exclude: Sequence[str] = ()
) -> dict[str, Any]:
    """Give a network host a range; `exclude` are addresses or CIDRs of it that are not handed out.

    The external network is made with the first range, and default routers without a gateway get one. Raises
    `BadRequest`, or `Conflict` naming what the range overlaps.
    """
    made, hosts = await cloud.store.write(_create, cloud.config, context, host, cidr, gateway, tuple(exclude))
    await cloud.wake_networks({host, *hosts}, context)
    return made


async def find(cloud: Cloud, context: Context) -> list[dict[str, Any]]:
    """Every range, with how many of its addresses are used."""
    return await cloud.store.read(_find)


async def remove(cloud: Cloud, context: Context, cidr: str) -> None:
    """Take a range away, whole. Raises `NotFound`, or `InUse` saying by what."""
    host = await cloud.store.write(_remove, cidr)
    await cloud.wake_networks([host], context)


def _create(
    tx: Connection,
    config: Config,
    context: Context,
    host: str,
    cidr: str,
    gateway: str | None,
    exclude: tuple[str, ...],
) -> tuple[dict[str, Any], set[str]]:
    network = _range(cidr)
    _check_host(tx, host)
    _refuse_overlaps(tx, network)
    chosen = _gateway(network, gateway, config.host.public_gateway)
    ranges = without(network, [chosen, *exclude])
    if not ranges:
        raise BadRequest(f"cidr: nothing of {network} is left to hand out.")
    external = _ensure_external_network(tx, config, context)
    subnet_id = insert_subnet(
        tx,
        network=external,
        project_id=external["project_id"],
        cidr=network,
        gateway=chosen,
        enable_dhcp=False,
        ranges=ranges,
        name=f"{PUBLIC}-{network}",
        host=host,
        dns_nameservers=[],
        host_routes=[],
    )
    hosts = _connect_routers(tx, external["id"])
    return next(item for item in _find(tx) if item["id"] == subnet_id), hosts


def _range(cidr: str) -> IPv4Network:
    try:
        network = ip_network(cidr)
    except ValueError as error:
        raise BadRequest(f"cidr: {error}.") from None
    if isinstance(network, IPv6Network):
        raise NotSupportedYet(f"cidr: {network} is IPv6, which has no floating addresses.")
    if is_reserved(network):
        raise BadRequest(f"cidr: {network} has addresses that no host can have.")
    return network


def _check_host(tx: Connection, host: str) -> None:
    if not host or len(host) > 255:
        raise BadRequest("host: name the network host that has the range.")
    known = list(tx.execute(select(services.c.host).where(services.c.kind == "network")).scalars())
    if known and host not in known:
        raise BadRequest(f"host: there is no network host {host}; there is {', '.join(sorted(known))}.")


def _refuse_overlaps(tx: Connection, network: IPv4Network) -> None:
    ranges = (
        select(subnets.c.cidr, networks.c.name)
        .join(networks, networks.c.id == subnets.c.network_id)
        .where(networks.c.external.is_(True), subnets.c.ip_version == 4)
    )
    pool = select(pool_networks.c.cidr, pool_networks.c.bridge)
    for other, name in [*tx.execute(ranges), *tx.execute(pool)]:
        if ip_network(other).overlaps(network):
            raise Conflict(f"cidr: {network} overlaps {other} ({name}).")


def _gateway(network: IPv4Network, asked: str | None, configured: str) -> IPv4Address:
    """The address of the way out: as asked, else as configured when it is of this range, else the first one."""
    if asked is not None:
        try:
            address = IPv4Address(asked)
        except ValueError as error:
            raise BadRequest(f"gateway: {error}.") from None
        if address not in network:
            raise BadRequest(f"gateway: {asked} is not in {network}.")
        return address
    if configured and ip_address(configured) in network:
        return IPv4Address(configured)
    return network[usable(network)[0]]


def _ensure_external_network(tx: Connection, config: Config, context: Context) -> RowMapping:
    query = select(networks).where(networks.c.external.is_(True), networks.c.name == PUBLIC)
    found = tx.execute(query.order_by(networks.c.created_at).limit(1)).mappings().one_or_none()
    if found is not None:
        return found
    network_id = new_id()
    tx.execute(
        insert(networks).values(
            id=network_id,
            project_id=context.project_id or "",
            name=PUBLIC,
            manager="flat",
            physical_network=PUBLIC,
            bridge=config.host.public_bridge,
            mtu=config.network.mtu,
            external=True,
        )
    )
    return tx.execute(select(networks).where(networks.c.id == network_id)).mappings().one()


def _connect_routers(tx: Connection, external_id: str) -> set[str]:
    """Projects' default routers that have no gateway yet get one; as many as there are addresses for."""
    query = select(routers).where(routers.c.is_default.is_(True), routers.c.external_network_id.is_(None))
    hosts = set()
    for router in tx.execute(query.order_by(routers.c.created_at)).mappings().all():
        try:
            with tx.begin_nested():
                set_gateway(tx, router, external_id)
        except NoMoreAddresses as error:
            log.warning("router %s stays without a gateway: %s", router["id"], error)
            break
        hosts.add(router["host"] or "")
    return hosts


def _find(tx: Connection) -> list[dict[str, Any]]:
    used = (
        select(addresses.c.subnet_id, func.count(addresses.c.port_id).label("used"), func.count().label("held"))
        .group_by(addresses.c.subnet_id)
        .subquery()
    )
    length = allocation_pools.c.last_offset - allocation_pools.c.first_offset + 1
    sizes = (
        select(allocation_pools.c.subnet_id, func.sum(length).label("size"))
        .group_by(allocation_pools.c.subnet_id)
        .subquery()
    )
    query = (
        select(subnets, networks.c.name.label("network_name"), used.c.used, used.c.held, sizes.c.size)
        .join(networks, networks.c.id == subnets.c.network_id)
        .outerjoin(sizes, sizes.c.subnet_id == subnets.c.id)
        .outerjoin(used, used.c.subnet_id == subnets.c.id)
        .where(networks.c.external.is_(True), subnets.c.host.is_not(None))
        .order_by(subnets.c.created_at, subnets.c.id)
    )
    return [
        {
            "id": row["id"],
            "host": row["host"],
            "cidr": row["cidr"],
            "gateway": row["gateway_ip"],
            "network_id": row["network_id"],
            "network": row["network_name"],
            "size": int(row["size"] or 0),
            "used": row["used"] or 0,
            "held": (row["held"] or 0) - (row["used"] or 0),
        }
        for row in tx.execute(query).mappings().all()
    ]


def _remove(tx: Connection, cidr: str) -> str | None:
    network = _range(cidr)
    query = (
        select(subnets)
        .join(networks, networks.c.id == subnets.c.network_id)
        .where(networks.c.external.is_(True), subnets.c.host.is_not(None), subnets.c.cidr == str(network))
    )
    row = tx.execute(query).mappings().first()
    if row is None:
        raise NotFound(f"There is no floating range {network}: see `kilonova floating list`.")
    _refuse_used(tx, row)
    tx.execute(delete(addresses).where(addresses.c.subnet_id == row["id"]))
    tx.execute(delete(subnets).where(subnets.c.id == row["id"]))
    # The external network goes with its last range, as it came with the first.
    others = select(subnets.c.id).where(subnets.c.network_id == row["network_id"])
    users = select(ports.c.id).where(ports.c.network_id == row["network_id"])
    if tx.execute(others.limit(1)).first() is None and tx.execute(users.limit(1)).first() is None:
        tx.execute(delete(networks).where(networks.c.id == row["network_id"], networks.c.physical_network == PUBLIC))
    host: str | None = row["host"]
    return host


def _refuse_used(tx: Connection, subnet: RowMapping) -> None:
    query = (
        select(ports.c.device_owner, func.count().label("count"))
        .join(addresses, addresses.c.port_id == ports.c.id)
        .where(addresses.c.subnet_id == subnet["id"])
        .group_by(ports.c.device_owner)
    )
    names = {FLOATING_IP: "floating IPs", ROUTER_GATEWAY: "router gateways"}
    users = [f"{row.count} {names.get(row.device_owner, 'other ports')}" for row in tx.execute(query)]
    if users:
        raise SubnetInUse(
            f"Floating range {subnet['cidr']} is in use by {' and '.join(users)}: delete those first (see "
            "`openstack floating ip list` and `openstack router list`)."
        )
