"""What the compute controller reads and writes in the store; each function is (part of) one transaction."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, select, union, update

from kilonova.compute.driver import PowerState
from kilonova.compute.image_cache import ImageSource
from kilonova.ids import InstanceId, PortId
from kilonova.store import operations, schema, statements
from kilonova.store.instance_rows import add_fault, end_instance, finish_action
from kilonova.store.operations import Operation
from kilonova.store.schema import floating_ips, images, instances, networks, now, ports, routers

RUNNING_STATES = frozenset({"active", "paused"})
VM_STATES = {
    PowerState.RUNNING: "active",
    PowerState.PAUSED: "paused",
    PowerState.SHUTDOWN: "stopped",
    PowerState.CRASHED: "stopped",
}
EVENTS = {
    "server.create": "compute__do_build_and_run_instance",
    "server.delete": "compute_terminate_instance",
    "server.start": "compute_start_instance",
    "server.stop": "compute_stop_instance",
    "server.reboot": "compute_reboot_instance",
    "server.pause": "compute_pause_instance",
    "server.unpause": "compute_unpause_instance",
}
"""The words of nova's action log."""


@dataclass(frozen=True)
class PortRow:
    id: PortId
    mac: str
    vif: str
    mtu: int
    network_id: str
    network_host: str | None


@dataclass(frozen=True)
class InstanceRow:
    """An instance with what its guest is made of."""

    id: InstanceId
    name: str
    hostname: str
    host: str | None
    vcpus: int
    ram_mb: int
    disk_gb: int
    config_drive: bool
    image_id: str | None
    vm_state: str
    task_state: str | None
    power_state: int
    wanted_power: str
    launched: bool
    ports: tuple[PortRow, ...] = ()


def load_instance(tx: Connection, instance_id: str) -> InstanceRow | None:
    """An instance with its ports, in their order; none when it is gone."""
    row = statements.rows(tx, instances, id=instance_id).one_or_none()
    if row is None:
        return None
    found = tuple(
        PortRow(PortId(port.id), port.mac, port.vif, port.mtu, port.network_id, port.host)
        for port in tx.execute(_PORTS, {"instance_id": instance_id})
    )
    return _instance(row, found)


_PORTS = (
    select(ports.c.id, ports.c.mac, ports.c.vif, ports.c.network_id, networks.c.mtu, networks.c.host)
    .join(networks, networks.c.id == ports.c.network_id)
    .where(ports.c.device_id == bindparam("instance_id"))
    .order_by(ports.c.position, ports.c.created_at, ports.c.id)
)


def load_host_instances(tx: Connection, host: str) -> tuple[list[InstanceRow], set[str]]:
    """Every instance of a host, without ports, and the ids of all that an operation is running for."""
    found = [_instance(row, ()) for row in tx.execute(select(instances).where(instances.c.host == host))]
    return found, instances_at_work(tx)


def instances_at_work(tx: Connection) -> set[str]:
    """Instances that an operation is running for."""
    running = schema.operations
    return set(tx.execute(select(running.c.resource_id).where(running.c.state == "running")).scalars())


def load_image(tx: Connection, image_id: str) -> ImageSource | None:
    row = tx.execute(select(images).where(images.c.id == image_id)).one_or_none()
    if row is None:
        return None
    return ImageSource(
        id=row.id,
        disk_format=row.disk_format or "",
        size_bytes=row.size_bytes,
        checksum=row.checksum,
        hash_algorithm=row.hash_algorithm,
        hash_value=row.hash_value,
    )


def image_use(tx: Connection, host: str, cached: Collection[str]) -> tuple[set[str], set[str]]:
    """Of the images that the host has copies of: those that its instances use, and those that exist."""
    used = select(instances.c.image_id).where(instances.c.host == host, instances.c.image_id.in_(cached)).distinct()
    existing = select(images.c.id).where(images.c.id.in_(cached))
    return set(tx.execute(used).scalars()), set(tx.execute(existing).scalars())


def finish(tx: Connection, operation: Operation, host: str, state: PowerState, wanted: str) -> bool:
    """The operation is done and the guest is in `state`; false when the operation had been ended by somebody else."""
    if not _is_running(tx, operation):
        return False
    operations.complete(tx, operation.id)
    _log(tx, operation, host)
    values: dict[str, Any] = {
        "vm_state": VM_STATES[state],
        "power_state": int(state),
        "wanted_power": wanted,
        "task_state": None,
    }
    if operation.kind == "server.create":
        values |= {"launched_at": now(), "progress": 100}
    kept = instances.c.task_state.is_distinct_from("deleting")  # a delete waits for its turn
    tx.execute(update(instances).where(instances.c.id == operation.resource_id, kept).values(**values))
    return True


def finish_delete(tx: Connection, operation: Operation, host: str) -> list[str]:
    """The guest is gone: the instance goes with what was made for it. Answers whose network agents must look again."""
    hosts = network_hosts(tx, operation.resource_id) | {host}
    _log(tx, operation, host)
    hosts.update(end_instance(tx, operation.resource_id))
    operations.complete(tx, operation.id)
    return sorted(hosts)


def network_hosts(tx: Connection, instance_id: str) -> set[str]:
    """The hosts that serve the instance's networks or translate its floating IPs."""
    own = ports.c.device_id == instance_id
    serving = select(networks.c.host).join(ports, ports.c.network_id == networks.c.id).where(own)
    translating = (
        select(routers.c.host)
        .join(floating_ips, floating_ips.c.router_id == routers.c.id)
        .join(ports, ports.c.id == floating_ips.c.fixed_port_id)
        .where(own)
    )
    return {host for host in tx.execute(union(serving, translating)).scalars() if host}


def fail_create(tx: Connection, operation: Operation, host: str, error: str) -> None:
    """The guest could not be made and nothing of it is left here: the instance shows why, the host's claim ends."""
    if _is_running(tx, operation):
        _show_fault(tx, operation, host, error, {"vm_state": "error", "power_state": 0, "task_state": None})
    unclaim(tx, operation.resource_id, host)
    operations.fail(tx, operation.id, error)


def unclaim(tx: Connection, instance_id: str, host: str) -> None:
    """The host has nothing to do with the instance any more."""
    mine = (instances.c.id == instance_id, instances.c.host == host)
    if tx.execute(update(instances).where(*mine).values(host=None)).rowcount:
        unbound = {"host": "", "vif": "none", "status": "DOWN"}
        tx.execute(update(ports).where(ports.c.device_id == instance_id).values(**unbound))


def fail_delete(tx: Connection, operation: Operation, host: str, error: str) -> None:
    """It could not be removed: it shows why, and may be deleted again."""
    if _is_running(tx, operation):
        _show_fault(tx, operation, host, error, {"vm_state": "error", "task_state": None})
    operations.fail(tx, operation.id, error)


def fail_other(tx: Connection, operation: Operation, host: str, error: str, state: PowerState) -> None:
    """What was asked failed; the instance shows the state that its guest is in."""
    if _is_running(tx, operation):
        _show_fault(tx, operation, host, error, _as_found(state))
    operations.fail(tx, operation.id, error)


def guest_ended(tx: Connection, instance_id: str, host: str) -> bool:
    """A guest ended by itself: the instance is stopped, and stays so. False when the instance is in other hands."""
    ended = tx.execute(
        update(instances)
        .where(
            instances.c.id == instance_id,
            instances.c.host == host,
            instances.c.vm_state.in_(RUNNING_STATES),
            instances.c.task_state.is_(None),
        )
        .values(vm_state="stopped", power_state=int(PowerState.SHUTDOWN), wanted_power="shutdown")
    )
    return bool(ended.rowcount)


def show_state(tx: Connection, instance_id: str, state: PowerState) -> None:
    """The guest was found in `state` while nothing was being done to it."""
    if operations.running_for(tx, instance_id):
        return
    tx.execute(
        update(instances)
        .where(
            instances.c.id == instance_id,
            instances.c.task_state.is_distinct_from("deleting"),
            instances.c.vm_state.in_({*RUNNING_STATES, "stopped"}),
        )
        .values(**_as_found(state))
    )


def _as_found(state: PowerState) -> dict[str, Any]:
    """What an instance shows whose guest is in `state`, and nobody wants it otherwise."""
    vm_state = VM_STATES.get(state, "error")
    wanted = {"active": "running", "paused": "paused"}.get(vm_state, "shutdown")
    return {"vm_state": vm_state, "power_state": int(state), "task_state": None, "wanted_power": wanted}


def abandoned(tx: Connection, instance_id: str, host: str, error: str) -> None:
    """Nobody makes the instance any more, and nothing of its guest is left: its host's claim ends."""
    being_made = (instances.c.id == instance_id, instances.c.vm_state == "building", instances.c.host == host)
    if tx.execute(update(instances).where(*being_made).values(vm_state="error", task_state=None)).rowcount:
        add_fault(tx, instance_id, error)
    unclaim(tx, instance_id, host)


def start_failed(tx: Connection, instance_id: str, error: str) -> None:
    """A guest that should run could not be brought back after a restart of its host."""
    state = {"vm_state": "error", "power_state": int(PowerState.SHUTDOWN)}
    tx.execute(update(instances).where(instances.c.id == instance_id).values(**state))
    add_fault(tx, instance_id, error)


def _is_running(tx: Connection, operation: Operation) -> bool:
    return operations.is_running(tx, operation.id)


def _log(tx: Connection, operation: Operation, host: str, error: str | None = None) -> None:
    event = EVENTS[operation.kind]
    finish_action(tx, operation.resource_id, operation.request_id, event, host=host, error=error)


def _show_fault(tx: Connection, operation: Operation, host: str, error: str, values: dict[str, Any]) -> None:
    found = tx.execute(update(instances).where(instances.c.id == operation.resource_id).values(**values))
    if found.rowcount:
        add_fault(tx, operation.resource_id, error)
        _log(tx, operation, host, error)


def _instance(row: Any, found: tuple[PortRow, ...]) -> InstanceRow:
    return InstanceRow(
        id=InstanceId(row.id),
        name=row.name,
        hostname=row.hostname,
        host=row.host,
        vcpus=row.vcpus,
        ram_mb=row.ram_mb,
        disk_gb=row.disk_gb,
        config_drive=row.config_drive,
        image_id=row.image_id,
        vm_state=row.vm_state,
        task_state=row.task_state,
        power_state=row.power_state,
        wanted_power=row.wanted_power,
        launched=row.launched_at is not None,
        ports=found,
    )
