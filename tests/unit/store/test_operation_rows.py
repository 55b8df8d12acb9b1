"""The rows of operations: one holder at a time, until it ends, dies or is overtaken."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from sqlalchemy import Connection, select, update

from kilonova.context import Context
from kilonova.ids import OperationId, ProjectId, RequestId, UserId
from kilonova.store import operations as rows
from kilonova.store.database import Store
from kilonova.store.schema import now, operations

CONTEXT = Context(request_id=RequestId("req-1"), user_id=UserId("u"), project_id=ProjectId("p"))


def begin(tx: Connection, resource: str = "i1", topic: str = "compute.h", deadline_s: float = 60) -> OperationId:
    return rows.begin(
        tx, "server.create", resource, context=CONTEXT, topic=topic, step="build", deadline_s=deadline_s,
        arguments={"n": [1]},
    )  # fmt: skip


def lapse(tx: Connection) -> None:
    """Let every lease run out."""
    held = operations.c.owner.is_not(None)
    tx.execute(update(operations).where(held).values(lease_until=now() - timedelta(seconds=1)))


def state(tx: Connection, operation_id: str) -> tuple[str, str | None, str | None]:
    row = tx.execute(select(operations).where(operations.c.id == operation_id)).one()
    return row.state, row.owner, row.error


async def test_a_claimed_operation_is_what_was_begun(store: Store) -> None:
    operation_id = await store.write(begin)
    operation = await store.write(rows.claim, operation_id, "w1", 15)
    assert operation is not None
    assert (operation.kind, operation.resource_id, operation.step) == ("server.create", "i1", "build")
    assert operation.arguments == {"n": [1]}
    assert operation.context == CONTEXT
    assert timedelta(seconds=50) < operation.deadline - now() <= timedelta(seconds=60)


async def test_concurrent_workers_claim_it_once(store: Store) -> None:
    operation_id = await store.write(begin)
    other = Store(store.url)
    await other.open()
    claims = [
        each.write(rows.claim, operation_id, f"worker-{number}-{id(each)}", 15)
        for number in range(10)
        for each in (store, other)
    ]
    taken = [operation for operation in await asyncio.gather(*claims) if operation]
    await other.close()
    assert len(taken) == 1


async def test_its_holder_may_claim_it_again(store: Store) -> None:
    operation_id = await store.write(begin)
    for _ in range(2):
        assert await store.write(rows.claim, operation_id, "w1", 15)


async def test_another_worker_takes_it_after_the_lease_and_the_first_cannot_renew(store: Store) -> None:
    operation_id = await store.write(begin)
    assert await store.write(rows.claim, operation_id, "w1", 15)
    assert await store.write(rows.renew, operation_id, "w1", 15)
    assert not await store.write(rows.claim, operation_id, "w2", 15)
    await store.write(lapse)
    assert await store.write(rows.claim, operation_id, "w2", 15)
    assert not await store.write(rows.renew, operation_id, "w1", 15)


async def test_only_the_present_steps_topic_claims_it(store: Store) -> None:
    """A doubled message to the scheduler does not bring back an operation that is the host's by now."""
    operation_id = await store.write(begin, topic="scheduler")
    assert await store.write(rows.claim, operation_id, "s", 15, topic="scheduler")
    assert await store.write(rows.advance, operation_id, step="build", topic="compute.h")
    assert not await store.write(rows.claim, operation_id, "s", 15, topic="scheduler")
    operation = await store.write(rows.claim, operation_id, "c", 15, topic="compute.h")
    assert operation is not None
    assert operation.step == "build"


async def test_what_has_ended_stays_ended(store: Store) -> None:
    operation_id = await store.write(begin)
    assert await store.write(rows.claim, operation_id, "w1", 15)
    assert await store.write(rows.complete, operation_id)
    assert not await store.write(rows.claim, operation_id, "w1", 15)
    assert not await store.write(rows.renew, operation_id, "w1", 15)
    assert not await store.write(rows.advance, operation_id, step="x", topic="y")
    assert not await store.write(rows.fail, operation_id, "too late")
    assert not await store.write(rows.complete, operation_id)
    assert await store.read(state, operation_id) == ("done", None, None)


async def test_a_failure_keeps_its_reason(store: Store) -> None:
    operation_id = await store.write(begin)
    assert await store.write(rows.fail, operation_id, "no host has room")
    assert await store.read(state, operation_id) == ("failed", None, "no host has room")


async def test_a_delete_overtakes_the_others_of_its_resource(store: Store) -> None:
    first, delete, other = [await store.write(begin, resource) for resource in ("i1", "i1", "i2")]
    await store.write(rows.cancel_for, "i1", "deleted", except_id=delete)
    assert await store.read(state, first) == ("failed", None, "deleted")
    assert [operation.id for operation in await store.read(rows.running_for, "i1")] == [delete]
    assert [operation.id for operation in await store.read(rows.running_for, "i2")] == [other]


async def test_pending_are_those_of_the_topic_that_nobody_else_holds(store: Store) -> None:
    free, held, mine, lapsed, _elsewhere, ended = [
        await store.write(begin, f"i{number}", topic)
        for number, topic in enumerate(["t", "t", "t", "t", "elsewhere", "t"])
    ]
    assert await store.write(rows.claim, lapsed, "dead", 15)
    await store.write(lapse)
    assert await store.write(rows.claim, held, "other", 15)
    assert await store.write(rows.claim, mine, "me", 15)
    await store.write(rows.complete, ended)
    assert await store.read(rows.pending_for_topic, "t", "me") == [free, mine, lapsed]
    assert await store.read(rows.pending_for_topic, "t") == [free, lapsed]


async def test_a_worker_gives_its_leases_back(store: Store) -> None:
    mine, others = [await store.write(begin, resource) for resource in ("i1", "i2")]
    await store.write(rows.claim, mine, "me", 15)
    await store.write(rows.claim, others, "other", 15)
    await store.write(rows.release, "compute.h", "me")
    assert await store.read(rows.pending_for_topic, "compute.h") == [mine]


async def test_the_reaper_leaves_a_holder_time_to_unwind_by_itself(store: Store) -> None:
    unheld, held, in_time = [await store.write(begin, "i", deadline_s=deadline) for deadline in (-5, -5, 60)]
    assert in_time
    await store.write(rows.claim, held, "w", 15)
    assert [operation.id for operation in await store.read(rows.overdue, 30)] == [unheld]
    assert {operation.id for operation in await store.read(rows.overdue, 1)} == {unheld, held}
    await store.write(lapse)
    assert {operation.id for operation in await store.read(rows.overdue, 30)} == {unheld, held}


async def test_pruning_forgets_only_what_ended_long_ago(store: Store) -> None:
    running, recent, old = [await store.write(begin, resource) for resource in ("i1", "i2", "i3")]
    await store.write(rows.complete, recent)
    await store.write(rows.complete, old)

    def age(tx: Connection) -> None:
        past = now() - timedelta(hours=2)
        tx.execute(update(operations).where(operations.c.id.in_([running, old])).values(updated_at=past))

    await store.write(age)
    assert await store.write(rows.prune, 3600) == 1
    assert await store.read(lambda tx: set(tx.execute(select(operations.c.id)).scalars())) == {running, recent}
