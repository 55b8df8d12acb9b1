"""What every component that ends, fails or follows an instance writes about it: its end, its faults, its action log.

The cloud controller, the scheduler and the compute controller share these statements; who may do what when is decided
by them, not here.
"""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, select

from kilonova.context import Context
from kilonova.ids import new_id
from kilonova.store import statements
from kilonova.store.ports import clear_floating, release_port
from kilonova.store.schema import (
    instance_action_events,
    instance_actions,
    instance_faults,
    instances,
    networks,
    now,
    ports,
)


def end_instance(tx: Connection, instance_id: str) -> list[str]:
    """Remove an instance whose guest is gone: its row, the ports made with it; its other ports become free.

    Floating IPs on its ports lose their association. Addresses are released, not freed: they are handed out again once
    every holder has forgotten them. Answers the hosts whose network agents have something to forget.
    """
    hosts: set[str | None] = set()
    for port in tx.execute(_PORTS, {"instance_id": instance_id}).all():
        hosts.add(port.network_host)
        if port.made_with_server:
            hosts.update(release_port(tx, port.id))
            continue
        hosts.update((port.host, *clear_floating(tx, port.id)))
        free = {"device_id": "", "device_owner": "", "host": "", "vif": "none", "status": "DOWN", "position": 0}
        statements.change(tx, ports, {"id": port.id}, **free)
    statements.remove(tx, instances, id=instance_id)
    return sorted(host for host in hosts if host)


_PORTS = (
    select(ports.c.id, ports.c.host, ports.c.made_with_server, networks.c.host.label("network_host"))
    .join(networks, networks.c.id == ports.c.network_id)
    .where(ports.c.device_id == bindparam("instance_id"))
)


def add_fault(tx: Connection, instance_id: str, message: str, *, code: int = 500, details: str | None = None) -> None:
    """Record why the last thing asked of the instance failed; the newest one is shown."""
    fault = {"id": new_id(), "instance_id": instance_id, "code": code, "message": message, "details": details}
    statements.add(tx, instance_faults, **fault)


def begin_action(tx: Connection, instance_id: str, action: str, context: Context, *, user_id: str | None = None) -> str:
    """Log that somebody asked for something; found again by the request's id."""
    action_id = new_id()
    statements.add(
        tx,
        instance_actions,
        id=action_id,
        instance_id=instance_id,
        action=action,
        request_id=context.request_id,
        user_id=user_id or context.user_id,
        project_id=context.project_id,
    )
    return action_id


def finish_action(
    tx: Connection,
    instance_id: str,
    request_id: str,
    event: str,
    *,
    host: str | None = None,
    error: str | None = None,
) -> None:
    """Log one finished event of the action that `request_id` began, and end the action. Unknown actions are ignored.

    `event` is nova's word for the work, e.g. `compute__do_build_and_run_instance`.
    """
    actions = statements.rows(tx, instance_actions, instance_id=instance_id, request_id=request_id).all()
    if not actions:
        return
    action = max(actions, key=lambda row: row.started_at)
    moment = now()
    statements.add(
        tx,
        instance_action_events,
        id=new_id(),
        action_id=action.id,
        event=event,
        host=host,
        started_at=action.started_at,
        finished_at=moment,
        result="Error" if error else "Success",
        details=error,
    )
    ended = {"finished_at": moment, "message": "Error" if error else None}
    statements.change(tx, instance_actions, {"id": action.id}, **ended)
