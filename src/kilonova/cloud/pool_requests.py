"""What `kilonova network create` is told, checked before any row is written: sizes, ids, ports, overlaps, bridges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_network

from sqlalchemy import Connection, func, or_, select

from kilonova.cloud.subnets import is_reserved
from kilonova.config import Config
from kilonova.errors import BadRequest, Conflict
from kilonova.network.addresses import without
from kilonova.network.errors import NotSupportedYet
from kilonova.network.managers import Manager, able_hosts, manager_named
from kilonova.network.managers.wires import HostWires
from kilonova.network.texts import plain_address
from kilonova.store.schema import networks, pool_networks, subnets

SMALLEST_NETWORK = 8
"""Room for the network's, gateway's, services' and broadcast address and some guests."""
LARGEST_PORT = 65535


@dataclass(frozen=True)
class PoolRequest:
    """What `network create` is told; what is left out is as in 2010: 1000 networks of 256 in 10.0.0.0/8, from VLAN 100
    and VPN port 1000 on. A flat network is one: the whole `fixed_range`, which must be given."""

    fixed_range: str | None = None
    num_networks: int | None = None
    network_size: int | None = None
    vlan_start: int | None = None
    """The first VLAN id, or of vxlan the first VNI."""
    vpn_start: int | None = None
    manager: str = "vlan"
    physical_network: str = ""
    gateway: str | None = None
    """Of a flat network: the administrator's way out; none: its first address."""
    exclude: tuple[str, ...] = ()
    """Of a flat network: addresses and CIDRs that the cloud does not give."""


@dataclass(frozen=True)
class Item:
    """One network to add."""

    cidr: IPv4Network
    segmentation_id: int | None
    bridge: str
    vpn_port: int | None


@dataclass(frozen=True)
class Plan:
    """All networks to add; the fields after them are a shared network's."""

    manager: str
    physical_network: str
    networks: tuple[Item, ...]
    is_shared: bool = False
    has_dhcp: bool = True
    host: str | None = None
    gateway: IPv4Address | None = None
    ranges: list[tuple[int, int]] | None = None


def plan_of(tx: Connection, config: Config, request: PoolRequest, hosts: Sequence[HostWires]) -> Plan:
    """The networks to add. Raises `BadRequest` naming the field, or `Conflict` naming what is in the way."""
    manager = manager_named(request.manager)
    physical = manager.physical_network(config, request.physical_network)
    plan = _flat if manager.is_shared else _private
    return plan(tx, config, request, manager, physical, hosts)


def _private(
    tx: Connection,
    config: Config,
    request: PoolRequest,
    manager: Manager,
    physical: str,
    hosts: Sequence[HostWires],
) -> Plan:
    for name in ("gateway", "exclude"):
        if getattr(request, name):
            raise BadRequest(f"{name}: only a flat network has one; a {manager.name} network's router is the cloud's.")
    count = 1000 if request.num_networks is None else request.num_networks
    whole = _range("10.0.0.0/8" if request.fixed_range is None else request.fixed_range)
    cut = _cut(whole, count, request.network_size)
    first_id = 100 if request.vlan_start is None else request.vlan_start
    first_port = 1000 if request.vpn_start is None else request.vpn_start
    manager.check(physical, first_id, first_id + count - 1)
    if first_port < 1 or first_port + count - 1 > LARGEST_PORT:
        raise BadRequest(
            f"vpn_start: the ports {first_port} to {first_port + count - 1} do not fit into 1 to {LARGEST_PORT}."
        )
    _refuse_overlaps(tx, cut[0].network_address, cut[-1].broadcast_address)
    _refuse_taken_ids(tx, manager, physical, first_id, count)
    _refuse_taken_ports(tx, first_port, count)
    items = tuple(
        Item(cidr, first_id + i, manager.bridge_name(config, physical, first_id + i, hosts), first_port + i)
        for i, cidr in enumerate(cut)
    )
    return Plan(manager.name, physical, items)


def _flat(
    tx: Connection,
    config: Config,
    request: PoolRequest,
    manager: Manager,
    physical: str,
    hosts: Sequence[HostWires],
) -> Plan:
    for name in ("vlan_start", "vpn_start"):
        if getattr(request, name) is not None:
            raise BadRequest(f"{name}: a {manager.name} network has neither a VLAN id nor a VPN port.")
    if request.fixed_range is None:
        raise BadRequest(f"fixed_range: a {manager.name} network needs the subnet of your bridge.")
    if request.num_networks not in (None, 1):
        raise BadRequest(f"num_networks: {request.num_networks}: a {manager.name} network is one per physical network.")
    whole = _range(request.fixed_range)
    if request.network_size not in (None, whole.num_addresses):
        raise BadRequest(f"network_size: a {manager.name} network is the whole of {whole}, leave it out.")
    if whole.num_addresses < SMALLEST_NETWORK:
        raise BadRequest(f"fixed_range: {whole} is too small, {SMALLEST_NETWORK} addresses are the least.")
    gateway = _gateway(whole, request.gateway)
    ranges = without(whole, [gateway, *request.exclude])
    if not ranges:
        raise BadRequest(f"exclude: nothing of {whole} is left to give.")
    bridge = manager.bridge_name(config, physical, None, hosts)
    _refuse_overlaps(tx, whole.network_address, whole.broadcast_address)
    _refuse_taken_bridge(tx, config, physical, bridge)
    with_bridge = [host for host in hosts if physical in host.flat_bridges]
    able, why_not = able_hosts(manager, physical, with_bridge)
    if not able:
        raise BadRequest(f"physical_network: no host can carry {physical}: {why_not}.")
    return Plan(
        manager.name,
        physical,
        (Item(whole, None, bridge, None),),
        is_shared=True,
        has_dhcp=manager.has_dhcp,
        host=able[0],
        gateway=gateway,
        ranges=ranges,
    )


def _range(text: str) -> IPv4Network:
    try:
        whole = ip_network(text)
    except ValueError as error:
        raise BadRequest(f"fixed_range: {error}.") from None
    if isinstance(whole, IPv6Network):
        raise NotSupportedYet(f"fixed_range: {whole} is IPv6, which the pool does not have yet.")
    if is_reserved(whole):
        raise BadRequest(f"fixed_range: {whole} has addresses that no host can have.")
    return whole


def _cut(whole: IPv4Network, count: int, asked: int | None) -> list[IPv4Network]:
    """The networks to make, in order. Raises `BadRequest` naming the number that does not fit."""
    size = 256 if asked is None else asked
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


def _gateway(whole: IPv4Network, asked: str | None) -> IPv4Address:
    if asked is None:
        return whole[1]
    try:
        address = plain_address(asked)
    except ValueError:
        raise BadRequest(f"gateway: '{asked}' is not an address.") from None
    if not isinstance(address, IPv4Address) or address not in whole or address in (whole[0], whole[-1]):
        raise BadRequest(f"gateway: {asked} is not a usable address of {whole}.")
    return address


def _refuse_overlaps(tx: Connection, first: IPv4Address, last: IPv4Address) -> None:
    query = select(pool_networks.c.cidr.label("cidr"), pool_networks.c.bridge.label("name"))
    ranges = select(subnets.c.cidr, networks.c.name).join(networks, networks.c.id == subnets.c.network_id)
    for row in [
        *tx.execute(query),
        *tx.execute(ranges.where(networks.c.external.is_(True), subnets.c.ip_version == 4)),
    ]:
        other = IPv4Network(row.cidr)
        if other.network_address <= last and other.broadcast_address >= first:
            raise Conflict(
                f"fixed_range: {first} to {last} overlaps {other} ({row.name}): choose another --fixed-range."
            )


def _refuse_taken_ids(tx: Connection, manager: Manager, physical: str, first: int, count: int) -> None:
    for table, owner in ((pool_networks, "the pool"), (networks, "a network")):
        query = select(func.min(table.c.segmentation_id)).where(
            table.c.physical_network == physical, table.c.segmentation_id.between(first, first + count - 1)
        )
        taken = tx.execute(query).scalar_one()
        if taken is not None:
            where = "" if manager.name == "vxlan" else f" of {physical}"
            raise Conflict(
                f"vlan_start: {manager.id_noun} {taken}{where} belongs to {owner}: choose another --vlan-start."
            )


def _refuse_taken_ports(tx: Connection, first: int, count: int) -> None:
    query = select(func.min(pool_networks.c.vpn_port)).where(pool_networks.c.vpn_port.between(first, first + count - 1))
    port = tx.execute(query).scalar_one()
    if port is not None:
        raise Conflict(f"vpn_start: VPN port {port} belongs to the pool already: choose another --vpn-start.")


def _refuse_taken_bridge(tx: Connection, config: Config, physical: str, bridge: str) -> None:
    """The administrator's bridge may carry one flat network, and none of the cloud's own."""
    if bridge == config.host.public_bridge:
        raise Conflict(f"physical_network: the bridge {bridge} of {physical} is that of the external network.")
    for table, owner in ((pool_networks, "the pool"), (networks, "network")):
        query = select(table.c.id).where(
            or_(
                table.c.bridge == bridge,
                (table.c.physical_network == physical) & table.c.segmentation_id.is_(None),
            )
        )
        taken = tx.execute(query.limit(1)).scalar_one_or_none()
        if taken is not None:
            raise Conflict(
                f"physical_network: {physical} has its flat network already, or its bridge {bridge} is in use, by "
                f"{owner} ({taken})."
            )
