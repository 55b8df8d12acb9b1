"""Rows that belong to nothing, or that wait for somebody who will not come: what `kilonova doctor` reports and mends.

`find` reads only. `mend` does what is safe: it releases what nobody uses, so that its holders forget it first, and
frees what only a host held that has left the cloud.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Table, and_, exists, not_, or_, select, update

from kilonova.network.observation import Leak
from kilonova.network.ports import FLOATING_IP
from kilonova.store.addresses import confirm_forgotten, confirm_pool_network_forgotten
from kilonova.store.ports import release_port
from kilonova.store.schema import (
    addresses,
    floating_ips,
    instances,
    networks,
    now,
    operations,
    pool_networks,
    ports,
    routers,
    services,
    subnets,
)

PATIENCE_S = 120.0
"""What was released longer ago, and nobody has forgotten, is reported."""
_LATE_S = 30.0
"""An operation so long past its deadline should have been ended."""
_AGENTS = "the network agent of its host forgets it when it looks again"


def find(tx: Connection) -> list[Leak]:
    """Every leak, in a stable order."""
    return [
        *(_leak("address", row.address, _why(row), _AGENTS) for row in tx.execute(_held_addresses())),
        *(
            _leak("address", row.address, "it has no port and was never released", "it is released")
            for row in _lost(tx)
        ),
        *_ports(tx),
        *(_leak("pool network", row.cidr, _pool_why(row), _AGENTS) for row in tx.execute(_held_pool_networks())),
        *(
            _leak("pool network", row.cidr, f"project {row.project_id} holds it without a network", "it is released")
            for row in tx.execute(_lost_pool_networks())
        ),
        *(
            _leak("operation", row.id, f"{row.kind} of {row.resource_id} is past its deadline: {row.step}", "")
            for row in tx.execute(_late_operations())
        ),
    ]


def mend(tx: Connection) -> set[str]:
    """Do what is safe; the hosts whose network agents have something to forget then."""
    hosts: set[str] = set()
    known = set(tx.execute(select(services.c.host).where(services.c.kind == "network")).scalars())
    for port_id in [row.id for table in _PORTS for row in tx.execute(_gone_ports(*table))]:
        hosts |= set(release_port(tx, port_id))
    for row in _lost(tx):
        lost = (addresses.c.subnet_id == row.subnet_id, addresses.c.address == row.address)
        tx.execute(update(addresses).where(*lost).values(released_at=now()))
    for row in tx.execute(_held_addresses()).all():
        holder = row.released_host or row.network_host or row.range_host
        if holder is not None and holder not in known:
            confirm_forgotten(tx, [(row.subnet_id, row.address)])
        elif holder is not None:
            hosts.add(holder)
    lost_pool = select(_lost_pool_networks().subquery().c.id)
    tx.execute(update(pool_networks).where(pool_networks.c.id.in_(lost_pool)).values(released_at=now()))
    for row in tx.execute(_held_pool_networks()).all():
        if row.released_host is not None and row.released_host not in known:
            confirm_pool_network_forgotten(tx, row.id)
    return hosts | known


def _leak(kind: str, name: str, why: str, mend: str) -> Leak:
    return Leak(kind, name, why, mend)


def _held_addresses() -> Any:
    """Released, but not forgotten by whoever holds them."""
    long_ago = now() - timedelta(seconds=PATIENCE_S)
    return (
        select(addresses, networks.c.host.label("network_host"), subnets.c.host.label("range_host"))
        .outerjoin(networks, networks.c.id == addresses.c.network_id)
        .outerjoin(subnets, subnets.c.id == addresses.c.subnet_id)
        .where(addresses.c.port_id.is_(None), addresses.c.released_at < long_ago)
        .order_by(addresses.c.address)
    )


def _why(row: Any) -> str:
    holder = row.released_host or row.network_host or row.range_host or "no host"
    return f"released at {row.released_at:%Y-%m-%d %H:%M:%S}, and {holder} has not forgotten it"


def _lost(tx: Connection) -> list[Any]:
    query = select(addresses).where(addresses.c.port_id.is_(None), addresses.c.released_at.is_(None))
    return list(tx.execute(query.order_by(addresses.c.address)))


_PORTS: tuple[tuple[Any, Table, Any], ...] = (
    (ports.c.device_owner.like("compute:%"), instances, instances.c.id == ports.c.device_id),
    (ports.c.device_owner.like("network:router_%"), routers, routers.c.id == ports.c.device_id),
    (ports.c.device_owner == FLOATING_IP, floating_ips, floating_ips.c.floating_port_id == ports.c.id),
)
"""Ports of what is made together with them: (which, its table, how it is found)."""


def _gone_ports(which: Any, table: Table, same: Any) -> Any:
    return select(ports).where(and_(which, not_(exists(select(table.c.id).where(same)))))


def _ports(tx: Connection) -> Iterator[Leak]:
    for which in _PORTS:
        for row in tx.execute(_gone_ports(*which).order_by(ports.c.id)):
            why = f"its {which[1].name.removesuffix('s').replace('_', ' ')} {row.device_id} is gone"
            yield Leak("port", row.id, why, "it is deleted, its addresses are released")


def _held_pool_networks() -> Any:
    long_ago = now() - timedelta(seconds=PATIENCE_S)
    return select(pool_networks).where(pool_networks.c.released_at < long_ago).order_by(pool_networks.c.position)


def _pool_why(row: Any) -> str:
    return (
        f"given back at {row.released_at:%Y-%m-%d %H:%M:%S}, and {row.released_host or 'nobody'} has not forgotten it"
    )


def _lost_pool_networks() -> Any:
    """A project has it, but the network that was made from it is gone."""
    gone = or_(pool_networks.c.network_id.is_(None), not_(exists().where(networks.c.id == pool_networks.c.network_id)))
    return select(pool_networks).where(
        pool_networks.c.project_id.is_not(None), pool_networks.c.released_at.is_(None), gone
    )


def _late_operations() -> Any:
    late = now() - timedelta(seconds=_LATE_S)
    return select(operations).where(operations.c.state == "running", operations.c.deadline < late)
