"""Guests as QEMU processes, one each, controlled by QMP.

A process runs as an unprivileged user in QEMU's full sandbox and is handed everything by file descriptor; it outlives
this program, which finds it again by its pid file (or, if it died before writing one, by the command line). How a
command line looks is `qemu_command`'s, whether KVM works is `kvm_probe`'s.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import logging
import os
import re
import time
from pathlib import Path

from kilonova.compute import guest_process, image_files, kvm_probe, qmp
from kilonova.compute.capacity import host_capacity
from kilonova.compute.driver import Capacity, DriveForm, GuestSpec, OnChange, PowerState
from kilonova.compute.guest_directory import GuestDirectory, GuestProcess, all_instances
from kilonova.compute.guest_process import Account
from kilonova.compute.kvm_probe import DeviceAccess
from kilonova.compute.qemu_command import PROGRAM, Accelerator, Descriptors, qemu_command
from kilonova.compute.tap import open_tap
from kilonova.config import HostConfig
from kilonova.errors import CommandFailed, Conflict, KilonovaError, Unavailable
from kilonova.ids import InstanceId
from kilonova.process import run

log = logging.getLogger(__name__)

START_WITHIN_S = 30.0
PRESS_AGAIN_AFTER_S = 5.0
TAKES_OPEN_KVM = 9_000_000
"""From this version on QEMU has `-accel kvm,device=/dev/fdset/N`."""
_PAUSED = frozenset({"paused", "suspended"})
_CRASHED = frozenset({"guest-panicked", "internal-error", "io-error"})


class _Guest:
    """A guest whose process this driver watches."""

    def __init__(self, directory: GuestDirectory, process: GuestProcess) -> None:
        self.process = process
        self.monitor = qmp.Monitor(directory.path, "qmp")
        self.watch: guest_process.Watch | None = None
        self.end_is_expected = False


class QemuDriver:
    """See `kilonova.compute.driver.Driver`."""

    vif = "tap"
    has_disks = True
    drive_form: DriveForm = "disk"

    def __init__(self, host: HostConfig, state_dir: Path) -> None:
        self._host = host
        self._state_dir = state_dir
        self._guests: dict[InstanceId, _Guest] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._on_change: OnChange | None = None
        self._facts: asyncio.Task[_Facts] | None = None

    async def open(self, on_change: OnChange) -> None:
        self._on_change = on_change
        self._facts = asyncio.create_task(asyncio.to_thread(_find_facts, self._host), name="kvm-probe")
        unknown = []
        for instance_id in all_instances(self._state_dir):
            directory = self._directory(instance_id)
            process = directory.load_process()
            if process is None:
                unknown.append(instance_id)
            elif process.is_alive():
                self._adopt(directory, process)
        if unknown:
            found = await asyncio.to_thread(_running_guests)
            for instance_id in unknown:
                if process := found.get(instance_id):
                    self._directory(instance_id).save_process(process)
                    self._adopt(self._directory(instance_id), process)

    async def close(self) -> None:
        self._on_change = None
        if self._facts is not None and not self._facts.done():
            self._facts.cancel()
        for guest in self._guests.values():
            if guest.watch is not None:
                guest.watch.close()
        await asyncio.gather(*self._closing, *(guest.monitor.close() for guest in self._guests.values()))
        self._guests.clear()

    async def create(self, spec: GuestSpec) -> None:
        directory = self._directory(spec.instance_id)
        directory.make()
        if not directory.disk.exists():
            if directory.has_spec():
                _refuse_lost_disk(spec, directory)
            await asyncio.to_thread(_make_disk, spec, directory)
        directory.save_spec(spec)
        if spec.instance_id not in self._guests:
            await self._launch(directory, spec)

    async def start(self, instance_id: InstanceId) -> None:
        directory = self._directory(instance_id)
        spec = directory.load_spec()
        if instance_id not in self._guests:
            await self._launch(directory, spec)

    async def shutdown(self, instance_id: InstanceId, timeout_s: float) -> bool:
        guest = self._guests.get(instance_id)
        if guest is None:
            return True
        guest.end_is_expected = True
        willing = await _press_power_button(guest, timeout_s)
        await self._end(instance_id)
        return willing

    async def reboot(self, instance_id: InstanceId, *, hard: bool, timeout_s: float = 60.0) -> None:
        directory = self._directory(instance_id)
        spec = directory.load_spec()
        await self.shutdown(instance_id, 0.0 if hard else timeout_s)
        await self._launch(directory, spec)

    async def pause(self, instance_id: InstanceId) -> None:
        await self._running(instance_id).monitor.execute("stop")

    async def unpause(self, instance_id: InstanceId) -> None:
        await self._running(instance_id).monitor.execute("cont")

    async def destroy(self, instance_id: InstanceId) -> None:
        await self._end(instance_id)
        directory = self._directory(instance_id)
        if not directory.exists():
            return
        if directory.load_process() is None and (stray := await asyncio.to_thread(_running_guest, instance_id)):
            await guest_process.end(stray)
        await asyncio.to_thread(directory.remove)

    async def state(self, instance_id: InstanceId) -> PowerState:
        guest = self._guests.get(instance_id)
        if guest is None:
            return PowerState.SHUTDOWN if self._directory(instance_id).exists() else PowerState.NONE
        try:
            answer = await guest.monitor.execute("query-status")
        except Unavailable:
            if guest.process.is_alive():
                raise
            return PowerState.SHUTDOWN  # it ended this moment
        status = str(answer["status"]) if isinstance(answer, dict) else ""
        if status in _PAUSED:
            return PowerState.PAUSED
        return PowerState.CRASHED if status in _CRASHED else PowerState.RUNNING

    async def list(self) -> builtins.list[InstanceId]:
        return all_instances(self._state_dir)

    async def console(self, instance_id: InstanceId, max_lines: int | None = None) -> str:
        return await asyncio.to_thread(self._directory(instance_id).console_text, max_lines)

    async def tidy(self) -> None:
        for instance_id in all_instances(self._state_dir):
            await asyncio.to_thread(self._directory(instance_id).tidy)

    async def capacity(self) -> Capacity:
        if self._facts is None or not self._facts.done() or self._facts.exception():  # no start waits for the probe
            facts = _Facts(0, "not probed yet", "", DeviceAccess())
        else:
            facts = self._facts.result()
        return host_capacity(
            self._host,
            self._state_dir,
            hypervisor_type="QEMU",
            hypervisor_version=facts.version,
            acceleration=facts.acceleration,
        )

    # -------------------------------------------------------------------------------------------- inside
    def _directory(self, instance_id: InstanceId) -> GuestDirectory:
        return GuestDirectory(self._state_dir, instance_id)

    def _running(self, instance_id: InstanceId) -> _Guest:
        guest = self._guests.get(instance_id)
        if guest is None:
            raise Conflict(f"The guest of instance {instance_id} does not run.")
        return guest

    async def _known_facts(self) -> _Facts:
        if self._facts is None:
            self._facts = asyncio.create_task(asyncio.to_thread(_find_facts, self._host))
        return await asyncio.shield(self._facts)

    async def _launch(self, directory: GuestDirectory, spec: GuestSpec) -> None:
        facts = await self._known_facts()
        process = await asyncio.to_thread(_spawn, self._host, facts, directory, spec)
        guest = self._adopt(directory, process)
        guest.end_is_expected = True  # an end before it answers is this call's failure
        try:
            await guest.monitor.execute("query-status", timeout_s=START_WITHIN_S)
        except KilonovaError as error:
            await self._end(spec.instance_id)
            raise CommandFailed(
                f"QEMU did not start instance {spec.instance_id}: {directory.last_words() or error.message}"
            ) from error
        guest.end_is_expected = False

    def _adopt(self, directory: GuestDirectory, process: GuestProcess) -> _Guest:
        guest = self._guests[directory.instance_id] = _Guest(directory, process)
        guest.watch = guest_process.Watch(process, lambda: self._ended(directory.instance_id, guest))
        return guest

    def _ended(self, instance_id: InstanceId, guest: _Guest) -> None:
        if self._guests.get(instance_id) is guest:
            del self._guests[instance_id]
        closing = asyncio.get_running_loop().create_task(guest.monitor.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        if not guest.end_is_expected and self._on_change is not None:
            self._on_change(instance_id)

    async def _end(self, instance_id: InstanceId) -> None:
        guest = self._guests.get(instance_id)
        if guest is None:
            return
        guest.end_is_expected = True
        await guest_process.end(guest.process)
        if guest.watch is not None:
            guest.watch.close()
        if self._guests.get(instance_id) is guest:
            del self._guests[instance_id]
        await guest.monitor.close()


async def _press_power_button(guest: _Guest, timeout_s: float) -> bool:
    """Press it until the guest has gone; again and again, because a guest that still boots does not feel it."""
    give_up = time.monotonic() + timeout_s
    while (left_s := give_up - time.monotonic()) > 0:
        with contextlib.suppress(KilonovaError):
            await guest.monitor.execute("system_powerdown")
        if await guest_process.wait(guest.process, min(left_s, PRESS_AGAIN_AFTER_S)):
            return True
    return False


class _Facts:
    """What was found out about this host's QEMU, once."""

    def __init__(self, version: int, acceleration: str, reason: str, access: DeviceAccess) -> None:
        self.version = version
        self.acceleration = acceleration
        self.reason = reason
        self.access = access


def _find_facts(host: HostConfig) -> _Facts:
    try:
        words = run([PROGRAM, "--version"])
    except CommandFailed as error:
        log.warning("%s", error.message)
        return _Facts(0, "none", error.message, DeviceAccess())
    match = re.search(r"version (\d+)\.(\d+)\.(\d+)", words)
    version = int(match[1]) * 1_000_000 + int(match[2]) * 1_000 + int(match[3]) if match else 0
    if host.acceleration == "tcg":
        return _Facts(version, "tcg", "configured", DeviceAccess())
    access = kvm_probe.device_access()
    if host.acceleration == "kvm":
        return _Facts(version, "kvm", "configured", access)
    result = kvm_probe.probe()
    usable, reason = result.usable, result.reason
    if usable and not _can_open_kvm(host, version, access):
        usable, reason = False, f"{host.qemu_user} may not open /dev/kvm, and QEMU before 9.0 does not take it opened"
    log.info("KVM %s: %s (%.3f s)", "is usable" if usable else "is not usable", reason, result.took_s)
    return _Facts(version, "kvm" if usable else "tcg", reason, access)


def _can_open_kvm(host: HostConfig, version: int, access: DeviceAccess) -> bool:
    """Can the process that runs as qemu_user open the device, or be handed it?"""
    unprivileged = Account.named(host.qemu_user) is not None
    return not unprivileged or access.everybody or bool(access.groups) or version >= TAKES_OPEN_KVM


def _refuse_lost_disk(spec: GuestSpec, directory: GuestDirectory) -> None:
    """A guest that had a disk does not start with another one, which would pass for the user's data, or with none."""
    if (spec.image is not None or spec.disk_gb > 0) and not directory.disk.exists():
        raise CommandFailed(
            f"The disk of instance {spec.instance_id} is gone from its host: restore {directory.disk}, "
            "or delete the server."
        )


def _make_disk(spec: GuestSpec, directory: GuestDirectory) -> None:
    if spec.image is not None:
        image_files.make_overlay(directory.disk, spec.image, spec.image_format, spec.disk_gb)
    elif spec.disk_gb:
        image_files.make_empty_disk(directory.disk, spec.disk_gb)


def _spawn(host: HostConfig, facts: _Facts, directory: GuestDirectory, spec: GuestSpec) -> GuestProcess:
    """Open everything, start the process, note who it is."""
    if not facts.version:
        raise Unavailable(facts.reason)
    _refuse_lost_disk(spec, directory)
    directory.save_process(None)
    with contextlib.ExitStack() as opened:

        def keep(descriptor: int) -> int:
            opened.callback(os.close, descriptor)
            return descriptor

        kvm = keep(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)) if _needs_kvm_descriptor(host, facts) else None
        descriptors = Descriptors(
            monitor=opened.enter_context(qmp.listen(directory.path, "qmp")).fileno(),
            serial=opened.enter_context(qmp.listen(directory.path, "serial")).fileno(),
            console_log=keep(os.open(directory.console, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)),
            disk=keep(os.open(directory.disk, os.O_RDWR | os.O_CLOEXEC)) if directory.disk.exists() else None,
            image=keep(os.open(spec.image, os.O_RDONLY | os.O_CLOEXEC)) if spec.image else None,
            config_drive=keep(os.open(spec.config_drive, os.O_RDONLY | os.O_CLOEXEC)) if spec.config_drive else None,
            taps=tuple(keep(open_tap(spec.switch_namespace, nic.device)) for nic in spec.nics),
        )
        command = qemu_command(spec, descriptors, Accelerator(facts.acceleration, kvm))
        process = guest_process.spawn(
            command,
            log=directory.log,
            account=Account.named(host.qemu_user, facts.access.groups if facts.acceleration == "kvm" else ()),
            pass_fds=(*descriptors.all(), *(() if kvm is None else (kvm,))),
        )
        directory.save_process(process)
        return process


def _needs_kvm_descriptor(host: HostConfig, facts: _Facts) -> bool:
    """Can only we open /dev/kvm, and does QEMU take it by descriptor?"""
    if facts.acceleration != "kvm" or Account.named(host.qemu_user) is None:
        return False
    return not facts.access.everybody and not facts.access.groups and facts.version >= TAKES_OPEN_KVM


def _running_guests() -> dict[InstanceId, GuestProcess]:
    """Every QEMU process on this machine that a driver like this one began, by its instance."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if Path(words[0]).name == PROGRAM and "-uuid" in words and (process := GuestProcess.of(int(entry))):
            found[InstanceId(words[words.index("-uuid") + 1])] = process
    return found


def _running_guest(instance_id: InstanceId) -> GuestProcess | None:
    return _running_guests().get(instance_id)
