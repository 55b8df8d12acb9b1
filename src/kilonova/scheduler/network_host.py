"""Chooses the network host that runs a project's network: alive, enabled, the least loaded."""

from __future__ import annotations

from sqlalchemy import Connection, func, select

from kilonova.scheduler.host_state import is_alive
from kilonova.store.schema import networks, now, services


def pick_network_host(tx: Connection) -> str | None:
    """The live, enabled network host with the fewest networks; none if there is none: it is placed later."""
    load = select(networks.c.host, func.count().label("load")).group_by(networks.c.host).subquery()
    query = (
        select(services.c.host, services.c.seen_at, services.c.forced_down)
        .outerjoin(load, load.c.host == services.c.host)
        .where(services.c.kind == "network", services.c.enabled.is_(True))
        .order_by(func.coalesce(load.c.load, 0), services.c.host)
    )
    moment = now()
    hosts = (row.host for row in tx.execute(query) if is_alive(row.seen_at, row.forced_down, moment))
    return next(hosts, None)
