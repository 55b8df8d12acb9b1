"""A driver without guests: it keeps their states in their directories and touches nothing else.

For `--simulate`, and for tests of everything around a driver: a test can make a call fail, take time, or a guest die.
"""

from __future__ import annotations

import asyncio
import builtins
from dataclasses import dataclass, field
from pathlib import Path

from kilonova.compute.capacity import host_capacity
from kilonova.compute.driver import Capacity, DriveForm, GuestSpec, OnChange, PowerState
from kilonova.compute.guest_directory import GuestDirectory, all_instances
from kilonova.config import HostConfig
from kilonova.errors import Conflict, KilonovaError
from kilonova.ids import InstanceId


@dataclass
class Faults:
    """What a test wants to go wrong, by the driver method's name."""

    errors: dict[str, list[KilonovaError]] = field(default_factory=dict)
    """Raised by the next calls of a method, one each."""
    delays_s: dict[str, float] = field(default_factory=dict)
    ignores_power_button: bool = False


class FakeDriver:
    """See `kilonova.compute.driver.Driver`."""

    vif = "none"
    has_disks = False
    drive_form: DriveForm = "none"

    def __init__(self, host: HostConfig, state_dir: Path, faults: Faults | None = None) -> None:
        self._host = host
        self._state_dir = state_dir
        self.faults = faults or Faults()
        self._on_change: OnChange | None = None

    async def open(self, on_change: OnChange) -> None:
        self._on_change = on_change

    async def close(self) -> None:
        self._on_change = None

    async def create(self, spec: GuestSpec) -> None:
        directory = self._directory(spec.instance_id)
        directory.make()
        await self._stumble("create")
        directory.save_spec(spec)
        if self._read(directory) not in (PowerState.RUNNING, PowerState.PAUSED):
            self._boot(directory)

    async def start(self, instance_id: InstanceId) -> None:
        directory = self._directory(instance_id)
        directory.load_spec()
        await self._stumble("start")
        if self._read(directory) not in (PowerState.RUNNING, PowerState.PAUSED):
            self._boot(directory)

    async def shutdown(self, instance_id: InstanceId, timeout_s: float) -> bool:
        await self._stumble("shutdown")
        directory = self._directory(instance_id)
        if not directory.has_spec():
            return True
        if self.faults.ignores_power_button and self._read(directory) == PowerState.RUNNING:
            await asyncio.sleep(timeout_s)
        self._write(directory, PowerState.SHUTDOWN)
        return not self.faults.ignores_power_button

    async def reboot(self, instance_id: InstanceId, *, hard: bool, timeout_s: float = 60.0) -> None:
        directory = self._directory(instance_id)
        directory.load_spec()
        await self._stumble("reboot")
        self._boot(directory)

    async def pause(self, instance_id: InstanceId) -> None:
        await self._stumble("pause")
        self._write(self._running(instance_id), PowerState.PAUSED)

    async def unpause(self, instance_id: InstanceId) -> None:
        await self._stumble("unpause")
        self._write(self._running(instance_id), PowerState.RUNNING)

    async def destroy(self, instance_id: InstanceId) -> None:
        await self._stumble("destroy")
        self._directory(instance_id).remove()

    async def state(self, instance_id: InstanceId) -> PowerState:
        return self._read(self._directory(instance_id))

    async def list(self) -> builtins.list[InstanceId]:
        return all_instances(self._state_dir)

    async def console(self, instance_id: InstanceId, max_lines: int | None = None) -> str:
        return self._directory(instance_id).console_text(max_lines)

    async def tidy(self) -> None:
        for instance_id in all_instances(self._state_dir):
            self._directory(instance_id).tidy()

    async def capacity(self) -> Capacity:
        return host_capacity(
            self._host, self._state_dir, hypervisor_type="fake", hypervisor_version=1, acceleration="none"
        )

    def die(self, instance_id: InstanceId) -> None:
        """The guest ends by itself."""
        self._write(self._directory(instance_id), PowerState.SHUTDOWN)
        if self._on_change:
            self._on_change(instance_id)

    def _directory(self, instance_id: InstanceId) -> GuestDirectory:
        return GuestDirectory(self._state_dir, instance_id)

    def _running(self, instance_id: InstanceId) -> GuestDirectory:
        directory = self._directory(instance_id)
        if self._read(directory) not in (PowerState.RUNNING, PowerState.PAUSED):
            raise Conflict(f"The guest of instance {instance_id} does not run.")
        return directory

    def _boot(self, directory: GuestDirectory) -> None:
        spec = directory.load_spec()
        with directory.console.open("a") as console:
            console.write(f"fake guest {spec.name}: started\n{spec.hostname} login: \n")
        self._write(directory, PowerState.RUNNING)

    def _read(self, directory: GuestDirectory) -> PowerState:
        try:
            return PowerState(int((directory.path / "power").read_text()))
        except FileNotFoundError:
            return PowerState.SHUTDOWN if directory.exists() else PowerState.NONE

    def _write(self, directory: GuestDirectory, state: PowerState) -> None:
        directory.write("power", str(int(state)).encode())

    async def _stumble(self, method: str) -> None:
        await asyncio.sleep(self.faults.delays_s.get(method, 0.0))
        if errors := self.faults.errors.get(method):
            raise errors.pop(0)
