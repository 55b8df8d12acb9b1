"""What `kilonova status` says: read from the state directory alone, so that it works when nothing runs."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, func, select

from kilonova.scheduler.host_state import is_alive
from kilonova.service.state import Options, StateDirectory
from kilonova.store import schema


def report(state: StateDirectory, options: Options) -> dict[str, Any]:
    """Process, address, services with the age of their heartbeat, and how many of each thing there are."""
    pid = state.pid()
    found: dict[str, Any] = {
        "running": pid is not None,
        "pid": pid,
        "url": f"http://{options.address}:{options.port}",
        "mode": options.mode,
        "driver": options.driver,
        "prefix": options.prefix,
        "state_dir": str(state.path),
        "resident_mb": resident_mb(pid) if pid else None,
        "services": [],
        "counts": {},
    }
    database = state.path / "kilonova.sqlite"
    if database.exists():
        engine = create_engine(f"sqlite:///file:{database}?mode=ro&uri=true")
        with engine.connect() as connection:
            found["services"] = _services(connection)
            found["counts"] = _counts(connection)
        engine.dispose()
    return found


def resident_mb(pid: int) -> float:
    """The resident memory of a process, MiB; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return round(int(line.split()[1]) / 1024, 1)
    except FileNotFoundError:
        pass
    return 0.0


def _services(connection: Connection) -> list[dict[str, Any]]:
    services = schema.services
    present = datetime.now(UTC)
    found = []
    for row in connection.execute(select(services).order_by(services.c.kind, services.c.host)):
        age_s = (present - row.seen_at).total_seconds()
        found.append(
            {
                "kind": row.kind,
                "host": row.host,
                "state": "up" if is_alive(row.seen_at, row.forced_down, present) else "down",
                "enabled": row.enabled,
                "age_s": round(age_s, 1),
                "progress": row.progress,
            }
        )
    return found


def _counts(connection: Connection) -> dict[str, int]:
    tables = (schema.projects, schema.instances, schema.networks, schema.ports, schema.floating_ips, schema.images)
    counts = {table.name: connection.execute(select(func.count()).select_from(table)).scalar_one() for table in tables}
    running = select(func.count()).where(schema.operations.c.state == "running")
    return {**counts, "operations": connection.execute(running).scalar_one()}
