"""Chooses the network host that runs a project's network: alive, enabled, able to carry it, the least loaded."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, func, select

from kilonova.network.managers.wires import HostWires, wires_of
from kilonova.scheduler.host_state import is_alive
from kilonova.store.schema import networks, now, services


def live_hosts(tx: Connection) -> list[HostWires]:
    """The live, enabled network hosts with what they say about wires, those with the fewest networks first."""
    load = select(networks.c.host, func.count().label("load")).group_by(networks.c.host).subquery()
    query = (
        select(services.c.host, services.c.seen_at, services.c.forced_down, services.c.capacity)
        .outerjoin(load, load.c.host == services.c.host)
        .where(services.c.kind == "network", services.c.enabled.is_(True))
        .order_by(func.coalesce(load.c.load, 0), services.c.host)
    )
    moment = now()
    rows = tx.execute(query).all()
    return [wires_of(row.host, row.capacity) for row in rows if is_alive(row.seen_at, row.forced_down, moment)]


def pick_network_host(tx: Connection, able: Collection[str] | None = None) -> str | None:
    """The live, enabled network host (one of `able`, if given) with the fewest networks; none: it is placed later."""
    return next((host.host for host in live_hosts(tx) if able is None or host.host in able), None)
