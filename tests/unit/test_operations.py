"""The engine of operations: each is done or unwound, once, by one worker, also when workers die or come late."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from kilonova import log as logs
from kilonova import operations as engine
from kilonova.bus.local import LocalBus
from kilonova.context import Context, system_context
from kilonova.errors import Conflict, DeadlineExceeded, InternalError, KilonovaError
from kilonova.ids import RequestId
from kilonova.operations import OperationRunner
from kilonova.store import operations as rows
from kilonova.store.database import Store
from kilonova.store.operations import Operation
from kilonova.store.schema import now, operations

TOPIC = "compute.h"
CONTEXT = Context(request_id=RequestId("req-1"))


class Worker:
    """One life of a worker; the test says what its work does and sees what it did."""

    def __init__(self, store: Store, bus: LocalBus, name: str) -> None:
        self.store = store
        self.worked: list[Operation] = []
        self.unwound: list[KilonovaError] = []
        self.unwinds: Callable[[Operation], Awaitable[None]] = self.fail
        self.works: Callable[[Operation], Awaitable[None]] = self.complete
        work = {"job": self._work}
        self.runner = OperationRunner(store, bus, topic=TOPIC, owner=name, work=work, unwind=self._unwind)

    async def _work(self, operation: Operation) -> None:
        self.worked.append(operation)
        await self.works(operation)

    async def _unwind(self, operation: Operation, error: KilonovaError) -> None:
        self.unwound.append(error)
        await self.unwinds(operation)

    async def complete(self, operation: Operation) -> None:
        await self.store.write(rows.complete, operation.id)

    async def fail(self, operation: Operation) -> None:
        await self.store.write(rows.fail, operation.id, self.unwound[-1].message)

    async def idle(self) -> None:
        """Until it works on nothing."""
        async with asyncio.timeout(5):
            while self.runner.running:
                await asyncio.sleep(0)


class Held:
    """Work that begins and then waits to be let go."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self.cancelled = False

    async def __call__(self, _operation: Operation) -> None:
        self.begun.set()
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


@pytest.fixture
async def make(store: Store, bus: LocalBus) -> AsyncIterator[Callable[[str], Worker]]:
    made: list[Worker] = []

    def make(name: str = "w1") -> Worker:
        made.append(Worker(store, bus, name))
        return made[-1]

    yield make
    for worker in made:
        await worker.runner.stop()


@pytest.fixture
def worker(make: Callable[[str], Worker]) -> Worker:
    return make("w1")


def begin(tx: Connection, kind: str = "job", deadline_s: float = 60) -> str:
    return rows.begin(tx, kind, "i1", context=CONTEXT, topic=TOPIC, step="one", deadline_s=deadline_s)


def row(tx: Connection) -> Any:
    return tx.execute(select(operations)).one()


def steal(tx: Connection) -> None:
    tx.execute(update(operations).values(owner="thief", lease_until=now() + timedelta(seconds=60)))


def lapse(tx: Connection) -> None:
    tx.execute(update(operations).values(lease_until=now() - timedelta(seconds=1)))


async def test_a_message_starts_the_work_and_the_work_ends_the_row(store: Store, bus: LocalBus, worker: Worker) -> None:
    bus.subscribe(TOPIC, {"run_operation": worker.runner.on_message})
    operation_id = await store.write(begin)
    await bus.call(TOPIC, "run_operation", {"operation_id": operation_id}, context=system_context())
    await worker.idle()
    assert [operation.id for operation in worker.worked] == [operation_id]
    assert (await store.read(row)).state == "done"
    assert worker.unwound == []


async def test_doubled_messages_do_not_double_the_work(store: Store, worker: Worker) -> None:
    operation_id = await store.write(begin)
    worker.works = held = Held()
    worker.runner.start(operation_id)
    await held.begun.wait()
    for _ in range(3):
        worker.runner.start(operation_id)
    assert len(worker.worked) == 1
    worker.works = worker.complete
    held.go_on.set()
    await worker.idle()
    assert (await store.read(row)).state == "done"


async def test_several_workers_do_it_once(store: Store, make: Callable[[str], Worker]) -> None:
    operation_id = await store.write(begin)
    workers = [make(f"w{number}") for number in range(5)]
    for each in workers:
        each.runner.start(operation_id)
    for each in workers:
        await each.idle()
    assert sum(len(each.worked) for each in workers) == 1


async def test_a_step_that_hands_over_to_its_own_topic_goes_on_at_once(store: Store, worker: Worker) -> None:
    """The message for the next step arrives while the task of the present one has not quite ended."""
    operation_id = await store.write(begin)

    async def two_steps(operation: Operation) -> None:
        if operation.step == "one":
            await store.write(rows.advance, operation.id, step="two", topic=TOPIC)
            worker.runner.start(operation.id)
        else:
            await store.write(rows.complete, operation.id)

    worker.works = two_steps
    worker.runner.start(operation_id)
    await worker.idle()
    assert [operation.step for operation in worker.worked] == ["one", "two"]
    assert (await store.read(row)).state == "done"


async def test_the_work_of_a_dead_owner_is_resumed(store: Store, make: Callable[[str], Worker]) -> None:
    operation_id = await store.write(begin)
    await store.write(rows.claim, operation_id, "dead", 15)
    heir = make("heir")
    assert await heir.runner.resume() == 0
    await store.write(lapse)
    assert await heir.runner.resume() == 1
    await heir.idle()
    assert (await store.read(row)).state == "done"


async def test_a_crash_between_steps_is_repeated_from_the_last_step(
    store: Store, make: Callable[[str], Worker]
) -> None:
    operation_id = await store.write(begin)
    done: set[str] = set()
    crash = Held()

    async def step(operation: Operation) -> None:
        if operation.step == "one":
            await store.write(rows.advance, operation.id, step="two", topic=TOPIC)
        else:
            done.add(operation.id)  # idempotent: may happen again
            await crash(operation)
            await store.write(rows.complete, operation.id)

    first, second = make("first"), make("second")
    first.works = second.works = step
    first.runner.start(operation_id)
    await first.idle()
    await first.runner.resume()
    await crash.begun.wait()
    first.runner.cancel(operation_id)
    await first.idle()
    assert (await store.read(row)).owner == "first"
    await store.write(lapse)
    crash.go_on.set()
    await second.runner.resume()
    await second.idle()
    assert [operation.step for operation in second.worked] == ["two"]
    assert (await store.read(row)).state == "done"
    assert done == {operation_id}
    assert first.unwound + second.unwound == []


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (Conflict("the image is gone"), Conflict, "the image is gone"),
        (ValueError("secret detail"), InternalError, "ValueError during job; the log has it under req-1"),
        (TimeoutError("of the work's own"), InternalError, "TimeoutError during job"),
    ],
)
async def test_a_failure_is_unwound_once(
    store: Store, worker: Worker, raised: Exception, kind: type[KilonovaError], words: str
) -> None:
    async def fails(_operation: Operation) -> None:
        raise raised

    worker.works = fails
    worker.runner.start(await store.write(begin))
    await worker.idle()
    assert [type(error) for error in worker.unwound] == [kind]
    found = await store.read(row)
    assert found.state == "failed"
    assert words in found.error
    assert "secret" not in found.error
    assert await worker.runner.resume() == 0


async def test_an_unknown_kind_is_unwound(store: Store, worker: Worker) -> None:
    worker.runner.start(await store.write(begin, kind="volume.shred"))
    await worker.idle()
    assert "compute.h does not know the operation volume.shred" in (await store.read(row)).error


async def test_at_the_deadline_the_work_is_stopped_and_unwound(store: Store, worker: Worker) -> None:
    worker.works = held = Held()
    worker.runner.start(await store.write(begin, deadline_s=0.1))
    await worker.idle()
    assert held.cancelled
    assert [type(error) for error in worker.unwound] == [DeadlineExceeded]
    assert (await store.read(row)).state == "failed"


async def test_work_past_its_deadline_is_not_begun(store: Store, worker: Worker) -> None:
    worker.runner.start(await store.write(begin, deadline_s=-1))
    await worker.idle()
    assert worker.worked == []
    assert [type(error) for error in worker.unwound] == [DeadlineExceeded]


async def test_what_ended_in_the_moment_of_its_failure_is_not_unwound(store: Store, worker: Worker) -> None:
    async def ends_then_fails(operation: Operation) -> None:
        await worker.complete(operation)
        raise Conflict("the message after the commit was not sent")

    worker.works = ends_then_fails
    worker.runner.start(await store.write(begin))
    await worker.idle()
    assert worker.unwound == []
    assert (await store.read(row)).state == "done"


async def test_what_another_worker_holds_is_not_unwound(store: Store, worker: Worker) -> None:
    async def stolen(_operation: Operation) -> None:
        await store.write(steal)
        raise Conflict("interrupted")

    worker.works = stolen
    worker.runner.start(await store.write(begin))
    await worker.idle()
    assert worker.unwound == []
    assert (await store.read(row)).owner == "thief"


async def test_an_unwinding_that_fails_is_tried_again(store: Store, worker: Worker) -> None:
    async def fails(_operation: Operation) -> None:
        raise Conflict("no")

    worker.works = worker.unwinds = fails
    worker.runner.start(await store.write(begin))
    await worker.idle()
    assert (await store.read(row)).state == "running"
    worker.unwinds = worker.fail
    assert await worker.runner.resume() == 1
    await worker.idle()
    assert (await store.read(row)).state == "failed"


async def test_the_lease_is_renewed_while_the_work_goes_on(
    store: Store, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LEASE_S", 0.03)
    worker.works = held = Held()
    worker.runner.start(await store.write(begin))
    await held.begun.wait()
    before = (await store.read(row)).lease_until
    async with asyncio.timeout(5):
        while (await store.read(row)).lease_until <= before:
            await asyncio.sleep(0)
    assert (await store.read(row)).owner == "w1"
    assert not held.cancelled


async def test_a_lost_lease_stops_the_work_without_unwinding(
    store: Store, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LEASE_S", 0.03)
    worker.works = held = Held()
    worker.runner.start(await store.write(begin))
    await held.begun.wait()
    await store.write(steal)
    await worker.idle()
    assert held.cancelled
    assert worker.unwound == []
    assert (await store.read(row)).owner == "thief"


async def test_the_lease_is_kept_while_unwinding(store: Store, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LEASE_S", 0.03)
    worker.unwinds = held = Held()

    async def fails(_operation: Operation) -> None:
        raise Conflict("no")

    worker.works = fails
    worker.runner.start(await store.write(begin))
    await held.begun.wait()
    before = (await store.read(row)).lease_until
    async with asyncio.timeout(5):
        while (await store.read(row)).lease_until <= before:
            await asyncio.sleep(0)


async def test_a_claim_that_fails_is_logged_and_tried_again(
    store: Store, worker: Worker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    operation_id = await store.write(begin)

    def broken(*_args: object, **_kwargs: object) -> None:
        raise Conflict("the disk is away")

    with monkeypatch.context() as patch:
        patch.setattr(rows, "claim", broken)
        worker.runner.start(operation_id)
        await worker.idle()
    assert f"w1 cannot claim the operation {operation_id} yet" in caplog.text
    assert await worker.runner.resume() == 1
    await worker.idle()
    assert (await store.read(row)).state == "done"


@pytest.mark.parametrize("during", ["works", "unwinds"])
async def test_stop_leaves_the_row_to_the_next_life(store: Store, make: Callable[[str], Worker], during: str) -> None:
    held = Held()
    first, second = make("life 1"), make("life 2")

    async def fails(_operation: Operation) -> None:
        raise Conflict("no")

    if during == "unwinds":
        first.works = fails
    setattr(first, during, held)
    operation_id = await store.write(begin)
    first.runner.start(operation_id)
    await held.begun.wait()
    await first.runner.stop()
    assert held.cancelled
    found = await store.read(row)
    assert (found.state, found.owner) == ("running", None)
    first.runner.start(operation_id)
    assert first.runner.running == 0
    assert await second.runner.resume() == 1
    await second.idle()
    assert (await store.read(row)).state == "done"


async def test_the_work_logs_under_the_request_that_began_it(
    store: Store, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    async def works(operation: Operation) -> None:
        seen.append(logs.request_id.get())
        await worker.complete(operation)

    worker.works = works
    logs.request_id.set("req-of-the-timer")
    with caplog.at_level(logging.INFO):
        worker.runner.start(await store.write(begin))
        await worker.idle()
    assert seen == ["req-1"]
    assert logs.request_id.get() == "req-of-the-timer"
