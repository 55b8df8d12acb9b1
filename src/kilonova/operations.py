"""Runs durable operations: the engine that the scheduler and the hosts' controllers share.

A cast says "run operation X"; a timer looks for operations that nobody holds. Either way the worker claims the row,
keeps its lease while the handler works, and ends it. A handler is idempotent and may be run again by another worker
after a crash. Failing it unwinds: the handler's class says how, in `unwind`. The lease is kept until that is done too,
and nothing is unwound that has ended meanwhile or that another worker holds.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from kilonova import log as logs
from kilonova.bus import Bus
from kilonova.context import Context
from kilonova.errors import DeadlineExceeded, InternalError, KilonovaError
from kilonova.store import operations as rows
from kilonova.store.database import Store
from kilonova.store.operations import Operation
from kilonova.store.schema import now

log = logging.getLogger(__name__)

LEASE_S = 15.0

Work = Callable[[Operation], Awaitable[None]]
"""Does the present step: ends the operation (`complete`) or hands it on (`advance`) in its own last transaction."""

Unwind = Callable[[Operation, KilonovaError], Awaitable[None]]
"""Brings the resource to rest after a failure and ends the operation (`fail`), in one transaction where it can."""


class OperationRunner:
    """Claims and runs the operations of one topic for one worker."""

    def __init__(self, store: Store, bus: Bus, *, topic: str, owner: str, work: Mapping[str, Work], unwind: Unwind):
        """`owner` is unique to this life of the worker, so that a restart waits for the old lease or takes its own."""
        self._store = store
        self._bus = bus
        self._topic = topic
        self._owner = owner
        self._work = work
        self._unwind = unwind
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._again: set[str] = set()
        self._stopped = False

    @property
    def running(self) -> int:
        """How many operations this worker holds now."""
        return len(self._tasks)

    async def on_message(self, _context: Context, args: dict[str, Any]) -> None:
        """The bus method `run_operation {operation_id}`."""
        self.start(str(args["operation_id"]))

    def start(self, operation_id: str) -> None:
        """Begin to work on an operation; when this worker is at it, look at it once more afterwards.

        The message for an operation's next step may arrive before the present step's task has quite ended.
        """
        if self._stopped:
            return
        if operation_id in self._tasks:
            self._again.add(operation_id)
            return
        task = asyncio.create_task(self._run(operation_id), name=f"operation-{operation_id}")
        self._tasks[operation_id] = task
        task.add_done_callback(lambda _: self._ended(operation_id))

    def _ended(self, operation_id: str) -> None:
        del self._tasks[operation_id]
        if operation_id in self._again:
            self._again.discard(operation_id)
            self.start(operation_id)

    def cancel(self, operation_id: str) -> None:
        """Stop working on it here; its row stays as it is."""
        self._again.discard(operation_id)
        if task := self._tasks.get(operation_id):
            task.cancel()

    async def resume(self) -> int:
        """Start every operation of the topic that nobody works on; how many. For start-up and the timer."""
        pending = await self._store.read(rows.pending_for_topic, self._topic, self._owner)
        fresh = [operation_id for operation_id in pending if operation_id not in self._tasks]
        for operation_id in fresh:
            self.start(operation_id)
        return len(fresh)

    async def stop(self) -> None:
        """End all work here without unwinding it: another worker, or this one's next life, resumes it."""
        self._stopped = True
        self._again.clear()
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if tasks:
            await self._store.write(rows.release, self._topic, self._owner)

    async def _run(self, operation_id: str) -> None:
        try:
            operation = await self._store.write(rows.claim, operation_id, self._owner, LEASE_S, topic=self._topic)
        except Exception:  # nobody awaits this task: the timer tries again
            log.exception("%s cannot claim the operation %s yet", self._owner, operation_id)
            return
        if operation is None:
            return
        logs.request_id.set(operation.request_id)
        keeper = asyncio.create_task(self._keep_lease(operation), name=f"lease-{operation_id}")
        worker = asyncio.create_task(self._work_or_unwind(operation), name=f"work-{operation_id}")
        try:
            done, _ = await asyncio.wait({worker, keeper}, return_when=asyncio.FIRST_COMPLETED)
            if worker not in done:
                log.warning("%s lost the lease of %s %s", self._owner, operation.kind, operation_id)
        finally:
            for task in (worker, keeper):
                task.cancel()
            await asyncio.gather(worker, keeper, return_exceptions=True)

    async def _work_or_unwind(self, operation: Operation) -> None:
        try:
            await self._before_deadline(operation)
        except KilonovaError as error:
            log.warning("%s of %s failed: %s", operation.kind, operation.resource_id, error)
            await self._safely_unwind(operation, error)
        except Exception as error:
            log.exception("%s of %s failed", operation.kind, operation.resource_id)
            message = f"{type(error).__name__} during {operation.kind}; the log has it under {operation.request_id}"
            await self._safely_unwind(operation, InternalError(message))

    async def _before_deadline(self, operation: Operation) -> None:
        work = self._work.get(operation.kind)
        if work is None:
            raise InternalError(f"{self._topic} does not know the operation {operation.kind}")
        late = DeadlineExceeded(f"{operation.kind} was not done by its deadline {operation.deadline:%H:%M:%S} UTC")
        remaining_s = (operation.deadline - now()).total_seconds()
        if remaining_s <= 0:
            raise late
        limit = asyncio.timeout(remaining_s)
        try:
            async with limit:
                await work(operation)
        except TimeoutError:
            if limit.expired():
                raise late from None
            raise

    async def _keep_lease(self, operation: Operation) -> None:
        """Renew the lease until it is lost, or cannot be renewed before it ends."""
        ends = time.monotonic() + LEASE_S
        while True:
            await asyncio.sleep(LEASE_S / 3)
            try:
                renewing = time.monotonic()
                if not await self._store.write(rows.renew, operation.id, self._owner, LEASE_S):
                    return
                ends = renewing + LEASE_S
            except Exception:
                log.exception("%s cannot renew the lease of %s %s", self._owner, operation.kind, operation.id)
                if time.monotonic() > ends:
                    return

    async def _safely_unwind(self, operation: Operation, error: KilonovaError) -> None:
        try:
            # The work may have ended the operation in the very moment it was stopped: then there is nothing to undo.
            if await self._store.write(rows.renew, operation.id, self._owner, LEASE_S):
                await self._unwind(operation, error)
        except Exception:  # the row stays running: the timer, another worker or the reaper tries again
            log.exception("cannot unwind %s of %s yet", operation.kind, operation.resource_id)
