"""The compute controller with a fake driver on a real store and bus: what users see when guests come and go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import Connection, insert, select, update

from kilonova.bus.local import LocalBus
from kilonova.compute.agent import ComputeAgent
from kilonova.compute.driver import PowerState
from kilonova.compute.fake import FakeDriver
from kilonova.compute.guest_directory import GuestDirectory
from kilonova.config import Config, HostConfig
from kilonova.context import Context, system_context
from kilonova.errors import CommandFailed, Unavailable
from kilonova.ids import InstanceId, new_id
from kilonova.store import operations, schema
from kilonova.store.database import Store

HOST = "host1"


class Cloud:
    """A store with one instance's rows, a bus, a network agent that only notes what it is asked, a compute agent."""

    def __init__(self, state_dir: Path) -> None:
        self.config = Config(state_dir, host=HostConfig(name=HOST, driver="fake", poll_interval_s=3600))
        self.store = Store(self.config.database_url)
        self.bus = LocalBus()
        self.driver = FakeDriver(self.config.host, state_dir)
        self.agent = self._agent()
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.wire_errors: list[Exception] = []

    def _agent(self) -> ComputeAgent:
        return ComputeAgent(self.store, self.bus, self.config, image_token=lambda: "token", driver=self.driver)

    async def open(self) -> None:
        await self.store.open()

        def note(method: str) -> Callable[[Context, dict[str, Any]], Any]:
            async def handler(_context: Context, args: dict[str, Any]) -> None:
                self.asked.append((method, args))
                if method == "wire" and self.wire_errors:
                    raise self.wire_errors.pop(0)

            return handler

        methods = ("realise", "wire", "unwire", "look_again")
        self.bus.subscribe(f"network.{HOST}", {method: note(method) for method in methods})
        await self._start()

    async def _start(self) -> None:
        """Start the compute controller and let it look around, so that a test's rows are not there too early."""
        await self.agent.start()

        async def looked() -> bool:
            return bool(self.agent.swept_at)

        await until(looked)

    async def restart(self, *, lost: InstanceId | None = None) -> None:
        """A new life of the compute controller on the same state; the guest `lost` did not outlive the old one."""
        await self.agent.stop()
        if lost:
            await self.driver.destroy(lost)
        self.driver = FakeDriver(self.config.host, self.config.state_dir)
        self.agent = self._agent()
        await self._start()

    async def close(self) -> None:
        await self.agent.stop()
        await self.bus.close()
        await self.store.close()

    async def new_instance(self, **values: Any) -> InstanceId:
        return await self.store.write(_insert_instance, values)

    async def begin(self, kind: str, instance_id: str, *, deadline_s: float = 60, **arguments: Any) -> str:
        operation_id = await self.store.write(
            operations.begin,
            kind,
            instance_id,
            context=system_context(),
            topic=f"compute.{HOST}",
            step="build",
            deadline_s=deadline_s,
            arguments=arguments,
        )
        await self.bus.cast(
            f"compute.{HOST}", "run_operation", {"operation_id": operation_id}, context=system_context()
        )
        return operation_id

    async def run(self, kind: str, instance_id: str, **arguments: Any) -> Any:
        """Do one operation to its end; its row."""
        return await self.ended(await self.begin(kind, instance_id, **arguments))

    async def ended(self, operation_id: str) -> Any:
        async def is_over() -> Any:
            row = await self.row(schema.operations, operation_id)
            return row if row.state != "running" else None

        return await until(is_over)

    async def row(self, table: Any, row_id: str) -> Any:
        return await self.store.read(lambda tx: tx.execute(select(table).where(table.c.id == row_id)).one_or_none())

    async def instance(self, instance_id: str) -> Any:
        return await self.row(schema.instances, instance_id)

    async def faults(self, instance_id: str) -> list[str]:
        faults = schema.instance_faults
        query = select(faults.c.message).where(faults.c.instance_id == instance_id)
        return await self.store.read(lambda tx: list(tx.execute(query).scalars()))


async def until(condition: Callable[[], Any], deadline_s: float = 10.0) -> Any:
    """What `condition` answers, once that is true."""
    give_up = asyncio.get_running_loop().time() + deadline_s
    while not (value := await condition()):
        assert asyncio.get_running_loop().time() < give_up, "the condition did not come true in time"
        await asyncio.sleep(0.005)
    return value


def _insert_instance(tx: Connection, values: dict[str, Any]) -> InstanceId:
    instance_id = InstanceId(new_id())
    network_id, subnet_id, port_id = new_id(), new_id(), new_id()
    project = {"project_id": "p1"}
    row = {
        "id": instance_id,
        "user_id": "u1",
        "name": "one",
        "hostname": "one",
        "flavor_id": "1",
        "vcpus": 1,
        "ram_mb": 64,
        "disk_gb": 0,
        "host": HOST,
        "reservation_id": "r-1",
        "task_state": "spawning",
        **project,
    }
    tx.execute(insert(schema.instances).values(**(row | values)))
    network = {"manager": "vlan", "physical_network": new_id(), "bridge": "br100", "host": HOST}
    tx.execute(insert(schema.networks).values(id=network_id, **network, **project))
    tx.execute(insert(schema.subnets).values(id=subnet_id, network_id=network_id, cidr="10.0.0.0/24", **project))
    port = {"device_id": instance_id, "device_owner": "compute:nova", "host": HOST, "made_with_server": True}
    tx.execute(insert(schema.ports).values(id=port_id, network_id=network_id, mac=_mac(port_id), **port, **project))
    address = {"subnet_id": subnet_id, "address": "10.0.0.3", "network_id": network_id, "port_id": port_id}
    tx.execute(insert(schema.addresses).values(**address))
    return instance_id


def _mac(port_id: str) -> str:
    return "fa:16:3e:" + ":".join(port_id[i : i + 2] for i in (0, 2, 4))


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    made = Cloud(tmp_path)
    await made.open()
    yield made
    await made.close()


async def active(cloud: Cloud, **values: Any) -> InstanceId:
    instance_id = await cloud.new_instance(**values)
    assert (await cloud.run("server.create", instance_id)).state == "done"
    return instance_id


async def test_create_makes_the_instance_active_after_its_network_and_port_are_wired(cloud: Cloud) -> None:
    instance_id = await active(cloud)
    row = await cloud.instance(instance_id)
    assert (row.vm_state, row.task_state, row.power_state) == ("active", None, 1)
    assert row.launched_at is not None
    assert {method for method, _ in cloud.asked} == {"realise", "wire"}
    assert await cloud.driver.state(instance_id) == PowerState.RUNNING


async def test_doing_a_create_again_changes_nothing(cloud: Cloud) -> None:
    instance_id = await active(cloud)
    assert (await cloud.run("server.create", instance_id)).state == "done"
    assert await cloud.driver.list() == [instance_id]


async def test_failed_create_shows_why_and_leaves_nothing(cloud: Cloud) -> None:
    cloud.driver.faults.errors["create"] = [CommandFailed("qemu: no such machine")]
    instance_id = await cloud.new_instance()
    operation = await cloud.run("server.create", instance_id)
    row = await cloud.instance(instance_id)
    assert operation.state == "failed"
    assert (row.vm_state, row.task_state, row.host) == ("error", None, None)
    assert await cloud.faults(instance_id) == ["qemu: no such machine"]
    assert await cloud.driver.list() == []
    assert cloud.asked[-1][0] == "look_again"


async def test_a_port_that_cannot_be_wired_fails_the_create(cloud: Cloud) -> None:
    cloud.wire_errors.append(Unavailable("bridge br100 does not exist"))
    instance_id = await cloud.new_instance()
    await cloud.run("server.create", instance_id)
    assert await cloud.faults(instance_id) == ["bridge br100 does not exist"]


async def test_create_past_its_deadline_is_unwound(cloud: Cloud) -> None:
    cloud.driver.faults.delays_s["create"] = 30
    instance_id = await cloud.new_instance()
    operation = await cloud.run("server.create", instance_id, deadline_s=0.2)
    assert operation.state == "failed"
    assert (await cloud.instance(instance_id)).vm_state == "error"
    assert await cloud.driver.list() == []


async def test_delete_removes_guest_row_and_port_and_releases_the_address(cloud: Cloud) -> None:
    instance_id = await active(cloud)
    assert (await cloud.run("server.delete", instance_id)).state == "done"
    assert await cloud.instance(instance_id) is None
    assert await cloud.driver.list() == []
    addresses = await cloud.store.read(lambda tx: tx.execute(select(schema.addresses)).all())
    assert [(row.port_id, row.released_host) for row in addresses] == [(None, HOST)]
    assert await cloud.store.read(lambda tx: tx.execute(select(schema.ports)).all()) == []


async def test_delete_cuts_a_create_short(cloud: Cloud) -> None:
    cloud.driver.faults.delays_s["create"] = 30
    instance_id = await cloud.new_instance()
    await cloud.begin("server.create", instance_id)
    await until(lambda: _listed(cloud, instance_id))
    delete = await cloud.begin("server.delete", instance_id)
    await cloud.store.write(operations.cancel_for, instance_id, "deleted", except_id=delete)
    assert (await cloud.ended(delete)).state == "done"
    assert await cloud.instance(instance_id) is None
    assert await cloud.driver.list() == []


async def _listed(cloud: Cloud, instance_id: InstanceId) -> bool:
    return instance_id in await cloud.driver.list()


async def test_failed_delete_can_be_tried_again(cloud: Cloud) -> None:
    instance_id = await active(cloud)
    cloud.driver.faults.errors["destroy"] = [CommandFailed("device is busy")]
    assert (await cloud.run("server.delete", instance_id)).state == "failed"
    assert (await cloud.instance(instance_id)).vm_state == "error"
    assert (await cloud.run("server.delete", instance_id)).state == "done"


async def test_stop_start_reboot_pause_unpause(cloud: Cloud) -> None:
    instance_id = await active(cloud)
    for kind, vm_state, power, wanted in (
        ("server.stop", "stopped", 4, "shutdown"),
        ("server.start", "active", 1, "running"),
        ("server.pause", "paused", 3, "paused"),
        ("server.unpause", "active", 1, "running"),
        ("server.reboot", "active", 1, "running"),
    ):
        assert (await cloud.run(kind, instance_id)).state == "done", kind
        row = await cloud.instance(instance_id)
        assert (row.vm_state, row.power_state, row.wanted_power) == (vm_state, power, wanted), kind
        assert await cloud.driver.state(instance_id) == power


async def test_server_starts_again_after_its_image_was_deleted(cloud: Cloud, tmp_path: Path) -> None:
    """Its disk lies on this host's copy, which is kept as long as it is used."""
    instance_id = await cloud.new_instance(image_id=new_id())
    await cloud.run("server.create", instance_id)
    await cloud.run("server.stop", instance_id)
    cloud.driver.has_disks = True
    (tmp_path / "image").touch()
    directory = GuestDirectory(cloud.config.state_dir, instance_id)
    directory.save_spec(msgspec.structs.replace(directory.load_spec(), image=tmp_path / "image"))

    operation = await cloud.run("server.start", instance_id)

    assert (operation.state, operation.error) == ("done", None)
    assert directory.load_spec().image == tmp_path / "image"


async def test_hard_reboot_wires_the_ports_again_and_starts_a_stopped_guest(cloud: Cloud) -> None:
    instance_id = await active(cloud)
    await cloud.run("server.stop", instance_id)
    cloud.asked.clear()
    assert (await cloud.run("server.reboot", instance_id, type="HARD")).state == "done"
    assert "wire" in {method for method, _ in cloud.asked}
    assert await cloud.driver.state(instance_id) == PowerState.RUNNING


@pytest.mark.parametrize("steps", [["server.stop", "server.start"], ["server.reboot"]])
async def test_config_drive_tells_the_addresses_of_the_last_start(cloud: Cloud, steps: list[str]) -> None:
    cloud.driver.drive_form = "directory"
    instance_id = await active(cloud, config_drive=True)
    document = GuestDirectory(cloud.config.state_dir, instance_id).config_files / "openstack/latest/network_data.json"
    assert json.loads(document.read_text())["networks"][0]["type"] == "ipv4_dhcp"
    await cloud.store.write(lambda tx: tx.execute(update(schema.subnets).values(enable_dhcp=False)).rowcount)
    for kind in steps:
        assert (await cloud.run(kind, instance_id, type="HARD")).state == "done", kind
    network = json.loads(document.read_text())["networks"][0]
    assert (network["type"], network["ip_address"]) == ("ipv4", "10.0.0.3")


async def test_server_without_a_config_drive_gets_none(cloud: Cloud) -> None:
    cloud.driver.drive_form = "directory"
    instance_id = await active(cloud)
    assert not GuestDirectory(cloud.config.state_dir, instance_id).config_files.exists()


async def test_failed_pause_shows_the_guest_as_it_is(cloud: Cloud) -> None:
    instance_id = await active(cloud)
    cloud.driver.faults.errors["pause"] = [CommandFailed("no")]
    assert (await cloud.run("server.pause", instance_id)).state == "failed"
    row = await cloud.instance(instance_id)
    assert (row.vm_state, row.task_state) == ("active", None)


async def test_guest_that_ends_by_itself_is_stopped_and_stays_so(cloud: Cloud) -> None:
    instance_id = await active(cloud)
    cloud.driver.die(instance_id)
    await until(lambda: _has_state(cloud, instance_id, "stopped"))
    await cloud.restart()
    await cloud.agent.sweep(starting=True)
    assert (await cloud.instance(instance_id)).vm_state == "stopped"


async def _has_state(cloud: Cloud, instance_id: InstanceId, vm_state: str) -> bool:
    return bool((await cloud.instance(instance_id)).vm_state == vm_state)


@pytest.mark.parametrize(("wanted", "state"), [("running", PowerState.RUNNING), ("paused", PowerState.PAUSED)])
async def test_restarted_host_brings_guests_back_as_the_user_left_them(
    cloud: Cloud, wanted: str, state: PowerState
) -> None:
    instance_id = await active(cloud)
    if wanted == "paused":
        await cloud.run("server.pause", instance_id)
    await cloud.restart(lost=instance_id)
    await until(lambda: _is(cloud, instance_id, state))


async def _is(cloud: Cloud, instance_id: InstanceId, state: PowerState) -> bool:
    return await cloud.driver.state(instance_id) == state


async def test_guest_without_a_row_is_destroyed(cloud: Cloud) -> None:
    instance_id = await active(cloud)
    await cloud.store.write(_forget, instance_id)
    await cloud.agent.sweep()
    assert await cloud.driver.list() == []


def _forget(tx: Connection, instance_id: str) -> None:
    tx.execute(update(schema.instances).where(schema.instances.c.id == instance_id).values(host="other"))


async def test_instance_that_nobody_makes_any_more_shows_it(cloud: Cloud) -> None:
    instance_id = await cloud.new_instance()
    await cloud.agent.sweep()
    row = await cloud.instance(instance_id)
    assert (row.vm_state, row.host) == ("error", None)
    assert "interrupted" in (await cloud.faults(instance_id))[0]


async def test_create_interrupted_by_a_restart_is_resumed(cloud: Cloud) -> None:
    cloud.driver.faults.delays_s["create"] = 30
    instance_id = await cloud.new_instance()
    operation = await cloud.begin("server.create", instance_id)
    await until(lambda: _listed(cloud, instance_id))
    await cloud.restart()
    assert (await cloud.ended(operation)).state == "done"
    assert (await cloud.instance(instance_id)).vm_state == "active"


async def test_lost_message_costs_no_more_than_a_look(cloud: Cloud) -> None:
    instance_id = await cloud.new_instance()
    operation = await cloud.store.write(
        operations.begin,
        "server.create",
        instance_id,
        context=system_context(),
        topic=f"compute.{HOST}",
        step="build",
        deadline_s=60,
    )
    await cloud.bus.cast(f"compute.{HOST}", "look_again", {}, context=system_context())
    assert (await cloud.ended(operation)).state == "done"


async def test_console_answers_the_last_lines(cloud: Cloud) -> None:
    instance_id = await active(cloud)
    args = {"instance_id": instance_id, "lines": 1}
    answer = await cloud.bus.call(f"compute.{HOST}", "console", args, context=system_context())
    assert answer == {"output": "one login: \n"}


async def test_host_offers_what_it_has_in_its_service_row(cloud: Cloud) -> None:
    services = await cloud.store.read(lambda tx: tx.execute(select(schema.services)).all())
    assert [(row.kind, row.host) for row in services] == [("compute", HOST)]
    assert services[0].capacity["vif"] == "none"
    assert services[0].capacity["ram_mb"] > 0
