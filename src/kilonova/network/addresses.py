"""Hands out the addresses of a subnet, inside a transaction of the store. Never twice, never a reserved one.

`allocate` takes the oldest freed address, else the next one no cursor has passed; its cost does not grow with the
addresses in use. What was released is handed out again only after `kilonova.store.addresses.confirm_forgotten`.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from sqlalchemy import Connection, RowMapping, bindparam, delete, func, insert, select

from kilonova.errors import AlreadyExists, BadRequest, NoMoreAddresses
from kilonova.ids import new_id
from kilonova.network.errors import InvalidIpForSubnet, IpAddressAlreadyAllocated
from kilonova.network.texts import plain_address
from kilonova.store import statements
from kilonova.store.schema import addresses, allocation_pools, reusable_addresses

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LARGEST_OFFSET = 2**63 - 1
"""What an offset's column holds; an IPv6 subnet is used up to there."""


def allocate(tx: Connection, subnet: RowMapping, port_id: str) -> str:
    """Give a port an address of the subnet (a row of `subnets`). Raises `NoMoreAddresses`."""
    address = _reuse(tx, subnet) or _advance(tx, subnet)
    if address is None:
        raise NoMoreAddresses(
            f"No more IP addresses available on network {subnet['network_id']}: "
            f"all {size_of(tx, subnet['id'])} addresses "
            f"of subnet {subnet['id']} ({subnet['cidr']}) are in use or still held; delete ports or add a subnet."
        )
    _take(tx, subnet, address, port_id)
    return address


def allocate_specific(
    tx: Connection, subnet: RowMapping, port_id: str, wanted: str, *, is_gateway: bool = False
) -> str:
    """Give a port the address it asks for; `is_gateway` allows the gateway's, for a router's own interface.

    Raises `AlreadyExists` when a port has it or a holder has not yet forgotten it, `BadRequest` when it is not of the
    subnet or reserved.
    """
    address = parsed(wanted)
    network = ip_network(subnet["cidr"])
    if address.version != network.version or address not in network:
        raise InvalidIpForSubnet(
            f"fixed_ips: IP address {wanted} is not a valid IP for the specified subnet {subnet['id']} ({network})."
        )
    if address in edges(network):
        raise InvalidIpForSubnet(f"fixed_ips: {address} is reserved in {network}: the network or broadcast address.")
    if not is_gateway and subnet["gateway_ip"] is not None and address == ip_address(subnet["gateway_ip"]):
        raise InvalidIpForSubnet(f"fixed_ips: {address} is reserved in {network}: the gateway's address.")
    text = str(address)
    query = select(addresses.c.port_id).where(addresses.c.subnet_id == subnet["id"], addresses.c.address == text)
    holder = tx.execute(query).one_or_none()
    if holder is not None:
        if holder.port_id is None:
            raise AlreadyExists(f"IP address {text} was released but not yet forgotten by its host: try again shortly.")
        raise IpAddressAlreadyAllocated(f"IP address {text} already allocated in subnet {subnet['id']}")
    tx.execute(
        delete(reusable_addresses).where(
            reusable_addresses.c.subnet_id == subnet["id"], reusable_addresses.c.address == text
        )
    )
    _take(tx, subnet, text, port_id)
    return text


def define_pools(tx: Connection, subnet_id: str, ranges: list[tuple[int, int]]) -> None:
    """Make (first, last) offsets the pools of the subnet, replacing those it has; what is in use stays in use."""
    tx.execute(delete(allocation_pools).where(allocation_pools.c.subnet_id == subnet_id))
    tx.execute(delete(reusable_addresses).where(reusable_addresses.c.subnet_id == subnet_id))
    rows = [
        {
            "id": new_id(),
            "subnet_id": subnet_id,
            "first_offset": first,
            "last_offset": last,
            "next_offset": first,
        }
        for first, last in sorted(ranges)
    ]
    if rows:
        tx.execute(insert(allocation_pools), rows)


def default_ranges(network: Network, gateway: Address | None) -> list[tuple[int, int]]:
    """All of a subnet but its edges and gateway, as (first, last) offsets."""
    first, last = usable(network)
    last = min(last, LARGEST_OFFSET)
    if gateway is None or gateway not in network:
        return [(first, last)] if first <= last else []
    middle = int(gateway) - int(network.network_address)
    parts = ((first, min(middle - 1, last)), (max(middle + 1, first), last))
    return [(a, b) for a, b in parts if a <= b]


def usable(network: Network) -> tuple[int, int]:
    """The first and last offset that a guest may have; a /31 and a /32 have no edges (RFC 3021)."""
    last = network.num_addresses - 1
    if network.prefixlen >= network.max_prefixlen - 1:
        return 0, last
    return 1, last - 1 if network.version == 4 else last


def without(network: IPv4Network, exclude: Sequence[str | IPv4Address]) -> list[tuple[int, int]]:
    """The usable offsets of a range but the excluded addresses and CIDRs, as (first, last). Raises `BadRequest`."""
    base = int(network.network_address)
    first, last = usable(network)
    gaps: list[tuple[int, int]] = []
    for item in exclude:
        try:
            gap = ip_network(item)
        except ValueError as error:
            raise BadRequest(f"exclude: {error}.") from None
        if isinstance(gap, IPv6Network) or not gap.subnet_of(network):
            raise BadRequest(f"exclude: {gap} is not in {network}.")
        gaps.append((int(gap.network_address) - base, int(gap.broadcast_address) - base))
    ranges: list[tuple[int, int]] = []
    for low, high in sorted(gaps):
        if first < low:
            ranges.append((first, low - 1))
        first = max(first, high + 1)
    if first <= last:
        ranges.append((first, last))
    return ranges


def edges(network: Network) -> set[Address]:
    """The addresses of a subnet that nobody may have: the network's and, in IPv4, the broadcast address."""
    if network.prefixlen >= network.max_prefixlen - 1:
        return set()
    if network.version == 4:
        return {network.network_address, network.broadcast_address}
    return {network.network_address}


def size_of(tx: Connection, subnet_id: str) -> int:
    """How many addresses the subnet's pools hold, free or not."""
    query = select(func.sum(allocation_pools.c.last_offset - allocation_pools.c.first_offset + 1))
    return int(tx.execute(query.where(allocation_pools.c.subnet_id == subnet_id)).scalar_one() or 0)


def _take(tx: Connection, subnet: RowMapping, address: str, port_id: str) -> None:
    held = {"subnet_id": subnet["id"], "address": address, "network_id": subnet["network_id"]}
    statements.add(tx, addresses, **held, port_id=port_id)


def _reuse(tx: Connection, subnet: RowMapping) -> str | None:
    """The address that has been free for longest."""
    address: str | None = tx.execute(_OLDEST_FREED, {"subnet_id": subnet["id"]}).scalar_one_or_none()
    if address is not None:
        statements.remove(tx, reusable_addresses, subnet_id=subnet["id"], address=address)
    return address


_OLDEST_FREED = (
    select(reusable_addresses.c.address)
    .where(reusable_addresses.c.subnet_id == bindparam("subnet_id"))
    .order_by(reusable_addresses.c.freed_at, reusable_addresses.c.address)
    .limit(1)
    .with_for_update(skip_locked=True)
)


def _advance(tx: Connection, subnet: RowMapping) -> str | None:
    """The next address that no cursor has passed and nobody holds; the cursor moves behind it for good."""
    base = int(ip_network(subnet["cidr"]).network_address)
    make = IPv4Address if subnet["ip_version"] == 4 else IPv6Address
    gateway = None if subnet["gateway_ip"] is None else str(ip_address(subnet["gateway_ip"]))
    for pool in tx.execute(_POOLS_WITH_MORE, {"subnet_id": subnet["id"]}).all():
        found = None
        offset = pool.next_offset
        while found is None and offset <= pool.last_offset:
            candidate = str(make(base + offset))
            offset += 1
            if candidate != gateway and not _is_held(tx, subnet["id"], candidate):
                found = candidate
        statements.change(tx, allocation_pools, {"id": pool.id}, next_offset=offset)
        if found is not None:
            return found
    return None


_POOLS_WITH_MORE = (
    select(allocation_pools.c.id, allocation_pools.c.next_offset, allocation_pools.c.last_offset)
    .where(
        allocation_pools.c.subnet_id == bindparam("subnet_id"),
        allocation_pools.c.next_offset <= allocation_pools.c.last_offset,
    )
    .order_by(allocation_pools.c.first_offset)
    .with_for_update()
)


def _is_held(tx: Connection, subnet_id: str, address: str) -> bool:
    return statements.rows(tx, addresses, subnet_id=subnet_id, address=address).first() is not None


def parsed(text: str) -> Address:
    """An address that a client named. Raises `BadRequest`."""
    try:
        return plain_address(text)
    except ValueError:
        raise BadRequest(f"ip_address: '{text}' is not a valid IP address.") from None
