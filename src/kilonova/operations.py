"""Runs durable operations: the engine that the scheduler and the hosts' controllers share.

A cast says "run operation X"; a timer looks for operations that nobody holds. Either way the worker claims the row,
keeps its lease while the handler works, and ends it. A handler is idempotent and may be run again by another worker
after a crash. Failing it unwinds: the handler's class says how, in `unwind`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from kilonova.bus import Bus
from kilonova.context import Context
from kilonova.errors import DeadlineExceeded, KilonovaError
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

    @property
    def running(self) -> int:
        """How many operations this worker holds now."""
        return len(self._tasks)

    async def on_message(self, _context: Context, args: dict[str, Any]) -> None:
        """The bus method `run_operation {operation_id}`."""
        self.start(str(args["operation_id"]))

    def start(self, operation_id: str) -> None:
        """Begin to work on an operation unless this worker already does."""
        if operation_id not in self._tasks:
            task = asyncio.create_task(self._run(operation_id), name=f"operation-{operation_id}")
            self._tasks[operation_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(operation_id, None))

    def cancel(self, operation_id: str) -> None:
        """Stop working on it here; its row stays as it is."""
        if task := self._tasks.get(operation_id):
            task.cancel()

    async def resume(self) -> int:
        """Start every operation of the topic that nobody holds; how many. For start-up and the timer."""
        pending = await self._store.read(rows.pending_for_topic, self._topic, self._owner)
        for operation_id in pending:
            self.start(operation_id)
        return len(pending)

    async def stop(self) -> None:
        """End all work here without unwinding it: another worker, or this one's next life, resumes it."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, operation_id: str) -> None:
        operation = await self._store.write(rows.claim, operation_id, self._owner, LEASE_S)
        if operation is None:
            return
        work = self._work.get(operation.kind)
        try:
            if work is None:
                raise KilonovaError(f"{self._topic} does not know the operation {operation.kind}")
            await self._with_lease(operation, work)
        except asyncio.CancelledError:
            raise
        except KilonovaError as error:
            log.warning("%s %s of %s failed: %s", operation.request_id, operation.kind, operation.resource_id, error)
            await self._safely_unwind(operation, error)
        except Exception as error:
            log.exception("%s %s of %s failed", operation.request_id, operation.kind, operation.resource_id)
            message = f"{type(error).__name__} during {operation.kind}; the log has it under {operation.request_id}"
            await self._safely_unwind(operation, KilonovaError(message))

    async def _with_lease(self, operation: Operation, work: Work) -> None:
        """Run the work within the deadline while the lease is renewed; losing the lease stops the work."""
        remaining_s = (operation.deadline - now()).total_seconds()
        worker = asyncio.ensure_future(work(operation))
        keeper = asyncio.ensure_future(self._keep_lease(operation))
        try:
            done, _ = await asyncio.wait(
                {worker, keeper}, timeout=max(remaining_s, 0.0), return_when=asyncio.FIRST_COMPLETED
            )
            if worker in done:
                worker.result()
            elif keeper in done:
                log.warning("%s lost the lease of %s %s", self._owner, operation.kind, operation.id)
            else:
                raise DeadlineExceeded(f"{operation.kind} was not done by its deadline {operation.deadline:%H:%M:%S}")
        finally:
            for task in (worker, keeper):
                task.cancel()
            await asyncio.gather(worker, keeper, return_exceptions=True)

    async def _keep_lease(self, operation: Operation) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 3)
            if not await self._store.write(rows.renew, operation.id, self._owner, LEASE_S):
                return

    async def _safely_unwind(self, operation: Operation, error: KilonovaError) -> None:
        try:
            await self._unwind(operation, error)
        except Exception:  # the row stays running: the timer, another worker or the reaper tries again
            log.exception("%s cannot unwind %s of %s yet", operation.request_id, operation.kind, operation.resource_id)
