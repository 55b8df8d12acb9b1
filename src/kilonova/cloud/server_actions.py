"""What can be asked of a server that exists: power, locks, groups, its state and its console; and its action log.

A power action checks the states in which it makes sense, notes what is wanted, and leaves the doing to the server's
host as an operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, or_, select, update

from kilonova.cloud.controller import Cloud
from kilonova.cloud.server_lists import get_instance
from kilonova.cloud.servers import Pending, check_unlocked
from kilonova.context import Context
from kilonova.errors import BadRequest, Conflict, NotFound
from kilonova.store import operations
from kilonova.store.instance_rows import begin_action
from kilonova.store.schema import (
    addresses,
    instance_action_events,
    instance_actions,
    instances,
    port_security_groups,
    ports,
    security_group_rules,
    security_groups,
)

Row = RowMapping
DEADLINE_S = 120.0


@dataclass(frozen=True)
class PowerAction:
    """One action: in which vm_states it may be asked for, what it shows while it runs, what it ends in."""

    kind: str
    allowed: frozenset[str]
    task_state: str
    wanted_power: str
    name: str
    """As the action log and the messages name it."""


START = PowerAction("server.start", frozenset({"stopped"}), "powering-on", "running", "start")
STOP = PowerAction("server.stop", frozenset({"active", "error"}), "powering-off", "shutdown", "stop")
PAUSE = PowerAction("server.pause", frozenset({"active"}), "pausing", "paused", "pause")
UNPAUSE = PowerAction("server.unpause", frozenset({"paused"}), "unpausing", "running", "unpause")
REBOOT_SOFT = PowerAction("server.reboot", frozenset({"active"}), "rebooting", "running", "reboot")
REBOOT_HARD = PowerAction(
    "server.reboot", frozenset({"active", "stopped", "paused", "error"}), "rebooting_hard", "running", "reboot"
)


def begin(
    tx: Connection, context: Context, instance_id: str, action: PowerAction, arguments: dict[str, Any] | None = None
) -> Pending:
    """Note what is wanted; the server's host does it. Raises `Conflict` in nova's words when it makes no sense now."""
    row = get_instance(tx, context, instance_id, lock=True)
    check_unlocked(context, row)
    check_state(row, action.name, action.allowed)
    if row["host"] is None:
        raise Conflict(f"Instance {instance_id} is not ready: it is on no host.")
    tx.execute(
        update(instances)
        .where(instances.c.id == instance_id)
        .values(task_state=action.task_state, wanted_power=action.wanted_power)
    )
    begin_action(tx, instance_id, action.name, context)
    topic = f"compute.{row['host']}"
    operation_id = operations.begin(
        tx,
        action.kind,
        instance_id,
        context=context,
        topic=topic,
        step="run",
        deadline_s=DEADLINE_S,
        arguments=arguments,
    )
    return Pending(operations=((topic, operation_id),))


def check_state(row: RowMapping, action: str, allowed: frozenset[str]) -> None:
    """Raises `Conflict` naming the vm_state or task_state that forbids the action."""
    for attribute, fits in (("vm_state", row["vm_state"] in allowed), ("task_state", row["task_state"] is None)):
        if not fits:
            raise Conflict(f"Cannot '{action}' instance {row['id']} while it is in {attribute} {row[attribute]}")


def lock(tx: Connection, context: Context, instance_id: str, reason: str | None) -> None:
    get_instance(tx, context, instance_id)
    values = {"locked": True, "locked_reason": reason}
    tx.execute(update(instances).where(instances.c.id == instance_id).values(**values))
    begin_action(tx, instance_id, "lock", context)


def unlock(tx: Connection, context: Context, instance_id: str) -> None:
    get_instance(tx, context, instance_id)
    values = {"locked": False, "locked_reason": None}
    tx.execute(update(instances).where(instances.c.id == instance_id).values(**values))
    begin_action(tx, instance_id, "unlock", context)


def reset_state(tx: Connection, context: Context, instance_id: str, vm_state: str) -> None:
    """An administrator says what the state is; whatever was being done is given up."""
    get_instance(tx, context, instance_id, lock=True)
    operations.cancel_for(tx, instance_id, f"the state of instance {instance_id} was reset")
    values = {"vm_state": vm_state, "task_state": None}
    tx.execute(update(instances).where(instances.c.id == instance_id).values(**values))
    begin_action(tx, instance_id, "resetState", context)


def add_group(tx: Connection, context: Context, instance_id: str, name: str) -> Sequence[str]:
    """Add a group, by name or id, to every port of the server; answers the hosts to wake."""
    row = get_instance(tx, context, instance_id, lock=True)
    check_unlocked(context, row)
    group_id = _group(tx, row["project_id"], name)
    members = _ports(tx, instance_id, secured=True)
    if not members:
        raise BadRequest(f"Cannot add security group {name} to {instance_id}: it has no port with port security.")
    having = set(
        tx.execute(
            select(port_security_groups.c.port_id).where(port_security_groups.c.security_group_id == group_id)
        ).scalars()
    )
    rows = [{"port_id": port.id, "security_group_id": group_id} for port in members if port.id not in having]
    if rows:
        tx.execute(insert(port_security_groups), rows)
        _touch(tx, [values["port_id"] for values in rows])
    begin_action(tx, instance_id, "addSecurityGroup", context)
    return [*(port.host for port in members), *_hosts_naming(tx, group_id)]


def remove_group(tx: Connection, context: Context, instance_id: str, name: str) -> Sequence[str]:
    """Take a group off every port of the server; answers the hosts to wake. Raises `NotFound` when none has it."""
    row = get_instance(tx, context, instance_id, lock=True)
    check_unlocked(context, row)
    group_id = _group(tx, row["project_id"], name)
    members = _ports(tx, instance_id)
    ids = [port.id for port in members]
    gone = tx.execute(
        delete(port_security_groups).where(
            port_security_groups.c.port_id.in_(ids), port_security_groups.c.security_group_id == group_id
        )
    )
    if not gone.rowcount:
        raise NotFound(f"Security group {name} not associated with the instance {instance_id}")
    _touch(tx, ids)
    begin_action(tx, instance_id, "removeSecurityGroup", context)
    return [*(port.host for port in members), *_hosts_naming(tx, group_id)]


def _group(tx: Connection, project_id: str, name: str) -> str:
    query = select(security_groups.c.id).where(
        security_groups.c.project_id == project_id, or_(security_groups.c.id == name, security_groups.c.name == name)
    )
    found = list(tx.execute(query).scalars())
    if not found:
        raise NotFound(f"Security group {name} not found for project {project_id}.")
    if len(found) > 1 and name not in found:
        raise Conflict(f"Multiple security groups found matching '{name}'. Use an ID to be more specific.")
    return name if name in found else str(found[0])


def _ports(tx: Connection, instance_id: str, *, secured: bool = False) -> Sequence[Any]:
    query = select(ports.c.id, ports.c.host).where(ports.c.device_id == instance_id)
    return tx.execute(query.where(ports.c.port_security_enabled.is_(True)) if secured else query).all()


def _hosts_naming(tx: Connection, group_id: str) -> Sequence[str]:
    """The hosts of ports whose groups let members of this group in or out: the members have changed."""
    query = (
        select(ports.c.host)
        .join(port_security_groups, port_security_groups.c.port_id == ports.c.id)
        .join(
            security_group_rules,
            security_group_rules.c.security_group_id == port_security_groups.c.security_group_id,
        )
        .where(security_group_rules.c.remote_group_id == group_id)
    )
    return list(tx.execute(query.distinct()).scalars())


def _touch(tx: Connection, port_ids: Sequence[str]) -> None:
    tx.execute(update(ports).where(ports.c.id.in_(port_ids)).values(revision=ports.c.revision + 1))


def groups_of(tx: Connection, context: Context, instance_id: str) -> list[RowMapping]:
    """The groups of the server's ports, with their rules left out."""
    get_instance(tx, context, instance_id)
    query = (
        select(security_groups)
        .where(
            security_groups.c.id.in_(
                select(port_security_groups.c.security_group_id)
                .join(ports, ports.c.id == port_security_groups.c.port_id)
                .where(ports.c.device_id == instance_id)
            )
        )
        .order_by(security_groups.c.name)
    )
    return list(tx.execute(query).mappings())


def interfaces_of(tx: Connection, context: Context, instance_id: str) -> list[tuple[RowMapping, list[dict[str, str]]]]:
    """The ports of the server in their order, each with its addresses (`ip_address`, `subnet_id`)."""
    get_instance(tx, context, instance_id)
    query = select(ports).where(ports.c.device_id == instance_id).order_by(ports.c.position, ports.c.created_at)
    found = list(tx.execute(query).mappings())
    held_query = select(addresses.c.port_id, addresses.c.address, addresses.c.subnet_id)
    held = tx.execute(held_query.where(addresses.c.port_id.in_([port["id"] for port in found]))).all()
    return [
        (port, [{"ip_address": row.address, "subnet_id": row.subnet_id} for row in held if row.port_id == port["id"]])
        for port in found
    ]


async def console_output(cloud: Cloud, context: Context, instance_id: str, lines: int | None) -> str:
    """The last lines of the console, asked of the server's host. Raises `Conflict` before it is on one."""
    row = await cloud.store.read(get_instance, context, instance_id)
    if row["host"] is None or row["vm_state"] == "building":
        raise Conflict(f"Instance {instance_id} is not ready: it has no console yet.")
    answer = await cloud.bus.call(
        f"compute.{row['host']}", "console", {"instance_id": instance_id, "lines": lines}, context=context
    )
    return str(answer["output"])


@dataclass(frozen=True)
class ActionRecord:
    row: RowMapping
    events: Sequence[RowMapping] = ()


def list_actions(tx: Connection, context: Context, instance_id: str) -> list[RowMapping]:
    """What was asked of a server, newest first; also of one that is gone. Raises `NotFound`."""
    query = select(instance_actions).where(instance_actions.c.instance_id == instance_id)
    rows = list(tx.execute(query.order_by(instance_actions.c.started_at.desc())).mappings())
    _check_actions(tx, context, instance_id, rows)
    return rows


def show_action(tx: Connection, context: Context, instance_id: str, request_id: str) -> ActionRecord:
    """One action with its events. Raises `NotFound`."""
    rows = [row for row in list_actions(tx, context, instance_id) if row["request_id"] == request_id]
    if not rows:
        raise NotFound(f"Action for request_id {request_id} on instance {instance_id} not found")
    query = select(instance_action_events).where(instance_action_events.c.action_id == rows[0]["id"])
    events = list(tx.execute(query.order_by(instance_action_events.c.started_at.desc())).mappings())
    return ActionRecord(rows[0], events)


def exists_now(tx: Connection, instance_id: str) -> bool:
    return tx.execute(select(instances.c.id).where(instances.c.id == instance_id)).first() is not None


def _check_actions(tx: Connection, context: Context, instance_id: str, rows: Sequence[RowMapping]) -> None:
    """A server that is gone shows its log to the project it belonged to, which began it by making the server."""
    if not rows or exists_now(tx, instance_id):
        get_instance(tx, context, instance_id)
    elif not context.is_admin and rows[-1]["project_id"] != context.project_id:
        raise NotFound(f"Instance {instance_id} could not be found.")
