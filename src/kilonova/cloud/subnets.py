"""Subnets as clients of the network API see and change them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import pairwise
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, select, update

from kilonova.cloud import network_hosts
from kilonova.cloud.controller import Cloud
from kilonova.cloud.network_lists import STANDARD_COLUMNS, Document, Resource, get_own, show, standard
from kilonova.cloud.networks import NETWORKS
from kilonova.context import Context
from kilonova.errors import BadRequest, Forbidden
from kilonova.network import quota
from kilonova.network.addresses import (
    LARGEST_OFFSET,
    Address,
    Network,
    default_ranges,
    define_pools,
    edges,
    usable,
)
from kilonova.network.errors import (
    GatewayConflictWithAllocationPools,
    InvalidAllocationPool,
    InvalidInput,
    OutOfBoundsAllocationPool,
    OverlappingAllocationPools,
    SubnetInUse,
    SubnetNotFound,
)
from kilonova.network.ipv6 import AUTOMATIC_PREFIX, LEAST_DHCP_PREFIX, LEAST_MTU, MODES, is_automatic
from kilonova.network.ports import (
    DHCP,
    ROUTER_INTERFACE,
    SERVICE_OWNERS,
    give_addresses_of_subnet,
    has_automatic_addresses,
)
from kilonova.network.subnets import add_service_address, insert_subnet, network_row, remove_service_address
from kilonova.network.texts import plain_address, plain_network
from kilonova.store.schema import addresses, allocation_pools, networks, ports, subnets

_PLAIN = ("name", "description", "dns_nameservers", "host_routes")
_NO_SUBNETS = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "127.0.0.0/8", "169.254.169.254/32", "224.0.0.0/3"),
        *("::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"),
    )
)
"""This network, loopback, the metadata service, link-local, multicast and what was reserved (RFC 6890)."""
_MODE_FIELDS = ("ipv6_ra_mode", "ipv6_address_mode")
_MOST_NAMESERVERS = 5
_MOST_ROUTES = 20

Range = tuple[int, int]


def documents(tx: Connection, rows: Sequence[RowMapping], context: Context) -> list[Document]:
    pools = allocation_pools
    query = select(pools.c.subnet_id, pools.c.first_offset, pools.c.last_offset).where(
        pools.c.subnet_id.in_([row["id"] for row in rows])
    )
    ranges: dict[str, list[Range]] = defaultdict(list)
    for subnet_id, first, last in tx.execute(query.order_by(pools.c.first_offset)):
        ranges[subnet_id].append((first, last))
    return [_document(row, ranges[row["id"]]) for row in rows]


def _document(row: RowMapping, ranges: list[Range]) -> Document:
    network = ip_network(row["cidr"])
    base = int(network.network_address)
    end = network.num_addresses - 1
    make = IPv4Address if network.version == 4 else IPv6Address
    return standard(row) | {
        "name": row["name"],
        "network_id": row["network_id"],
        "ip_version": row["ip_version"],
        "cidr": row["cidr"],
        "gateway_ip": row["gateway_ip"],
        "enable_dhcp": row["enable_dhcp"],
        "allocation_pools": [
            {"start": str(make(base + first)), "end": str(make(base + (end if last == LARGEST_OFFSET else last)))}
            for first, last in ranges
        ],
        "dns_nameservers": row["dns_nameservers"],
        "host_routes": row["host_routes"],
        "ipv6_address_mode": row["ipv6_address_mode"],
        "ipv6_ra_mode": row["ipv6_ra_mode"],
        "subnetpool_id": None,
    }


def _of_shared(_context: Context) -> ColumnElement[bool]:
    return subnets.c.network_id.in_(select(networks.c.id).where(networks.c.shared.is_(True)))


SUBNETS = Resource(
    noun="Subnet",
    table=subnets,
    columns=STANDARD_COLUMNS
    | {
        "network_id": "network_id",
        "ip_version": "ip_version",
        "cidr": "cidr",
        "gateway_ip": "gateway_ip",
        "enable_dhcp": "enable_dhcp",
        "ipv6_address_mode": "ipv6_address_mode",
        "ipv6_ra_mode": "ipv6_ra_mode",
    },
    documents=documents,
    not_found=SubnetNotFound,
    also_visible=_of_shared,
)


async def create(cloud: Cloud, context: Context, wanted: Sequence[Mapping[str, Any]]) -> list[Document]:
    """Make subnets, all or none. Raises `NotFound`, `QuotaExceeded`, `BadRequest`, `Conflict`, `Forbidden`.

    `gateway_ip` left out means the first address, `None` means no gateway; `allocation_pools` left out means all but
    the gateway.
    """

    def unit(tx: Connection) -> tuple[list[Document], set[str]]:
        made = [_create(tx, context, fields) for fields in wanted]
        return made, {host for item in made for host in network_hosts.of_network(tx, item["network_id"])}

    made, hosts = await cloud.store.write(unit)
    await cloud.wake_networks(hosts, context)
    return made


async def change(cloud: Cloud, context: Context, subnet_id: str, fields: Mapping[str, Any]) -> Document:
    """Change a subnet. Raises `NotFound`, `Forbidden`, `BadRequest`, `Conflict`."""
    document, hosts = await cloud.store.write(_change, context, subnet_id, fields)
    await cloud.wake_networks(hosts, context)
    return document


async def remove(cloud: Cloud, context: Context, subnet_id: str) -> None:
    """Delete a subnet. Raises `NotFound`, `Forbidden`, `InUse` saying by which ports."""
    await cloud.wake_networks(await cloud.store.write(_remove, context, subnet_id), context)


def _create(tx: Connection, context: Context, fields: Mapping[str, Any]) -> Document:
    network = get_own(tx, NETWORKS, context, fields["network_id"])
    owner = fields.get("project_id") or network["project_id"]
    if owner != network["project_id"] and not context.is_admin:
        raise Forbidden(f"project_id: network {network['id']} belongs to another project than {owner}.")
    quota.check(tx, owner, "subnet")
    cidr = _cidr(fields)
    modes = _modes(network, cidr, fields)
    _refuse_overlap(tx, network["id"], cidr)
    gateway = _gateway(cidr, fields)
    pools = fields.get("allocation_pools")
    ranges = default_ranges(cidr, gateway) if pools is None else parse_pools(cidr, pools)
    if gateway is not None:
        _refuse_gateway_in_pools(cidr, gateway, ranges)
    plain = _checked_plain(cidr, fields)
    subnet_id = insert_subnet(
        tx,
        network=network,
        project_id=owner,
        cidr=cidr,
        gateway=gateway,
        enable_dhcp=fields.get("enable_dhcp", True),
        ranges=ranges,
        **({"dns_nameservers": [], "host_routes": []} | modes | plain),
    )
    row = tx.execute(select(subnets).where(subnets.c.id == subnet_id)).mappings().one()
    if has_automatic_addresses(row):
        give_addresses_of_subnet(tx, row)
    return show(tx, SUBNETS, context, subnet_id)


def _cidr(fields: Mapping[str, Any]) -> Network:
    text = fields.get("cidr")
    if text is None:
        raise BadRequest("cidr: is needed; subnet pools are not supported yet.")
    try:
        network = plain_network(text)
    except ValueError:
        raise InvalidInput(f"Invalid input for cidr. Reason: '{text}' is not a valid IP subnet.") from None
    version = fields.get("ip_version", network.version)
    if version not in (4, 6):
        raise InvalidInput(f"Invalid input for ip_version. Reason: '{version}' is not in [4, 6].")
    if version != network.version:
        raise InvalidInput(f"Invalid input for operation: cidr '{text}' does not match the ip_version '{version}'.")
    if is_reserved(network):
        raise InvalidInput(f"Invalid input for cidr. Reason: {network} cannot be a subnet.")
    return network


def is_reserved(network: Network) -> bool:
    """Whether no host can have addresses of it."""
    return any(overlap(network, reserved) for reserved in _NO_SUBNETS)


def overlap(one: Network, other: Network) -> bool:
    return one.version == other.version and one.overlaps(other)


def _modes(network: RowMapping, cidr: Network, fields: Mapping[str, Any]) -> dict[str, str]:
    """The IPv6 modes of a new subnet. Raises `BadRequest` naming the field that is wrong."""
    modes = {name: fields[name] for name in _MODE_FIELDS if fields.get(name) is not None}
    if cidr.version == 4:
        for name in modes:
            raise InvalidInput(f"{name}: only an IPv6 subnet has it.")
        return {}
    for name, mode in modes.items():
        if mode not in MODES:
            raise InvalidInput(f"Invalid input for {name}. Reason: '{mode}' is not in {list(MODES)}.")
    if network["mtu"] < LEAST_MTU:
        raise InvalidInput(
            f"cidr: network {network['id']} has an MTU of {network['mtu']} bytes, IPv6 needs {LEAST_MTU} or more."
        )
    if not modes:
        return {}
    if not fields.get("enable_dhcp", True):
        raise InvalidInput("ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False.")
    if len(set(modes.values())) > 1:
        raise InvalidInput(
            f"ipv6_ra_mode set to '{modes['ipv6_ra_mode']}' with ipv6_address_mode set to "
            f"'{modes['ipv6_address_mode']}' is not valid. If both attributes are set, they must be the same value."
        )
    if is_automatic(fields.get("ipv6_address_mode"), fields.get("ipv6_ra_mode")):
        if cidr.prefixlen != AUTOMATIC_PREFIX:
            raise InvalidInput(
                f"Invalid CIDR {cidr} for IPv6 address mode. Guests make EUI-64 addresses, which requires the prefix "
                f"to be /{AUTOMATIC_PREFIX}."
            )
    elif modes.get("ipv6_address_mode") and cidr.prefixlen < LEAST_DHCP_PREFIX:
        raise InvalidInput(f"cidr: {cidr} is too large for DHCPv6, which serves prefixes of /{LEAST_DHCP_PREFIX} on.")
    return modes


def _refuse_overlap(tx: Connection, network_id: str, cidr: Network) -> None:
    query = select(subnets.c.id, subnets.c.cidr).where(subnets.c.network_id == network_id)
    for row in tx.execute(query.where(subnets.c.ip_version == cidr.version)):
        if ip_network(row.cidr).overlaps(cidr):
            raise InvalidInput(
                f"Invalid input for operation: Requested subnet with cidr: {cidr} for network: {network_id} overlaps "
                f"with another subnet: {row.id} ({row.cidr})."
            )


def _gateway(cidr: Network, fields: Mapping[str, Any]) -> Address | None:
    if "gateway_ip" not in fields:
        first, last = usable(cidr)
        return cidr[first] if first < last else None
    return None if fields["gateway_ip"] is None else _checked_gateway(cidr, fields["gateway_ip"])


def _checked_gateway(cidr: Network, text: str) -> Address:
    try:
        address = plain_address(text)
    except ValueError:
        raise InvalidInput(f"Invalid input for gateway_ip. Reason: '{text}' is not a valid IP address.") from None
    if isinstance(address, IPv6Address) and address.is_link_local and cidr.version == 6:
        return address  # a router of the administrator's, known by its link-local address (RFC 4291, section 2.5.6)
    if address.version != cidr.version or address not in cidr or address in edges(cidr):
        raise InvalidInput(f"gateway_ip: {text} is not a usable address of {cidr}.")
    return address


def _refuse_gateway_in_pools(cidr: Network, gateway: Address, ranges: Sequence[Range]) -> None:
    offset = int(gateway) - int(cidr.network_address)
    for first, last in ranges:
        if first <= offset <= last:
            raise GatewayConflictWithAllocationPools(
                f"Gateway ip {gateway} conflicts with allocation pool {cidr[first]}-{cidr[last]}."
            )


def parse_pools(cidr: Network, pools: Sequence[Mapping[str, str]]) -> list[Range]:
    """The offsets of pools given as {"start", "end"}. Raises `BadRequest` or `Conflict` naming the pool."""
    ranges: list[Range] = []
    base = int(cidr.network_address)
    least, most = usable(cidr)
    for pool in pools:
        try:
            start, end = plain_address(pool["start"]), plain_address(pool["end"])
        except (ValueError, KeyError):
            raise InvalidInput(f"allocation_pools: {dict(pool)} is not a start and an end address.") from None
        text = f"{start}-{end}"
        if start.version != cidr.version or end.version != cidr.version or int(end) < int(start):
            raise InvalidAllocationPool(f"The allocation pool {text} is not valid.")
        first, last = int(start) - base, int(end) - base
        if first < least or last > most:
            raise OutOfBoundsAllocationPool(f"The allocation pool {text} spans beyond the subnet cidr {cidr}.")
        if last == most:
            last = min(last, LARGEST_OFFSET)
        if max(first, last) > LARGEST_OFFSET:
            raise InvalidAllocationPool(
                f"The allocation pool {text} is not valid: pools lie in the first 2^63 addresses of {cidr}, or end "
                "with its last one."
            )
        ranges.append((first, last))
    ranges.sort()
    for (_, one), (other, _) in pairwise(ranges):
        if other <= one:
            raise OverlappingAllocationPools(f"Found overlapping allocation pools for subnet {cidr}.")
    return ranges


def _checked_plain(cidr: Network, fields: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: fields[name] for name in _PLAIN if name in fields}
    servers = values.get("dns_nameservers", [])
    if len(servers) > _MOST_NAMESERVERS:
        raise BadRequest(f"dns_nameservers: {len(servers)} are more than {_MOST_NAMESERVERS}.")
    if len(set(servers)) != len(servers):
        raise InvalidInput("dns_nameservers: a name server is there twice.")
    for server in servers:
        try:
            version = plain_address(server).version
        except ValueError:
            raise InvalidInput(f"dns_nameservers: '{server}' is not a valid nameserver address.") from None
        if version != cidr.version:
            raise InvalidInput(f"dns_nameservers: '{server}' is not of the subnet's IP version {cidr.version}.")
    routes = values.get("host_routes", [])
    if len(routes) > _MOST_ROUTES:
        raise BadRequest(f"host_routes: {len(routes)} are more than {_MOST_ROUTES}.")
    checked = [checked_route(route, "host_routes") for route in routes]
    for route in checked:
        if ip_network(route["destination"]).version != cidr.version:
            raise InvalidInput(f"host_routes: {route} is not of the subnet's IP version {cidr.version}.")
    if len({tuple(route.items()) for route in checked}) != len(checked):
        raise InvalidInput("host_routes: a route is there twice.")
    return values | ({"host_routes": checked} if checked else {})


def checked_route(route: Mapping[str, str], name: str) -> dict[str, str]:
    """A route in canonical form. Raises `BadRequest` naming it."""
    try:
        destination, hop = plain_network(route["destination"]), plain_address(route["nexthop"])
    except (ValueError, KeyError):
        raise InvalidInput(f"{name}: {dict(route)} is not a destination and a nexthop.") from None
    if destination.version != hop.version:
        raise InvalidInput(f"{name}: {destination} and {hop} are of different IP versions.")
    return {"destination": str(destination), "nexthop": str(hop)}


def _change(tx: Connection, context: Context, subnet_id: str, fields: Mapping[str, Any]) -> tuple[Document, set[str]]:
    row = get_own(tx, SUBNETS, context, subnet_id)
    cidr = ip_network(row["cidr"])
    values = _checked_plain(cidr, fields)
    gateway = None if row["gateway_ip"] is None else ip_address(row["gateway_ip"])
    if "gateway_ip" in fields:
        gateway = None if fields["gateway_ip"] is None else _checked_gateway(cidr, fields["gateway_ip"])
        values["gateway_ip"] = None if gateway is None else str(gateway)
        if values["gateway_ip"] != row["gateway_ip"]:
            _refuse_gateway_in_use(tx, row)
            _refuse_held_gateway(tx, row, values["gateway_ip"])
    if "allocation_pools" in fields or "gateway_ip" in fields:
        pools = fields.get("allocation_pools")
        ranges = _ranges_of(tx, subnet_id) if pools is None else parse_pools(cidr, pools)
        if gateway is not None:
            _refuse_gateway_in_pools(cidr, gateway, ranges)
        if pools is not None:
            define_pools(tx, subnet_id, ranges)
    network = network_row(tx, row["network_id"])
    if "enable_dhcp" in fields:
        values["enable_dhcp"] = fields["enable_dhcp"]
        if not fields["enable_dhcp"] and any(row[name] for name in _MODE_FIELDS):
            raise InvalidInput("enable_dhcp: cannot be disabled when ipv6_ra_mode or ipv6_address_mode is set.")
    if values:
        tx.execute(update(subnets).where(subnets.c.id == subnet_id).values(**values, revision=subnets.c.revision + 1))
    if fields.get("enable_dhcp", row["enable_dhcp"]) is not row["enable_dhcp"] and not network["external"]:
        if fields["enable_dhcp"]:
            add_service_address(tx, network, subnet_id)
        else:
            remove_service_address(tx, subnet_id)
    return show(tx, SUBNETS, context, subnet_id), network_hosts.of_network(tx, row["network_id"])


def _ranges_of(tx: Connection, subnet_id: str) -> list[Range]:
    pools = allocation_pools
    query = select(pools.c.first_offset, pools.c.last_offset).where(pools.c.subnet_id == subnet_id)
    return [(first, last) for first, last in tx.execute(query.order_by(pools.c.first_offset))]


def _refuse_gateway_in_use(tx: Connection, subnet: RowMapping) -> None:
    query = (
        select(ports.c.id)
        .join(addresses, addresses.c.port_id == ports.c.id)
        .where(
            addresses.c.subnet_id == subnet["id"],
            addresses.c.address == subnet["gateway_ip"],
            ports.c.device_owner == ROUTER_INTERFACE,
        )
    )
    port = tx.execute(query).first()
    if port is not None:
        raise SubnetInUse(
            f"Current gateway ip {subnet['gateway_ip']} already in use by port {port.id}. Unable to update."
        )


def _refuse_held_gateway(tx: Connection, subnet: RowMapping, gateway: str | None) -> None:
    query = select(addresses.c.port_id).where(addresses.c.subnet_id == subnet["id"], addresses.c.address == gateway)
    port = tx.execute(query).first()
    if port is not None:
        holder = f"port {port.port_id}" if port.port_id else "its host, which has not yet forgotten it,"
        raise SubnetInUse(f"gateway_ip: {gateway} is the address that {holder} has in subnet {subnet['id']}.")


def _remove(tx: Connection, context: Context, subnet_id: str) -> set[str]:
    row = get_own(tx, SUBNETS, context, subnet_id)
    hosts = network_hosts.of_network(tx, row["network_id"])
    query = (
        select(ports.c.id, ports.c.device_owner)
        .join(addresses, addresses.c.port_id == ports.c.id)
        .where(addresses.c.subnet_id == subnet_id, ports.c.device_owner != DHCP)
    )
    if has_automatic_addresses(row):  # guests' addresses come and go with the prefix; routers and gateways hold it
        query = query.where(ports.c.device_owner.in_(SERVICE_OWNERS))
    users = tx.execute(query.limit(5)).all()
    if users:
        named = ", ".join(f"{user.id} ({user.device_owner or 'no device'})" for user in users)
        raise SubnetInUse(
            f"Unable to complete operation on subnet {subnet_id}: One or more ports have an IP allocation from this "
            f"subnet: {named}."
        )
    remove_service_address(tx, subnet_id)
    tx.execute(delete(addresses).where(addresses.c.subnet_id == subnet_id))
    tx.execute(delete(subnets).where(subnets.c.id == subnet_id))
    return hosts
