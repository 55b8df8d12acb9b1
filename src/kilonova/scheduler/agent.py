"""The scheduler as it runs: takes `server.create` operations, claims a host for each, hands them on to that host.

The claim is one write transaction in which the choice is made on the rows as they are, so that two schedulers never
give away the same memory. An instance that fits nowhere is shown as ERROR with the reason as its fault.
"""

from __future__ import annotations

import asyncio
import logging

from sqlalchemy import Connection, select, update

from kilonova.bus import Bus, Subscription
from kilonova.config import Config
from kilonova.errors import KilonovaError, NotFound
from kilonova.ids import new_id
from kilonova.operations import OperationRunner
from kilonova.scheduler.host_state import Request, load_hosts, wires_of_instance
from kilonova.scheduler.placement import choose
from kilonova.store import operations, statements
from kilonova.store.database import Store
from kilonova.store.instance_rows import add_fault, finish_action
from kilonova.store.operations import Operation
from kilonova.store.schema import instances, ports, services

log = logging.getLogger(__name__)

TOPIC = "scheduler"


class Scheduler:
    """One scheduler; any number may run."""

    def __init__(self, store: Store, bus: Bus, config: Config) -> None:
        self._store = store
        self._bus = bus
        self._poll_interval_s = config.host.poll_interval_s
        self._runner = OperationRunner(
            store,
            bus,
            topic=TOPIC,
            owner=f"scheduler@{config.host.name}:{new_id()[:8]}",
            work={"server.create": self._schedule},
            unwind=self._unwind,
        )
        self._subscription: Subscription | None = None
        self._timer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take operations from now on, first those that wait already."""
        self._subscription = self._bus.subscribe(TOPIC, {"run_operation": self._runner.on_message})
        self._timer = asyncio.create_task(self._poll(), name="scheduler-poll")

    async def stop(self) -> None:
        """Take no more; what is begun is left to another scheduler or to the next start."""
        if self._timer:
            self._timer.cancel()
            await asyncio.gather(self._timer, return_exceptions=True)
        if self._subscription:
            await self._subscription.close()
        await self._runner.stop()

    async def _poll(self) -> None:
        """Look for operations whose message was lost."""
        while True:
            try:
                await self._runner.resume()
            except Exception:
                log.exception("cannot look for waiting operations; trying again")
            await asyncio.sleep(self._poll_interval_s)

    async def _schedule(self, operation: Operation) -> None:
        topic = await self._store.write(claim_host, operation)
        await self._bus.cast(topic, "run_operation", {"operation_id": operation.id}, context=operation.context)

    async def _unwind(self, operation: Operation, error: KilonovaError) -> None:
        await self._store.write(refuse, operation, error.message)


def claim_host(tx: Connection, operation: Operation) -> str:
    """Choose the host, give it to the instance and its ports, hand the operation on; answers the host's topic.

    Raises `NoValidHost`, and `NotFound` when the instance was deleted meanwhile. Doing it twice changes nothing.
    """
    instance = statements.rows(tx, instances, id=operation.resource_id).one_or_none()
    if instance is None:
        raise NotFound(f"Instance {operation.resource_id} could not be found.")
    host = instance.host
    if host is None:
        asked_for = operation.arguments.get("host")
        request = Request(
            ram_mb=instance.ram_mb,
            vcpus=instance.vcpus,
            disk_gb=instance.disk_gb,
            availability_zone=instance.availability_zone,
            host=str(asked_for) if asked_for else None,
            wires=wires_of_instance(tx, operation.resource_id),
        )
        chosen = choose(request, load_hosts(tx))
        host = chosen.name
        claim = {"host": host, "availability_zone": chosen.availability_zone, "task_state": "spawning"}
        statements.change(tx, instances, {"id": operation.resource_id}, **claim)
        wiring = {"host": host, "vif": chosen.vif, "status": "BUILD"}
        statements.change(tx, ports, {"device_id": operation.resource_id}, **wiring)
    topic = f"compute.{host}"
    operations.advance(tx, operation.id, step="build", topic=topic)
    return topic


def refuse(tx: Connection, operation: Operation, reason: str) -> None:
    """The instance shows ERROR and why; it keeps its addresses until it is deleted."""
    state = {"vm_state": "error", "task_state": None}
    found = tx.execute(update(instances).where(instances.c.id == operation.resource_id).values(**state))
    if found.rowcount:
        add_fault(tx, operation.resource_id, reason)
        finish_action(tx, operation.resource_id, operation.request_id, "conductor_schedule_instances", error=reason)
    operations.fail(tx, operation.id, reason)


def host_exists(tx: Connection, host: str) -> bool:
    """Whether there is a compute host of this name."""
    query = select(services.c.id).where(services.c.kind == "compute", services.c.host == host)
    return tx.execute(query).first() is not None
