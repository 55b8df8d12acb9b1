"""The heartbeat of a component on a host: one row per (kind, host), which says that it lives, and what it offers."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, update

from kilonova.ids import new_id
from kilonova.store.schema import now, services


def heartbeat(
    tx: Connection,
    kind: str,
    host: str,
    *,
    availability_zone: str,
    started_at: datetime,
    capacity: dict[str, Any],
    progress: dict[str, Any],
) -> None:
    """Say that the component lives. What an administrator set (enabled, forced down) stays."""
    alive = {"seen_at": now(), "started_at": started_at, "capacity": capacity, "progress": progress}
    found = tx.execute(update(services).where(services.c.kind == kind, services.c.host == host).values(**alive))
    if not found.rowcount:
        row = {"id": new_id(), "kind": kind, "host": host, "availability_zone": availability_zone, **alive}
        tx.execute(insert(services).values(row))
