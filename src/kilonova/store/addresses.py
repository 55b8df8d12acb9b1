"""Releasing addresses: what a port held is handed out again only after every holder has forgotten it.

Releasing keeps the row without a port; the network agents see it, remove what they hold and confirm. Only then may the
allocator (`kilonova.network.addresses`) hand the address out again.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from sqlalchemy import Connection, and_, delete, exists, insert, select, update

from kilonova.store.schema import addresses, allocation_pools, now, pool_networks, reusable_addresses, subnets

_OFFSET_BITS = 63
"""Of the columns that hold a pool's offsets."""


def release(tx: Connection, port_id: str, *, mac: str, host: str, only: Iterable[str] | None = None) -> int:
    """Take the addresses of a port (or `only` these) away from it; how many. Their rows stay until forgotten."""
    query = update(addresses).where(addresses.c.port_id == port_id)
    if only is not None:
        query = query.where(addresses.c.address.in_(sorted(only)))
    released = {"port_id": None, "released_at": now(), "released_mac": mac, "released_host": host or None}
    return tx.execute(query.values(**released)).rowcount


def confirm_forgotten(tx: Connection, rows: Iterable[tuple[str, str]]) -> int:
    """Every holder of these (subnet id, address) has forgotten them: they may be handed out again; how many did.

    An address that the cursor of its pool has passed waits among the reusable ones; any other is found by the cursor.
    A row that was taken again or confirmed before is passed over, so confirming twice does no harm.
    """
    freed = 0
    moment = now()
    for subnet_id, address in rows:
        gone = tx.execute(
            delete(addresses).where(
                addresses.c.subnet_id == subnet_id, addresses.c.address == address, addresses.c.port_id.is_(None)
            )
        )
        if not gone.rowcount:
            continue
        freed += 1
        cidr = tx.execute(select(subnets.c.cidr).where(subnets.c.id == subnet_id)).scalar_one_or_none()
        if cidr is None:
            continue
        offset = int(ip_address(address)) - int(ip_network(cidr).network_address)
        if offset.bit_length() > _OFFSET_BITS:
            continue  # past every pool, as the addresses that guests of IPv6 make themselves are
        passed = select(
            exists().where(
                and_(
                    allocation_pools.c.subnet_id == subnet_id,
                    allocation_pools.c.first_offset <= offset,
                    allocation_pools.c.last_offset >= offset,
                    allocation_pools.c.next_offset > offset,
                )
            )
        )
        if tx.execute(passed).scalar_one():
            tx.execute(insert(reusable_addresses).values(subnet_id=subnet_id, address=address, freed_at=moment))
    return freed


def confirm_pool_network_forgotten(tx: Connection, pool_network_id: str) -> None:
    """The network host has forgotten a network that was given back: it is free."""
    released = (pool_networks.c.id == pool_network_id, pool_networks.c.released_at.is_not(None))
    free = {"project_id": None, "network_id": None, "released_at": None, "released_host": None}
    tx.execute(update(pool_networks).where(*released).values(**free))
