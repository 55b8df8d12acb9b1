"""What every component that ends, fails or follows an instance writes about it: its end, its faults, its action log.

The cloud controller, the scheduler and the compute controller share these statements; who may do what when is decided
by them, not here.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from kilonova.context import Context
from kilonova.ids import new_id
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
    query = (
        select(ports.c.id, ports.c.host, ports.c.made_with_server, networks.c.host.label("network_host"))
        .join(networks, networks.c.id == ports.c.network_id)
        .where(ports.c.device_id == instance_id)
    )
    hosts: set[str | None] = set()
    for port in tx.execute(query).all():
        hosts.add(port.network_host)
        if port.made_with_server:
            hosts.update(release_port(tx, port.id))
            continue
        hosts.update((port.host, *clear_floating(tx, port.id)))
        free = {"device_id": "", "device_owner": "", "host": "", "vif": "none", "status": "DOWN", "position": 0}
        tx.execute(update(ports).where(ports.c.id == port.id).values(**free))
    tx.execute(delete(instances).where(instances.c.id == instance_id))
    return sorted(host for host in hosts if host)


def add_fault(tx: Connection, instance_id: str, message: str, *, code: int = 500, details: str | None = None) -> None:
    """Record why the last thing asked of the instance failed; the newest one is shown."""
    fault = {"id": new_id(), "instance_id": instance_id, "code": code, "message": message, "details": details}
    tx.execute(insert(instance_faults).values(fault))


def begin_action(tx: Connection, instance_id: str, action: str, context: Context, *, user_id: str | None = None) -> str:
    """Log that somebody asked for something; found again by the request's id."""
    action_id = new_id()
    tx.execute(
        insert(instance_actions).values(
            id=action_id,
            instance_id=instance_id,
            action=action,
            request_id=context.request_id,
            user_id=user_id or context.user_id,
            project_id=context.project_id,
        )
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
    query = select(instance_actions.c.id, instance_actions.c.started_at).where(
        instance_actions.c.instance_id == instance_id, instance_actions.c.request_id == request_id
    )
    action = tx.execute(query.order_by(instance_actions.c.started_at.desc()).limit(1)).one_or_none()
    if action is None:
        return
    moment = now()
    tx.execute(
        insert(instance_action_events).values(
            id=new_id(),
            action_id=action.id,
            event=event,
            host=host,
            started_at=action.started_at,
            finished_at=moment,
            result="Error" if error else "Success",
            details=error,
        )
    )
    tx.execute(
        update(instance_actions)
        .where(instance_actions.c.id == action.id)
        .values(finished_at=moment, message="Error" if error else None)
    )
