"""The hosts of the cloud as its administrators see them: services, hypervisors, availability zones."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, select, update

from kilonova.errors import Conflict, NotFound
from kilonova.scheduler.host_state import is_alive
from kilonova.store.schema import instances, now, services

_BINARIES = {
    "compute": "nova-compute",
    "scheduler": "nova-scheduler",
    "conductor": "nova-conductor",
}


@dataclass(frozen=True)
class ServiceRecord:
    row: RowMapping
    alive: bool

    @property
    def binary(self) -> str:
        """The name that clients know the service by."""
        return _BINARIES.get(self.row["kind"], f"kilonova-{self.row['kind']}")


@dataclass(frozen=True)
class HypervisorRecord:
    service: ServiceRecord
    instances: int
    used_vcpus: int
    used_ram_mb: int
    used_disk_gb: int

    @property
    def capacity(self) -> dict[str, Any]:
        return self.service.row["capacity"] or {}


def list_services(tx: Connection, *, host: str | None = None, binary: str | None = None) -> list[ServiceRecord]:
    """The compute API's services: compute hosts and schedulers."""
    query = select(services).where(services.c.kind.in_(_BINARIES)).order_by(services.c.kind, services.c.host)
    if host is not None:
        query = query.where(services.c.host == host)
    moment = now()
    records = [_record(row, moment) for row in tx.execute(query).mappings()]
    return [record for record in records if binary in (None, record.binary)]


def _record(row: RowMapping, moment: Any) -> ServiceRecord:
    return ServiceRecord(row, is_alive(row["seen_at"], row["forced_down"], moment))


def get_service(tx: Connection, service_id: str) -> ServiceRecord:
    """Raises `NotFound`."""
    query = select(services).where(services.c.id == service_id, services.c.kind.in_(_BINARIES))
    row = tx.execute(query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"Service {service_id} could not be found.")
    return _record(row, now())


def find_service(tx: Connection, host: str, binary: str) -> str:
    """The id of a service by its host and binary. Raises `NotFound`."""
    for record in list_services(tx, host=host, binary=binary):
        return str(record.row["id"])
    raise NotFound(f"Could not find binary {binary} on host {host}.")


def change_service(tx: Connection, service_id: str, changes: dict[str, Any]) -> ServiceRecord:
    """Set enabled, disabled_reason or forced_down."""
    get_service(tx, service_id)
    if changes:
        tx.execute(update(services).where(services.c.id == service_id).values(**changes))
    return get_service(tx, service_id)


def delete_service(tx: Connection, service_id: str) -> None:
    """Forget a service that is gone for good. Raises `Conflict` while instances are on its host."""
    record = get_service(tx, service_id)
    query = select(func.count()).select_from(instances).where(instances.c.host == record.row["host"])
    count = tx.execute(query).scalar_one()
    if record.row["kind"] == "compute" and count:
        raise Conflict(f"Unable to delete compute service that is hosting instances: {count} on {record.row['host']}.")
    tx.execute(delete(services).where(services.c.id == service_id))


def list_hypervisors(tx: Connection, *, pattern: str | None = None) -> list[HypervisorRecord]:
    """Every compute host with what its instances take, in two queries; `pattern` is part of the host's name."""
    query = select(services).where(services.c.kind == "compute").order_by(services.c.host)
    if pattern is not None:
        query = query.where(services.c.host.contains(pattern, autoescape=True))
    moment = now()
    used_query = select(
        instances.c.host,
        func.count().label("instances"),
        func.sum(instances.c.vcpus).label("vcpus"),
        func.sum(instances.c.ram_mb).label("ram_mb"),
        func.sum(instances.c.disk_gb).label("disk_gb"),
    ).group_by(instances.c.host)
    used = {row.host: row for row in tx.execute(used_query)}
    records = []
    for row in tx.execute(query).mappings():
        usage = used.get(row["host"])
        records.append(
            HypervisorRecord(
                service=_record(row, moment),
                instances=int(usage.instances) if usage else 0,
                used_vcpus=int(usage.vcpus) if usage else 0,
                used_ram_mb=int(usage.ram_mb) if usage else 0,
                used_disk_gb=int(usage.disk_gb) if usage else 0,
            )
        )
    return records


def instances_by_host(tx: Connection) -> dict[str, list[tuple[str, str]]]:
    """(id, name) of the instances of every host."""
    found: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    query = select(instances.c.host, instances.c.id, instances.c.name).where(instances.c.host.is_not(None))
    for host, instance_id, name in tx.execute(query.order_by(instances.c.name)):
        found[host].append((instance_id, name))
    return found


def availability_zones(tx: Connection) -> dict[str, list[ServiceRecord]]:
    """The zones of the compute hosts, each with its services."""
    zones: defaultdict[str, list[ServiceRecord]] = defaultdict(list)
    for record in list_services(tx):
        if record.row["kind"] == "compute":
            zones[record.row["availability_zone"]].append(record)
    return dict(sorted(zones.items()))
