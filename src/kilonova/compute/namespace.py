"""Light guests: a network namespace with a small process tree each, for tests and benchmarks with hundreds of them.

The network agent left the guest's end of a veth pair in the switch namespace; while the guest runs it is its `eth0`.
The processes have their own pid, mount and host-name namespaces; all of them are found by their network namespace.
Needs busybox (static), `ip`, `nsenter` and `unshare`. It is no isolation boundary.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import os
import shutil
import signal
import time
from pathlib import Path

from kilonova.compute import guest_process, namespace_scripts
from kilonova.compute.capacity import host_capacity
from kilonova.compute.driver import Capacity, DriveForm, GuestSpec, OnChange, PowerState
from kilonova.compute.guest_directory import GuestDirectory, GuestProcess, all_instances
from kilonova.compute.guest_network import network_commands, read_network_data
from kilonova.compute.tap import NAMESPACES, in_namespace, link_names
from kilonova.config import HostConfig
from kilonova.errors import CommandFailed, Conflict
from kilonova.ids import InstanceId
from kilonova.process import run

log = logging.getLogger(__name__)

ENTER_WITHIN_S = 10.0


class NamespaceDriver:
    """See `kilonova.compute.driver.Driver`."""

    vif = "veth"
    has_disks = False
    drive_form: DriveForm = "directory"

    def __init__(self, host: HostConfig, state_dir: Path) -> None:
        self._host = host
        self._state_dir = state_dir
        self._watches: dict[InstanceId, guest_process.Watch] = {}
        self._on_change: OnChange | None = None

    async def open(self, on_change: OnChange) -> None:
        self._on_change = on_change
        known = all_instances(self._state_dir)
        await asyncio.to_thread(self._remove_strays, known)
        for instance_id in known:
            process = self._directory(instance_id).load_process()
            if process is not None and process.is_alive():
                self._watch(instance_id, process)

    async def close(self) -> None:
        self._on_change = None
        for instance_id in list(self._watches):
            self._unwatch(instance_id)

    async def create(self, spec: GuestSpec) -> None:
        directory = self._directory(spec.instance_id)
        directory.make()
        directory.save_spec(spec)
        await self._launch(directory, spec)

    async def start(self, instance_id: InstanceId) -> None:
        directory = self._directory(instance_id)
        await self._launch(directory, directory.load_spec())

    async def shutdown(self, instance_id: InstanceId, timeout_s: float) -> bool:
        directory = self._directory(instance_id)
        if not directory.has_spec():
            return True
        process = self._alive(instance_id)
        self._unwatch(instance_id)
        namespace = self._namespace(instance_id)
        willing = process is None
        if process is not None and timeout_s > 0 and (init := await asyncio.to_thread(_init_of, namespace)):
            guest_process.kill(init, signal.SIGTERM)
            willing = await guest_process.wait(process, timeout_s)
        await self._end(instance_id)
        await asyncio.to_thread(_disconnect, namespace, directory.load_spec())
        return willing

    async def reboot(self, instance_id: InstanceId, *, hard: bool, timeout_s: float = 60.0) -> None:
        directory = self._directory(instance_id)
        spec = directory.load_spec()
        await self.shutdown(instance_id, 0.0 if hard else timeout_s)
        await self._launch(directory, spec)

    async def pause(self, instance_id: InstanceId) -> None:
        await self._signal_all(instance_id, signal.SIGSTOP)

    async def unpause(self, instance_id: InstanceId) -> None:
        await self._signal_all(instance_id, signal.SIGCONT)

    async def destroy(self, instance_id: InstanceId) -> None:
        self._unwatch(instance_id)
        await self._end(instance_id)
        await asyncio.to_thread(_remove_namespace, self._namespace(instance_id))
        await asyncio.to_thread(self._directory(instance_id).remove)

    async def state(self, instance_id: InstanceId) -> PowerState:
        process = self._alive(instance_id)
        if process is None:
            return PowerState.SHUTDOWN if self._directory(instance_id).exists() else PowerState.NONE
        return PowerState.PAUSED if _is_stopped(process.pid) else PowerState.RUNNING

    async def list(self) -> builtins.list[InstanceId]:
        return all_instances(self._state_dir)

    async def console(self, instance_id: InstanceId, max_lines: int | None = None) -> str:
        return await asyncio.to_thread(self._directory(instance_id).console_text, max_lines)

    async def tidy(self) -> None:
        for instance_id in all_instances(self._state_dir):
            await asyncio.to_thread(self._directory(instance_id).tidy)

    async def capacity(self) -> Capacity:
        return host_capacity(
            self._host, self._state_dir, hypervisor_type="namespace", hypervisor_version=1, acceleration="none"
        )

    # -------------------------------------------------------------------------------------------- inside
    def _directory(self, instance_id: InstanceId) -> GuestDirectory:
        return GuestDirectory(self._state_dir, instance_id)

    def _namespace(self, instance_id: InstanceId) -> str:
        return f"{self._host.prefix}-g-{instance_id[:11]}"

    def _alive(self, instance_id: InstanceId) -> GuestProcess | None:
        process = self._directory(instance_id).load_process()
        return process if process is not None and process.is_alive() else None

    async def _launch(self, directory: GuestDirectory, spec: GuestSpec) -> None:
        if self._alive(spec.instance_id):
            return
        namespace = self._namespace(spec.instance_id)
        await self._end(spec.instance_id)  # what a start cut short has left
        process = await asyncio.to_thread(_spawn, namespace, directory, spec)
        self._watch(spec.instance_id, process)

    async def _end(self, instance_id: InstanceId) -> None:
        """Kill the guest's processes: the one we know, and whatever else is in its network namespace."""
        directory = self._directory(instance_id)
        if (process := directory.load_process()) is not None:
            await guest_process.end(process)
        namespace = self._namespace(instance_id)
        while strays := await asyncio.to_thread(_processes_in, namespace):
            for stray in strays:
                guest_process.kill(stray)
            for stray in strays:
                await guest_process.end(stray)

    async def _signal_all(self, instance_id: InstanceId, number: signal.Signals) -> None:
        if self._alive(instance_id) is None:
            raise Conflict(f"The guest of instance {instance_id} does not run.")
        processes = await asyncio.to_thread(_processes_in, self._namespace(instance_id))
        await asyncio.to_thread(_stop_or_continue, processes, number)

    def _watch(self, instance_id: InstanceId, process: GuestProcess) -> None:
        def ended() -> None:
            self._unwatch(instance_id)
            if self._on_change is not None:
                self._on_change(instance_id)

        self._unwatch(instance_id)
        self._watches[instance_id] = guest_process.Watch(process, ended)

    def _unwatch(self, instance_id: InstanceId) -> None:
        if watch := self._watches.pop(instance_id, None):
            watch.close()

    def _remove_strays(self, known: builtins.list[InstanceId]) -> None:
        """Namespaces of guests whose directory is gone: nothing else would ever remove them."""
        wanted = {self._namespace(instance_id) for instance_id in known}
        present = os.listdir(NAMESPACES) if NAMESPACES.is_dir() else []
        for name in present:
            if name.startswith(f"{self._host.prefix}-g-") and name not in wanted:
                log.warning("removing the network namespace %s: it belongs to no guest", name)
                for process in _processes_in(name):
                    guest_process.kill(process)
                _remove_namespace(name)


def _spawn(namespace: str, directory: GuestDirectory, spec: GuestSpec) -> GuestProcess:
    busybox = shutil.which("busybox")
    if busybox is None:
        raise CommandFailed("busybox: not installed (see `kilonova doctor`)")
    _connect(namespace, spec)
    root = directory.path / "root"
    root.mkdir(exist_ok=True)
    scripts = {"init": namespace_scripts.INIT, "dhcp": namespace_scripts.DHCP, "metadata": namespace_scripts.METADATA}
    scripts["network"] = network_commands(read_network_data(spec.config_drive), [nic.mac for nic in spec.nics])
    for name, text in (*scripts.items(), ("enter", namespace_scripts.ENTER)):
        directory.write(name, text.encode())
    directory.save_process(None)
    process = guest_process.spawn(
        [
            *("nsenter", f"--net={NAMESPACES / namespace}"),
            *("unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc"),
            *(busybox, "sh", str(directory.path / "enter"), busybox, str(root), str(directory.console)),
            *(str(directory.path), spec.hostname, str(spec.config_drive or "")),
        ],
        log=directory.log,
    )
    directory.save_process(process)
    _wait_until_inside(process, namespace, directory)
    return process


def _wait_until_inside(process: GuestProcess, namespace: str, directory: GuestDirectory) -> None:
    """Until the guest's first process is in its namespaces: before that a pause would find nothing to stop."""
    give_up = time.monotonic() + ENTER_WITHIN_S
    while not _has_child(process.pid):
        if not process.is_alive() or time.monotonic() > give_up:
            raise CommandFailed(f"the guest did not enter its namespace {namespace}: {directory.last_words()}")
        time.sleep(0.002)


def _has_child(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/task/{pid}/children").read_text())
    except OSError:
        return False


def _connect(namespace: str, spec: GuestSpec) -> None:
    """Make the namespace, if there is none, and move the interfaces into it that are not there."""
    if not (NAMESPACES / namespace).exists():
        run(["ip", "netns", "add", namespace])
    present = in_namespace(namespace, link_names)
    names = [f"eth{number}" for number in range(len(spec.nics))]
    lines = [
        f"link set {nic.device} address {nic.mac} mtu {nic.mtu} netns {namespace} name {name}"
        for nic, name in zip(spec.nics, names, strict=True)
        if name not in present
    ]
    if lines:
        run(["ip", "-n", spec.switch_namespace, "-batch", "-"], stdin="\n".join(lines) + "\n")


def _disconnect(namespace: str, spec: GuestSpec) -> None:
    """Give the interfaces back to the switch namespace, if it is still there, and remove the guest's."""
    if not (NAMESPACES / namespace).exists():
        return
    if (NAMESPACES / spec.switch_namespace).exists():
        present = in_namespace(namespace, link_names)
        lines = [
            f"link set eth{number} netns {spec.switch_namespace} name {nic.device}"
            for number, nic in enumerate(spec.nics)
            if f"eth{number}" in present
        ]
        run(["ip", "-n", namespace, "-batch", "-"], stdin="".join(f"{line}\n" for line in lines))
    _remove_namespace(namespace)


def _remove_namespace(namespace: str) -> None:
    path = NAMESPACES / namespace
    if not path.exists():
        return
    links = [name for name in in_namespace(namespace, link_names) if name.startswith("eth")]
    if links:  # with them go their peers, now: the kernel takes its time to empty a deleted namespace
        run(["ip", "-n", namespace, "-batch", "-"], stdin="".join(f"link delete {name}\n" for name in links))
    run(["ip", "netns", "delete", namespace])


def _processes_in(namespace: str) -> list[GuestProcess]:
    """Every process whose network namespace it is."""
    try:
        wanted = (NAMESPACES / namespace).stat()
    except FileNotFoundError:
        return []
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            present = os.stat(f"/proc/{entry}/ns/net")
        except OSError:
            continue
        if (present.st_dev, present.st_ino) == (wanted.st_dev, wanted.st_ino) and (
            process := GuestProcess.of(int(entry))
        ):
            found.append(process)
    return found


def _init_of(namespace: str) -> GuestProcess | None:
    """The process that is number 1 inside the guest."""
    for process in _processes_in(namespace):
        lines = Path(f"/proc/{process.pid}/status").read_text(errors="replace").splitlines()
        numbers = next((line.split()[1:] for line in lines if line.startswith("NSpid:")), [])
        if len(numbers) > 1 and numbers[-1] == "1":
            return process
    return None


def _stop_or_continue(processes: list[GuestProcess], number: signal.Signals) -> None:
    """Send SIGSTOP or SIGCONT and wait for the effect: each obeys when it is next scheduled."""
    for process in processes:
        guest_process.kill(process, number)
    give_up = time.monotonic() + 5.0
    stopped = number == signal.SIGSTOP
    while any(process.is_alive() and _is_stopped(process.pid) != stopped for process in processes):
        if time.monotonic() > give_up:
            raise CommandFailed(f"a guest's processes did not obey {number.name} within 5 s")
        time.sleep(0.002)


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False
