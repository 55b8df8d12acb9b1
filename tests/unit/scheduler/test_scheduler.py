"""The scheduler on a real store and bus: claims, refusals, lost messages, several schedulers at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, update

from kilonova.bus.local import LocalBus
from kilonova.config import Config, HostConfig
from kilonova.context import Context, system_context
from kilonova.errors import NotFound
from kilonova.ids import new_id
from kilonova.scheduler.agent import Scheduler, claim_host
from kilonova.scheduler.host_state import DEAD_AFTER_S, load_hosts
from kilonova.scheduler.network_host import pick_network_host
from kilonova.store import operations, schema
from kilonova.store.database import Store
from kilonova.store.schema import now
from kilonova.store.services import heartbeat


def add_host(tx: Connection, /, name: str, kind: str = "compute", **capacity: Any) -> None:
    offer = {"ram_mb": 1024, "vcpus": 8, "disk_gb": 100, "vif": "tap"} | capacity
    heartbeat(tx, kind, name, availability_zone="nova", started_at=now(), capacity=offer, progress={})


def add_instance(tx: Connection, /, *, ram_mb: int = 256, host: str | None = None, **values: Any) -> str:
    instance_id = new_id()
    row = {
        "id": instance_id,
        "project_id": "p1",
        "user_id": "u1",
        "name": "web",
        "hostname": "web",
        "flavor_id": "1",
        "flavor": {},
        "vcpus": 1,
        "ram_mb": ram_mb,
        "disk_gb": 1,
        "host": host,
        "reservation_id": "r-1",
        "task_state": "scheduling",
    }
    tx.execute(insert(schema.instances).values(**row | values))
    return instance_id


def begin(tx: Connection, /, instance_id: str, context: Context, **arguments: str) -> str:
    return operations.begin(
        tx,
        "server.create",
        instance_id,
        context=context,
        topic="scheduler",
        step="schedule",
        deadline_s=60,
        arguments=dict(arguments),
    )


def row_of(tx: Connection, table: Any, row_id: str) -> Any:
    return tx.execute(select(table).where(table.c.id == row_id)).one()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def scheduler(store: Store, bus: LocalBus, config: Config) -> AsyncIterator[Scheduler]:
    scheduler = Scheduler(store, bus, config)
    await scheduler.start()
    yield scheduler
    await scheduler.stop()


async def create(store: Store, bus: LocalBus, **arguments: str) -> tuple[str, str]:
    """An instance that waits for the scheduler, which is told: (instance, operation)."""
    context = system_context()
    instance_id = await store.write(add_instance)
    operation_id = await store.write(begin, instance_id, context, **arguments)
    await bus.cast("scheduler", "run_operation", {"operation_id": operation_id}, context=context)
    return instance_id, operation_id


async def test_the_chosen_host_is_told(store: Store, bus: LocalBus, scheduler: Scheduler) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(_context: Context, args: dict[str, Any]) -> None:
        heard.put_nowait(args["operation_id"])

    bus.subscribe("compute.host1", {"run_operation": hear})
    await store.write(add_host, "host1")
    instance_id, operation_id = await create(store, bus)
    async with asyncio.timeout(10):
        assert await heard.get() == operation_id
    instance = await store.read(row_of, schema.instances, instance_id)
    assert (instance.host, instance.task_state, instance.availability_zone) == ("host1", "spawning", "nova")
    operation = await store.read(row_of, schema.operations, operation_id)
    assert (operation.step, operation.topic, operation.owner) == ("build", "compute.host1", None)


async def test_its_ports_learn_where_they_are(store: Store, bus: LocalBus, scheduler: Scheduler) -> None:
    await store.write(add_host, "host1", vif="veth")

    def with_port(tx: Connection) -> tuple[str, str]:
        instance_id, network_id, port_id = add_instance(tx), new_id(), new_id()
        network = {"id": network_id, "project_id": "p1", "manager": "vlan", "physical_network": "x", "bridge": "br1"}
        tx.execute(insert(schema.networks).values(**network))
        port = {"id": port_id, "network_id": network_id, "project_id": "p1", "mac": "fa:16:3e:00:00:01"}
        tx.execute(insert(schema.ports).values(**port, device_id=instance_id))
        return begin(tx, instance_id, system_context()), port_id

    operation_id, port_id = await store.write(with_port)
    await bus.cast("scheduler", "run_operation", {"operation_id": operation_id}, context=system_context())

    async def placed() -> bool:
        return bool((await store.read(row_of, schema.ports, port_id)).host)

    await until(placed)
    port = await store.read(row_of, schema.ports, port_id)
    assert (port.host, port.vif) == ("host1", "veth")


async def test_an_instance_that_fits_nowhere_shows_why(store: Store, bus: LocalBus, scheduler: Scheduler) -> None:
    await store.write(add_host, "host1", ram_mb=100)
    instance_id, operation_id = await create(store, bus)

    async def failed() -> bool:
        return bool((await store.read(row_of, schema.operations, operation_id)).state == "failed")

    await until(failed)
    instance = await store.read(row_of, schema.instances, instance_id)
    assert (instance.vm_state, instance.task_state, instance.host) == ("error", None, None)

    def faults(tx: Connection) -> list[str]:
        return list(tx.execute(select(schema.instance_faults.c.message)).scalars())

    assert await store.read(faults) == ["No valid host was found. host1: RAM 256 MB needed, 100 MB free"]


async def test_a_named_host_is_the_only_choice(store: Store, bus: LocalBus, scheduler: Scheduler) -> None:
    await store.write(add_host, "host1", ram_mb=100_000)
    await store.write(add_host, "host2")
    instance_id, _ = await create(store, bus, host="host2")

    async def placed() -> bool:
        return bool((await store.read(row_of, schema.instances, instance_id)).host)

    await until(placed)
    assert (await store.read(row_of, schema.instances, instance_id)).host == "host2"


async def test_several_schedulers_do_not_overcommit(store: Store, bus: LocalBus, config: Config) -> None:
    await store.write(add_host, "host1")
    schedulers = [Scheduler(store, bus, config) for _ in range(3)]
    for scheduler in schedulers:
        await scheduler.start()
    made = [await create(store, bus) for _ in range(8)]

    async def all_done() -> bool:
        rows = [await store.read(row_of, schema.operations, operation_id) for _, operation_id in made]
        return all(row.step == "build" or row.state == "failed" for row in rows)

    await until(all_done)
    for scheduler in schedulers:
        await scheduler.stop()
    [host] = await store.read(load_hosts)
    assert (host.instances, host.used_ram_mb, host.free_ram_mb) == (4, 1024, 0)


async def test_a_lost_message_costs_a_poll(store: Store, bus: LocalBus, tmp_path: Path) -> None:
    await store.write(add_host, "host1")
    instance_id = await store.write(add_instance)
    await store.write(begin, instance_id, system_context())
    scheduler = Scheduler(store, bus, Config(tmp_path, host=HostConfig(poll_interval_s=0.01)))
    await scheduler.start()

    async def placed() -> bool:
        return bool((await store.read(row_of, schema.instances, instance_id)).host)

    await until(placed)
    await scheduler.stop()


async def test_claiming_twice_changes_nothing_and_a_deleted_instance_is_not_found(store: Store) -> None:
    await store.write(add_host, "host1")

    def claim(tx: Connection, instance_id: str) -> str:
        operation_id = begin(tx, instance_id, system_context())
        operation = operations.claim(tx, operation_id, "me", 10)
        assert operation is not None
        return claim_host(tx, operation)

    instance_id = await store.write(add_instance)
    assert await store.write(claim, instance_id) == "compute.host1"
    assert await store.write(claim, instance_id) == "compute.host1"
    assert (await store.read(load_hosts))[0].instances == 1
    with pytest.raises(NotFound):
        await store.write(claim, new_id())


async def test_a_silent_or_forced_down_host_is_dead(store: Store) -> None:
    def silence(tx: Connection, /, host: str, **values: Any) -> None:
        tx.execute(update(schema.services).where(schema.services.c.host == host).values(**values))

    for name in ("quiet", "forced", "fine"):
        await store.write(add_host, name)
    await store.write(silence, "quiet", seen_at=now() - timedelta(seconds=DEAD_AFTER_S + 1))
    await store.write(silence, "forced", forced_down=True)
    assert {host.name: host.alive for host in await store.read(load_hosts)} == {
        "quiet": False,
        "forced": False,
        "fine": True,
    }


async def test_the_least_loaded_living_network_host_is_picked(store: Store) -> None:
    assert await store.read(pick_network_host) is None

    def load(tx: Connection) -> None:
        for name in ("a", "b", "c"):
            add_host(tx, name, "network")
        tx.execute(update(schema.services).where(schema.services.c.host == "c").values(enabled=False))
        network = {"id": new_id(), "project_id": "p1", "manager": "vlan", "physical_network": "x", "bridge": "br1"}
        tx.execute(insert(schema.networks).values(**network, host="a"))

    await store.write(load)
    assert await store.read(pick_network_host) == "b"


async def test_a_server_is_claimed_by_a_host_that_carries_its_networks(store: Store) -> None:
    """The host with more room has no trunk, and the network's services run on a third one."""

    def unit(tx: Connection) -> str:
        for name, ram_mb, trunks in (("host1", 9000, []), ("host2", 1000, ["physnet1"]), ("host3", 0, ["physnet1"])):
            add_host(tx, name, ram_mb=ram_mb)
            add_host(tx, name, kind="network", trunks=trunks, flat_bridges={}, tunnel=None)
        network_id = new_id()
        wire = {"manager": "vlan", "physical_network": "physnet1", "segmentation_id": 7, "bridge": "br7"}
        tx.execute(insert(schema.networks).values(id=network_id, project_id="p1", host="host3", **wire))
        instance_id = add_instance(tx)
        port = {"id": new_id(), "mac": "fa:16:3e:00:00:01", "network_id": network_id, "device_id": instance_id}
        tx.execute(insert(schema.ports).values(project_id="p1", **port))
        begin(tx, instance_id, system_context())
        (operation,) = operations.running_for(tx, instance_id)
        return claim_host(tx, operation)

    assert await store.write(unit) == "compute.host2"
