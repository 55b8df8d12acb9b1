"""A compute host as the scheduler sees it: what it offers, what is claimed of it, whether it can be used.

The load is one query; deciding is done on these frozen values without a database.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, func, select

from kilonova.network.managers.wires import HostWires, wires_of
from kilonova.store.schema import instances, networks, now, ports, services

DEAD_AFTER_S = 30.0
"""A service that has not been heard of for so long is down."""


@dataclass(frozen=True)
class HostState:
    """One compute host: what it offers to guests (over-commitment is already in it) and what they took."""

    name: str
    availability_zone: str = "nova"
    alive: bool = True
    enabled: bool = True
    ram_mb: int = 0
    vcpus: int = 0
    disk_gb: int = 0
    used_ram_mb: int = 0
    used_vcpus: int = 0
    used_disk_gb: int = 0
    instances: int = 0
    vif: str = "none"
    disabled_reason: str | None = None
    wires: HostWires | None = None
    """What its network agent can reach; none: not told."""

    @property
    def free_ram_mb(self) -> int:
        return self.ram_mb - self.used_ram_mb

    @property
    def free_vcpus(self) -> int:
        return self.vcpus - self.used_vcpus

    @property
    def free_disk_gb(self) -> int:
        return self.disk_gb - self.used_disk_gb


@dataclass(frozen=True)
class Wire:
    """What a network's frames travel on, and the network host that runs its services (none: not placed yet)."""

    manager: str
    physical_network: str
    network_host: str | None = None


@dataclass(frozen=True)
class Request:
    """What an instance needs of a host."""

    ram_mb: int
    vcpus: int
    disk_gb: int
    availability_zone: str | None = None
    host: str | None = None
    """An administrator may ask for one host."""
    wires: tuple[Wire, ...] = ()
    """Of the networks that its ports are on."""


def is_alive(seen_at: datetime, forced_down: bool, moment: datetime) -> bool:
    """Whether a service was heard of lately and nobody declared it dead."""
    return not forced_down and moment - seen_at < timedelta(seconds=DEAD_AFTER_S)


def load_hosts(tx: Connection) -> list[HostState]:
    """Every compute host with what its instances claim, in one query."""
    used = (
        select(
            instances.c.host,
            func.count().label("instances"),
            func.sum(instances.c.ram_mb).label("ram_mb"),
            func.sum(instances.c.vcpus).label("vcpus"),
            func.sum(instances.c.disk_gb).label("disk_gb"),
        )
        .where(instances.c.host.is_not(None))
        .group_by(instances.c.host)
        .subquery()
    )
    agents = services.alias("agents")
    query = (
        select(
            services,
            used.c.instances,
            used.c.ram_mb,
            used.c.vcpus,
            used.c.disk_gb,
            agents.c.capacity.label("network_capacity"),
        )
        .outerjoin(used, used.c.host == services.c.host)
        .outerjoin(agents, (agents.c.host == services.c.host) & (agents.c.kind == "network"))
        .where(services.c.kind == "compute")
        .order_by(services.c.host)
    )
    moment = now()
    hosts = []
    for row in tx.execute(query):
        capacity = row.capacity or {}
        hosts.append(
            HostState(
                name=row.host,
                availability_zone=row.availability_zone,
                alive=is_alive(row.seen_at, row.forced_down, moment),
                enabled=row.enabled,
                disabled_reason=row.disabled_reason,
                ram_mb=int(capacity.get("ram_mb", 0)),
                vcpus=int(capacity.get("vcpus", 0)),
                disk_gb=int(capacity.get("disk_gb", 0)),
                used_ram_mb=int(row.ram_mb or 0),
                used_vcpus=int(row.vcpus or 0),
                used_disk_gb=int(row.disk_gb or 0),
                instances=int(row.instances or 0),
                vif=str(capacity.get("vif", "none")),
                wires=wires_of(row.host, row.network_capacity),
            )
        )
    return hosts


def wires_of_instance(tx: Connection, instance_id: str) -> tuple[Wire, ...]:
    """Those of the networks that the instance has ports on; external ones are on every host."""
    query = (
        select(networks.c.manager, networks.c.physical_network, networks.c.host)
        .join(ports, ports.c.network_id == networks.c.id)
        .where(ports.c.device_id == instance_id, networks.c.external.is_(False))
        .distinct()
    )
    return tuple(Wire(row.manager, row.physical_network, row.host) for row in tx.execute(query))
