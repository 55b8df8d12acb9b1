"""The rows of a new subnet: pools, and the port at which its DHCP, DNS and metadata services answer."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select, update

from kilonova.ids import SubnetId, new_id
from kilonova.network.addresses import default_ranges, define_pools
from kilonova.network.ports import DHCP, FixedIp, give_addresses, make_port
from kilonova.store import addresses as held
from kilonova.store.ports import release_port
from kilonova.store.schema import addresses, networks, ports, subnets


def insert_subnet(
    tx: Connection,
    *,
    network: RowMapping,
    project_id: str,
    cidr: IPv4Network | IPv6Network,
    gateway: IPv4Address | IPv6Address | None,
    enable_dhcp: bool = True,
    ranges: list[tuple[int, int]] | None = None,
    **columns: Any,
) -> SubnetId:
    """Insert a subnet of a network (a row of `networks`); `ranges` are offsets, none: all but edges and gateway.

    Raises `NoMoreAddresses` when DHCP is wanted and no address is left for it.
    """
    subnet_id = SubnetId(new_id())
    tx.execute(
        insert(subnets).values(
            id=subnet_id,
            network_id=network["id"],
            project_id=project_id,
            ip_version=cidr.version,
            cidr=str(cidr),
            gateway_ip=None if gateway is None else str(gateway),
            enable_dhcp=enable_dhcp,
            **columns,
        )
    )
    define_pools(tx, subnet_id, default_ranges(cidr, gateway) if ranges is None else ranges)
    if enable_dhcp and not network["external"]:
        add_service_address(tx, network, subnet_id)
    return subnet_id


def add_service_address(tx: Connection, network: RowMapping, subnet_id: str) -> None:
    """Give the subnet's services an address: the first of its pool, on the network's port of the cloud's own."""
    query = select(ports).where(ports.c.network_id == network["id"], ports.c.device_owner == DHCP)
    port = tx.execute(query.order_by(ports.c.created_at, ports.c.id).limit(1)).mappings().one_or_none()
    wanted = [FixedIp(subnet_id)]
    if port is None:
        given = make_port(
            tx,
            network_id=network["id"],
            project_id=network["project_id"],
            device_owner=DHCP,
            device_id=f"dhcp-{network['id']}",
            host=network["host"] or "",
            fixed_ips=wanted,
        ).fixed_ips
    else:
        given = give_addresses(tx, port["id"], network["id"], wanted, mac=port["mac"], device_owner=DHCP)
    tx.execute(update(subnets).where(subnets.c.id == subnet_id).values(service_address=given[0].address))


def remove_service_address(tx: Connection, subnet_id: str) -> None:
    """The subnet's services end; with the last subnet's their port goes."""
    query = (
        select(ports.c.id, ports.c.mac, ports.c.host, addresses.c.address)
        .join(addresses, addresses.c.port_id == ports.c.id)
        .where(addresses.c.subnet_id == subnet_id, ports.c.device_owner == DHCP)
    )
    for row in tx.execute(query).all():
        held.release(tx, row.id, mac=row.mac, host=row.host, only=[row.address])
        if tx.execute(select(addresses.c.address).where(addresses.c.port_id == row.id).limit(1)).first() is None:
            release_port(tx, row.id)
    tx.execute(update(subnets).where(subnets.c.id == subnet_id).values(service_address=None))


def network_row(tx: Connection, network_id: str) -> RowMapping:
    return tx.execute(select(networks).where(networks.c.id == network_id)).mappings().one()
