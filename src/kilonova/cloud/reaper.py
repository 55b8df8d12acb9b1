"""Keeps the promise that nothing is stuck: ends operations past their deadline and wakes workers for forgotten ones.

A create that is late shows ERROR with a fault; a delete is never given up, only asked for again; any other action is
dropped and the server keeps the state it has. Any number of reapers may run: each step is one transaction.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

from sqlalchemy import Connection, exists, or_, select, update

from kilonova.bus import Bus
from kilonova.cloud.servers import DELETE_DEADLINE_S
from kilonova.config import Config
from kilonova.context import system_context
from kilonova.store import operations as rows
from kilonova.store.database import Store
from kilonova.store.instance_rows import add_fault, end_instance, finish_action
from kilonova.store.operations import Operation
from kilonova.store.schema import instances, now, operations, services

log = logging.getLogger(__name__)

INTERVAL_S = 3.0
FORGOTTEN_AFTER_S = 5.0
"""An operation that nobody took for so long is asked for again."""
ORPHANED_AFTER_S = 30.0
"""An instance that says it is being worked on, without an operation, is brought to rest after this."""
KEEP_ENDED_S = 24 * 3600.0

Wake = tuple[str, str]
"""(topic, operation id)"""


class Reaper:
    """`start` it once per installation; more do no harm."""

    def __init__(self, store: Store, bus: Bus, config: Config, *, interval_s: float = INTERVAL_S) -> None:
        self._store = store
        self._bus = bus
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="reaper")

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.sweep()
            except Exception:
                log.exception("the reaper could not finish a round; trying again in %g s", self._interval_s)

    async def sweep(self) -> None:
        """One round. Reads first, so that a quiet cloud costs no write."""
        if await self._store.read(has_work):
            wakes = await self._store.write(unwind_late)
            wakes += await self._store.write(adopt_orphans)
            wakes += await self._store.read(forgotten)
            context = system_context()
            for topic, operation_id in dict.fromkeys(wakes):
                await self._bus.cast(topic, "run_operation", {"operation_id": operation_id}, context=context)
        if await self._store.read(has_ended):
            await self._store.write(rows.prune, KEEP_ENDED_S)


def has_work(tx: Connection) -> bool:
    """Whether any operation runs or any instance says so."""
    running = select(operations.c.id).where(operations.c.state == "running").limit(1)
    busy = select(instances.c.id).where(instances.c.task_state.is_not(None)).limit(1)
    return tx.execute(running).first() is not None or tx.execute(busy).first() is not None


def has_ended(tx: Connection) -> bool:
    """Whether there are ended operations to forget."""
    horizon = now() - timedelta(seconds=KEEP_ENDED_S)
    query = select(operations.c.id).where(operations.c.state != "running", operations.c.updated_at < horizon)
    return tx.execute(query.limit(1)).first() is not None


def forgotten(tx: Connection) -> list[Wake]:
    """Running operations that nobody holds although they wait for a while."""
    moment = now()
    query = select(operations.c.topic, operations.c.id).where(
        operations.c.state == "running",
        operations.c.updated_at < moment - timedelta(seconds=FORGOTTEN_AFTER_S),
        or_(operations.c.owner.is_(None), operations.c.lease_until < moment),
    )
    return [(row.topic, row.id) for row in tx.execute(query.order_by(operations.c.created_at))]


def unwind_late(tx: Connection) -> list[Wake]:
    """Bring what is past its deadline to rest; answers the deletes to ask for again."""
    wakes: list[Wake] = []
    for operation in rows.overdue(tx):
        if operation.kind == "server.delete":
            wakes += _delete_again(tx, operation)
            continue
        reason = (
            f"{operation.kind} was not done by its deadline: {operation.topic} did not finish step {operation.step}."
        )
        rows.fail(tx, operation.id, reason)
        log.warning("%s %s", operation.request_id, reason)
        if operation.kind.startswith("server."):
            _rest(tx, operation.resource_id, reason, failed=operation.kind == "server.create")
            finish_action(tx, operation.resource_id, operation.request_id, "deadline", error=reason)
    return wakes


def _rest(tx: Connection, instance_id: str, reason: str, *, failed: bool) -> None:
    """The instance is no longer being worked on; its fault says why."""
    values: dict[str, object] = {"task_state": None}
    if failed:
        values["vm_state"] = "error"
    if tx.execute(update(instances).where(instances.c.id == instance_id).values(**values)).rowcount:
        add_fault(tx, instance_id, reason)


def _delete_again(tx: Connection, operation: Operation) -> list[Wake]:
    """A delete goes on until nothing remains; if its host left the cloud, nothing does."""
    query = select(instances.c.host).where(instances.c.id == operation.resource_id)
    instance = tx.execute(query).one_or_none()
    if instance is None:
        rows.complete(tx, operation.id)
        return []
    host = select(services.c.id).where(services.c.kind == "compute", services.c.host == instance.host)
    if instance.host is None or tx.execute(host).first() is None:
        end_instance(tx, operation.resource_id)
        finish_action(tx, operation.resource_id, operation.request_id, "compute_terminate_instance")
        rows.complete(tx, operation.id)
        return []
    log.warning("%s deleting instance %s takes long; asking again", operation.request_id, operation.resource_id)
    deadline = now() + timedelta(seconds=DELETE_DEADLINE_S)
    tx.execute(update(operations).where(operations.c.id == operation.id).values(deadline=deadline))
    return [(operation.topic, operation.id)]


def adopt_orphans(tx: Connection) -> list[Wake]:
    """Instances that wait for work which no operation does: delete them, or let them rest with a fault."""
    horizon = now() - timedelta(seconds=ORPHANED_AFTER_S)
    running = exists().where(operations.c.resource_id == instances.c.id, operations.c.state == "running")
    query = select(
        instances.c.id, instances.c.task_state, instances.c.vm_state, instances.c.host, instances.c.project_id
    ).where(instances.c.task_state.is_not(None), instances.c.updated_at < horizon, ~running)
    wakes: list[Wake] = []
    for row in tx.execute(query).all():
        if row.task_state != "deleting":
            reason = f"What was being done ({row.task_state}) was interrupted."
            _rest(tx, row.id, reason, failed=row.vm_state == "building")
        elif row.host is None:
            end_instance(tx, row.id)
        else:
            topic = f"compute.{row.host}"
            operation_id = rows.begin(
                tx,
                "server.delete",
                row.id,
                context=system_context(),
                topic=topic,
                step="run",
                deadline_s=DELETE_DEADLINE_S,
            )
            wakes.append((topic, operation_id))
    return wakes
