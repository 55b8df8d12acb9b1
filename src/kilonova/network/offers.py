"""What the pool has to give: how many networks of each manager, and the one that is handed out next."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, RowMapping, case, func, or_, select

from kilonova.network.managers import SHARED
from kilonova.scheduler.network_type import Offer
from kilonova.store.schema import allocation_pools, pool_networks, reusable_addresses, subnets


def load_offers(tx: Connection) -> list[Offer]:
    """Every manager and physical network of the pool, in two queries."""
    pool = pool_networks.c
    free = _is_free()
    query = (
        select(
            pool.manager,
            pool.physical_network,
            func.count().label("total"),
            func.count(case((free, 1))).label("free"),
            func.min(case((free, pool.position))).label("position"),
        )
        .where(pool.manager.not_in(SHARED))
        .group_by(pool.manager, pool.physical_network)
    )
    offers = [
        Offer(row.manager, row.physical_network, row.total, row.free, row.position or 0) for row in tx.execute(query)
    ]
    has_address = subnets.c.id.in_(
        select(allocation_pools.c.subnet_id).where(allocation_pools.c.next_offset <= allocation_pools.c.last_offset)
    ) | subnets.c.id.in_(select(reusable_addresses.c.subnet_id))
    shared = (
        select(pool.manager, pool.physical_network, pool.position, func.count(case((has_address, 1))).label("free"))
        .outerjoin(subnets, subnets.c.network_id == pool.network_id)
        .where(pool.manager.in_(SHARED))
        .group_by(pool.id, pool.manager, pool.physical_network, pool.position)
    )
    return offers + [
        Offer(row.manager, row.physical_network, 1, min(row.free, 1), row.position) for row in tx.execute(shared)
    ]


def next_network(tx: Connection, manager: str, physical_network: str) -> RowMapping | None:
    """The pool network of this manager that is handed out next; a shared one is handed out again and again."""
    pool = pool_networks.c
    query = select(pool_networks).where(pool.manager == manager, pool.physical_network == physical_network)
    if manager not in SHARED:
        query = query.where(_is_free())
    return tx.execute(query.order_by(pool.position).limit(1).with_for_update()).mappings().one_or_none()


def is_named(name: str) -> ColumnElement[bool]:
    """That a pool network has this id, network's id, CIDR or bridge."""
    pool = pool_networks.c
    return or_(pool.id == name, pool.network_id == name, pool.cidr == name, pool.bridge == name)


def pool_network(tx: Connection, name: str) -> RowMapping | None:
    """The pool network of this name, the first one if a bridge of several physical networks is meant."""
    query = select(pool_networks).where(is_named(name)).order_by(pool_networks.c.position).limit(1)
    return tx.execute(query).mappings().one_or_none()


def _is_free() -> ColumnElement[bool]:
    return pool_networks.c.project_id.is_(None) & pool_networks.c.released_at.is_(None)
