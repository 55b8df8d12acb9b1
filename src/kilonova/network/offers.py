"""What the pool has to give: how many networks of each manager, and the one that is handed out next."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, bindparam, case, exists, func, or_, select

from kilonova.network.managers import SHARED
from kilonova.scheduler.network_type import Offer
from kilonova.store.schema import allocation_pools, pool_networks, reusable_addresses, subnets


def load_offers(tx: Connection) -> list[Offer]:
    """Every manager and physical network of the pool, in two queries."""
    private, shared = _queries()
    return [
        *(
            Offer(row.manager, row.physical_network, row.total, row.free, row.position or 0)
            for row in tx.execute(private)
        ),
        *(Offer(row.manager, row.physical_network, 1, min(row.free, 1), row.position) for row in tx.execute(shared)),
    ]


def next_network(tx: Connection, manager: str, physical_network: str) -> RowMapping | None:
    """The pool network of this manager that is handed out next; a shared one is handed out again and again."""
    query = _NEXT_SHARED if manager in SHARED else _NEXT
    return tx.execute(query, {"manager": manager, "physical": physical_network}).mappings().one_or_none()


def is_named(name: str) -> ColumnElement[bool]:
    """That a pool network has this id, network's id, CIDR or bridge."""
    pool = pool_networks.c
    return or_(pool.id == name, pool.network_id == name, pool.cidr == name, pool.bridge == name)


def pool_network(tx: Connection, name: str) -> RowMapping | None:
    """The pool network of this name, the first one if a bridge of several physical networks is meant."""
    query = select(pool_networks).where(is_named(name)).order_by(pool_networks.c.position).limit(1)
    return tx.execute(query).mappings().one_or_none()


@cache
def _queries() -> tuple[Select[Any], Select[Any]]:
    """The private and the shared part; built once, for every first run asks them."""
    pool = pool_networks.c
    private = (
        select(
            pool.manager,
            pool.physical_network,
            func.count().label("total"),
            func.count(case((_IS_FREE, 1))).label("free"),
            func.min(case((_IS_FREE, pool.position))).label("position"),
        )
        .where(pool.manager.not_in(SHARED))
        .group_by(pool.manager, pool.physical_network)
    )
    cursors, freed = allocation_pools.c, reusable_addresses.c
    has_address = or_(
        exists().where(cursors.subnet_id == subnets.c.id, cursors.next_offset <= cursors.last_offset),
        exists().where(freed.subnet_id == subnets.c.id),
    )
    shared = (
        select(pool.manager, pool.physical_network, pool.position, func.count(case((has_address, 1))).label("free"))
        .outerjoin(subnets, (subnets.c.network_id == pool.network_id) & (subnets.c.ip_version == 4))
        .where(pool.manager.in_(SHARED))
        .group_by(pool.id, pool.manager, pool.physical_network, pool.position)
    )
    return private, shared


_IS_FREE = pool_networks.c.project_id.is_(None) & pool_networks.c.released_at.is_(None)
_NEXT_SHARED = (
    select(pool_networks)
    .where(pool_networks.c.manager == bindparam("manager"), pool_networks.c.physical_network == bindparam("physical"))
    .order_by(pool_networks.c.position)
    .limit(1)
    .with_for_update()
)
_NEXT = _NEXT_SHARED.where(_IS_FREE)
