"""The reaper: nothing is stuck, whatever died."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, insert, select, update

from kilonova.bus.local import LocalBus
from kilonova.cloud.reaper import Reaper
from kilonova.config import Config
from kilonova.context import Context, system_context
from kilonova.ids import new_id
from kilonova.store import operations, schema
from kilonova.store.database import Store
from kilonova.store.schema import now


def add(tx: Connection, /, kind: str | None, *, deadline_s: float = 60, **values: Any) -> tuple[str, str]:
    """An instance on host1 and an operation for it: (instance, operation)."""
    instance_id = new_id()
    row = {"id": instance_id, "project_id": "p1", "user_id": "u1", "name": "web", "hostname": "web", "flavor_id": "1"}
    sizes = {"flavor": {}, "vcpus": 1, "ram_mb": 1, "disk_gb": 1, "host": "host1", "reservation_id": "r"}
    tx.execute(insert(schema.instances).values(**row | sizes | values))
    if kind is None:
        return instance_id, ""
    operation_id = operations.begin(
        tx,
        kind,
        instance_id,
        context=system_context(),
        topic="compute.host1",
        step="run",
        deadline_s=deadline_s,
    )
    return instance_id, operation_id


def age(tx: Connection, table: Any, row_id: str, seconds: float) -> None:
    tx.execute(update(table).where(table.c.id == row_id).values(updated_at=now() - timedelta(seconds=seconds)))


def row_of(tx: Connection, table: Any, row_id: str) -> Any:
    return tx.execute(select(table).where(table.c.id == row_id)).one_or_none()


def faults_of(tx: Connection, instance_id: str) -> list[str]:
    query = select(schema.instance_faults.c.message).where(schema.instance_faults.c.instance_id == instance_id)
    return list(tx.execute(query).scalars())


class Ears:
    """Notes the operations that host1 is asked to run."""

    def __init__(self, bus: LocalBus) -> None:
        self.heard: asyncio.Queue[str] = asyncio.Queue()
        bus.subscribe("compute.host1", {"run_operation": self._hear})

    async def _hear(self, _context: Context, args: dict[str, Any]) -> None:
        self.heard.put_nowait(args["operation_id"])

    async def next(self) -> str:
        async with asyncio.timeout(5):
            return await self.heard.get()


async def test_a_late_create_shows_error_and_why(store: Store, bus: LocalBus, config: Config) -> None:
    instance_id, operation_id = await store.write(add, "server.create", deadline_s=-1, task_state="spawning")
    await Reaper(store, bus, config).sweep()
    instance = await store.read(row_of, schema.instances, instance_id)
    assert (instance.vm_state, instance.task_state) == ("error", None)
    assert "was not done by its deadline: compute.host1" in (await store.read(faults_of, instance_id))[0]
    assert (await store.read(row_of, schema.operations, operation_id)).state == "failed"


async def test_a_late_action_leaves_the_server_as_it_is(store: Store, bus: LocalBus, config: Config) -> None:
    instance_id, _ = await store.write(add, "server.reboot", deadline_s=-1, vm_state="active", task_state="rebooting")
    await Reaper(store, bus, config).sweep()
    instance = await store.read(row_of, schema.instances, instance_id)
    assert (instance.vm_state, instance.task_state) == ("active", None)


async def test_a_late_delete_is_asked_for_again(store: Store, bus: LocalBus, config: Config) -> None:
    from kilonova.store.services import heartbeat

    await store.write(
        heartbeat, "compute", "host1", availability_zone="nova", started_at=now(), capacity={}, progress={}
    )
    ears = Ears(bus)
    _, operation_id = await store.write(add, "server.delete", deadline_s=-1, task_state="deleting")
    await Reaper(store, bus, config).sweep()
    assert await ears.next() == operation_id
    operation = await store.read(row_of, schema.operations, operation_id)
    assert (operation.state, operation.deadline > now()) == ("running", True)


async def test_a_late_delete_ends_when_its_host_left_the_cloud(store: Store, bus: LocalBus, config: Config) -> None:
    instance_id, operation_id = await store.write(add, "server.delete", deadline_s=-1, task_state="deleting")
    await Reaper(store, bus, config).sweep()
    assert await store.read(row_of, schema.instances, instance_id) is None
    assert (await store.read(row_of, schema.operations, operation_id)).state == "done"


async def test_a_late_delete_of_nothing_is_done(store: Store, bus: LocalBus, config: Config) -> None:
    instance_id, operation_id = await store.write(add, "server.delete", deadline_s=-1)

    def vanish(tx: Connection) -> None:
        tx.execute(schema.instances.delete().where(schema.instances.c.id == instance_id))

    await store.write(vanish)
    await Reaper(store, bus, config).sweep()
    assert (await store.read(row_of, schema.operations, operation_id)).state == "done"


async def test_an_operation_nobody_took_is_asked_for_again(store: Store, bus: LocalBus, config: Config) -> None:
    ears = Ears(bus)
    _, held = await store.write(add, "server.start")
    _, waiting = await store.write(add, "server.start")
    await store.write(operations.claim, held, "somebody", 60.0)
    for operation_id in (held, waiting):
        await store.write(age, schema.operations, operation_id, 10)
    await Reaper(store, bus, config).sweep()
    assert await ears.next() == waiting
    assert ears.heard.empty()


async def test_instances_that_nobody_works_on_come_to_rest(store: Store, bus: LocalBus, config: Config) -> None:
    ears = Ears(bus)
    building, _ = await store.write(add, None, task_state="spawning")
    stopping, _ = await store.write(add, None, vm_state="active", task_state="powering-off")
    unplaced, _ = await store.write(add, None, task_state="deleting", host=None)
    deleting, _ = await store.write(add, None, task_state="deleting")
    fresh, _ = await store.write(add, None, task_state="spawning")
    for instance_id in (building, stopping, unplaced, deleting):
        await store.write(age, schema.instances, instance_id, 60)
    await Reaper(store, bus, config).sweep()
    states = {}
    for instance_id in (building, stopping, deleting, fresh):
        row = await store.read(row_of, schema.instances, instance_id)
        states[instance_id] = (row.vm_state, row.task_state)
    assert states == {
        building: ("error", None),
        stopping: ("active", None),
        deleting: ("building", "deleting"),
        fresh: ("building", "spawning"),
    }
    assert await store.read(row_of, schema.instances, unplaced) is None
    again = await store.read(row_of, schema.operations, await ears.next())
    assert (again.kind, again.resource_id) == ("server.delete", deleting)


async def test_ended_operations_are_forgotten_after_a_day(store: Store, bus: LocalBus, config: Config) -> None:
    _, old = await store.write(add, "server.start")
    _, young = await store.write(add, "server.start")
    for operation_id in (old, young):
        await store.write(operations.complete, operation_id)
    await store.write(age, schema.operations, old, 48 * 3600)
    await Reaper(store, bus, config).sweep()
    assert await store.read(row_of, schema.operations, old) is None
    assert await store.read(row_of, schema.operations, young) is not None


async def test_it_runs_by_itself_until_stopped(store: Store, bus: LocalBus, config: Config) -> None:
    _, operation_id = await store.write(add, "server.start", deadline_s=-1)
    reaper = Reaper(store, bus, config, interval_s=0.01)
    await reaper.start()
    async with asyncio.timeout(5):
        while (await store.read(row_of, schema.operations, operation_id)).state == "running":
            await asyncio.sleep(0.01)
    await reaper.stop()
