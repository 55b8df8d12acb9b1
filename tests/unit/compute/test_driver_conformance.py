"""What every driver does, as one suite, and the fake driver, which passes it.

Drivers with real guests derive from `DriverConformance` in the host tier (`tests/host/compute`), where they say how
their guests are made.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

import pytest

from kilonova.compute.driver import Driver, GuestSpec, PowerState
from kilonova.compute.fake import FakeDriver
from kilonova.config import HostConfig
from kilonova.errors import CommandFailed, Conflict, NotFound
from kilonova.ids import InstanceId, new_id


class Bench(Protocol):
    """Where guests of one driver are made and looked at from outside."""

    boot_s: float
    """A guest says `ready_word` within this time."""
    ready_word: str

    def new_driver(self) -> Driver:
        """A driver object on the bench's state directory."""

    def new_spec(self) -> GuestSpec:
        """A guest that can be made, with its devices in place."""

    def kill(self, driver: Driver, instance_id: InstanceId) -> None:
        """The guest ends, and not by the driver's doing."""

    def leftovers(self, instance_id: InstanceId) -> list[str]:
        """Traces of the guest on this machine."""


async def until(condition: Callable[[], Awaitable[bool]], deadline_s: float, what: str) -> None:
    give_up = time.monotonic() + deadline_s
    while not await condition():
        assert time.monotonic() < give_up, f"no {what} within {deadline_s:g} s"
        await asyncio.sleep(0.02)


class Guest:
    """A driver with one guest, and the ends that it reported."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.driver = bench.new_driver()
        self.spec = bench.new_spec()
        self.id = self.spec.instance_id
        self.ended: list[InstanceId] = []

    async def state(self) -> PowerState:
        return await self.driver.state(self.id)

    async def reaches(self, state: PowerState) -> None:
        async def reached() -> bool:
            return await self.state() == state

        await until(reached, 10, state.name)

    async def boot(self) -> None:
        """Create it and wait until it says that it is ready."""
        await self.driver.create(self.spec)
        await self.is_ready()

    async def is_ready(self) -> None:
        async def said() -> bool:
            return self.bench.ready_word in await self.driver.console(self.id)

        await until(said, self.bench.boot_s, f"'{self.bench.ready_word}' on the console")

    async def renew_driver(self) -> None:
        """What a restart of the program does."""
        await self.driver.close()
        self.driver = self.bench.new_driver()
        await self.driver.open(self.ended.append)


@pytest.fixture
async def guest(bench: Bench) -> AsyncIterator[Guest]:
    made = Guest(bench)
    await made.driver.open(made.ended.append)
    yield made
    await made.driver.destroy(made.id)
    left = bench.leftovers(made.id)
    await made.driver.close()
    assert left == []


class DriverConformance:
    """The tests; a subclass's module has the fixture `bench` and imports the fixture `guest`."""

    async def test_created_guest_runs_and_is_listed(self, guest: Guest) -> None:
        assert await guest.state() == PowerState.NONE
        await guest.driver.create(guest.spec)
        assert await guest.state() == PowerState.RUNNING
        assert await guest.driver.list() == [guest.id]

    async def test_creating_again_changes_nothing(self, guest: Guest) -> None:
        await guest.driver.create(guest.spec)
        before = guest.bench.leftovers(guest.id)
        await guest.driver.create(guest.spec)
        assert guest.bench.leftovers(guest.id) == before
        assert await guest.state() == PowerState.RUNNING

    async def test_guest_outlives_the_driver_object(self, guest: Guest) -> None:
        await guest.driver.create(guest.spec)
        await guest.renew_driver()
        assert await guest.state() == PowerState.RUNNING
        await guest.driver.create(guest.spec)
        await guest.driver.pause(guest.id)
        await guest.renew_driver()
        assert await guest.state() == PowerState.PAUSED
        guest.bench.kill(guest.driver, guest.id)
        await guest.reaches(PowerState.SHUTDOWN)

    async def test_console_has_what_the_guest_said(self, guest: Guest) -> None:
        await guest.boot()
        lines = (await guest.driver.console(guest.id)).splitlines()
        assert (await guest.driver.console(guest.id, 1)).strip() in lines[-1].strip() or len(lines) > 1
        assert await guest.driver.console(InstanceId(new_id())) == ""

    async def test_paused_guest_continues(self, guest: Guest) -> None:
        await guest.driver.create(guest.spec)
        await guest.driver.pause(guest.id)
        assert await guest.state() == PowerState.PAUSED
        await guest.driver.unpause(guest.id)
        assert await guest.state() == PowerState.RUNNING

    async def test_shut_down_guest_starts_again_with_its_console(self, guest: Guest) -> None:
        await guest.boot()
        assert await guest.driver.shutdown(guest.id, 30.0) is True
        assert await guest.state() == PowerState.SHUTDOWN
        assert await guest.driver.shutdown(guest.id, 30.0) is True
        await guest.driver.start(guest.id)
        assert await guest.state() == PowerState.RUNNING
        await guest.driver.start(guest.id)
        assert guest.bench.ready_word in await guest.driver.console(guest.id)
        assert guest.ended == []

    async def test_guest_that_does_not_obey_is_forced(self, guest: Guest) -> None:
        await guest.driver.create(guest.spec)
        await guest.driver.pause(guest.id)
        await guest.driver.shutdown(guest.id, 0.1)
        assert await guest.state() == PowerState.SHUTDOWN
        assert guest.ended == []

    async def test_hard_reboot_ends_and_starts_it(self, guest: Guest) -> None:
        await guest.driver.create(guest.spec)
        await guest.driver.pause(guest.id)
        await guest.driver.reboot(guest.id, hard=True)
        assert await guest.state() == PowerState.RUNNING
        assert guest.ended == []

    async def test_end_of_a_guest_is_noticed(self, guest: Guest) -> None:
        await guest.driver.create(guest.spec)
        guest.bench.kill(guest.driver, guest.id)

        async def noticed() -> bool:
            return guest.ended == [guest.id]

        await until(noticed, 10, "notice")
        assert await guest.state() == PowerState.SHUTDOWN
        await guest.driver.start(guest.id)
        assert await guest.state() == PowerState.RUNNING

    async def test_destroyed_guest_leaves_nothing(self, guest: Guest) -> None:
        await guest.driver.create(guest.spec)
        await guest.driver.destroy(guest.id)
        assert await guest.state() == PowerState.NONE
        assert await guest.driver.list() == []
        assert guest.bench.leftovers(guest.id) == []
        await guest.driver.destroy(guest.id)
        assert guest.ended == []

    async def test_what_is_not_there_is_refused_or_passed_over(self, guest: Guest) -> None:
        with pytest.raises(NotFound):
            await guest.driver.start(guest.id)
        with pytest.raises(NotFound):
            await guest.driver.reboot(guest.id, hard=True)
        with pytest.raises(Conflict):
            await guest.driver.pause(guest.id)
        with pytest.raises(Conflict):
            await guest.driver.unpause(guest.id)
        assert await guest.driver.shutdown(guest.id, 1.0) is True
        await guest.driver.destroy(guest.id)

    async def test_host_offers_something(self, guest: Guest) -> None:
        await guest.driver.tidy()
        capacity = await guest.driver.capacity()
        assert min(capacity.vcpus, capacity.ram_mb) > 0
        assert capacity.hypervisor_type


def directory_leftovers(state_dir: Path, instance_id: InstanceId) -> list[str]:
    path = state_dir / "instances" / instance_id
    return [str(path)] if path.exists() else []


class FakeBench:
    boot_s = 5.0
    ready_word = "login"

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir

    def new_driver(self) -> Driver:
        return FakeDriver(HostConfig(), self.state_dir)

    def new_spec(self) -> GuestSpec:
        return GuestSpec(instance_id=InstanceId(new_id()), name="g", hostname="g", vcpus=1, ram_mb=64)

    def kill(self, driver: Driver, instance_id: InstanceId) -> None:
        assert isinstance(driver, FakeDriver)
        driver.die(instance_id)

    def leftovers(self, instance_id: InstanceId) -> list[str]:
        return directory_leftovers(self.state_dir, instance_id)


@pytest.fixture
def bench(tmp_path: Path) -> FakeBench:
    return FakeBench(tmp_path)


class TestFakeDriver(DriverConformance):
    async def test_fails_as_often_as_it_is_told(self, guest: Guest) -> None:
        assert isinstance(guest.driver, FakeDriver)
        guest.driver.faults.errors["create"] = [CommandFailed("no")]
        with pytest.raises(CommandFailed):
            await guest.driver.create(guest.spec)
        await guest.driver.create(guest.spec)

    async def test_can_ignore_the_power_button(self, guest: Guest) -> None:
        assert isinstance(guest.driver, FakeDriver)
        guest.driver.faults.ignores_power_button = True
        await guest.driver.create(guest.spec)
        assert await guest.driver.shutdown(guest.id, 0.01) is False
