"""A network's dnsmasq: its files, its process, and making it forget an address.

The process outlives the agent. One whose command line names the wanted configuration is adopted, never restarted. It
sees new files in its hosts directory by itself, a removed one only after SIGHUP; a lease goes only by a DHCPRELEASE.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import stat
import time
from collections.abc import Iterable
from pathlib import Path

from kilonova.errors import CommandFailed
from kilonova.network.dnsmasq_files import DnsmasqFiles, dnsmasq_files
from kilonova.network.fragments import SERVICE_DEVICE
from kilonova.network.host import namespaces
from kilonova.network.plan import ServicePlan
from kilonova.process import run

UNPRIVILEGED = "nobody"
LOG_BYTES = 256 * 1024
"""A log is cut to its last half of this when it is longer: a guest can make dnsmasq write without end."""
_RELEASE_WITHIN_S = 1.0
_END_WITHIN_S = 5.0


class Dnsmasq:
    """Every dnsmasq of a host; files are under `root`, one directory per network. Everything blocks."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._written: dict[str, dict[str, str]] = {}

    def networks(self) -> list[str]:
        """The networks that have a directory here."""
        return sorted(entry.name for entry in self._root.iterdir()) if self._root.is_dir() else []

    def ensure(self, plan: ServicePlan, namespace: str, *, look: bool = False) -> list[str]:
        """Make files and process as planned; what was done. `look`: trust no memory of the files."""
        directory = self._root / plan.network_id
        if not (directory / "hosts").is_dir():
            (directory / "hosts").mkdir(parents=True)
            directory.chmod(0o755)
        if look:
            cut_log(directory / "log")
        files = dnsmasq_files(plan, directory, SERVICE_DEVICE, _user_of(directory))
        done = self._write_hosts(plan.network_id, files, look=look)
        process = self._process(plan.network_id)
        if process is not None and _runs(process, directory / files.config_name, namespace):
            if "forgot a host" in done:
                os.kill(process, signal.SIGHUP)
            return done
        if process is not None:
            end(process)
        self._start(directory, files, namespace)
        return [*done, "started dnsmasq"]

    def release(self, network_id: str, namespace: str, address: str, mac: str) -> None:
        """Make it forget the lease of an address, if it has one. Raises `CommandFailed` when it does not."""
        lease = self._lease(network_id, address)
        if lease is None or self._process(network_id) is None:
            return
        lease_mac, client_id = lease
        argv = ["dhcp_release", SERVICE_DEVICE, address, lease_mac or mac]
        if client_id and client_id != "*":
            argv.append(client_id)
        namespaces.run_inside(namespace, run, argv)
        give_up = time.monotonic() + _RELEASE_WITHIN_S
        while self._lease(network_id, address) is not None:
            if time.monotonic() > give_up:
                raise CommandFailed(f"dnsmasq of network {network_id} still has the lease of {address}")
            time.sleep(0.005)

    def remove(self, network_id: str) -> None:
        """End the process and delete its files."""
        process = self._process(network_id)
        if process is not None:
            end(process)
        self._written.pop(network_id, None)
        shutil.rmtree(self._root / network_id, ignore_errors=True)

    def is_running(self, network_id: str) -> bool:
        return self._process(network_id) is not None

    def _write_hosts(self, network_id: str, files: DnsmasqFiles, *, look: bool) -> list[str]:
        hosts = self._root / network_id / "hosts"
        written = None if look else self._written.get(network_id)
        if written is None:
            written = {entry.name: entry.read_text() for entry in hosts.iterdir()}
        done: list[str] = []
        for name in written.keys() - files.hosts.keys():
            (hosts / name).unlink(missing_ok=True)
            done.append("forgot a host")
        for name, line in files.hosts.items():
            if written.get(name) == line:
                continue
            if name in written:
                done.append("forgot a host")
            done.append("wrote a host")
            temporary = hosts.parent / "host.new"
            temporary.write_text(line)
            temporary.chmod(0o644)
            temporary.rename(hosts / name)
        self._written[network_id] = dict(files.hosts)
        return sorted(set(done))

    def _start(self, directory: Path, files: DnsmasqFiles, namespace: str) -> None:
        for old in directory.glob("dnsmasq-*.conf"):
            if old.name != files.config_name:
                old.unlink()
        config = directory / files.config_name
        config.write_text(files.config)
        namespaces.run_inside(namespace, run, ["dnsmasq", f"--conf-file={config}"])

    def _process(self, network_id: str) -> int | None:
        """The live dnsmasq of a network."""
        directory = self._root / network_id
        try:
            process = int((directory / "pid").read_text())
            command = Path(f"/proc/{process}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return process if os.fsencode(directory) in command else None

    def _lease(self, network_id: str, address: str) -> tuple[str, str] | None:
        try:
            lines = (self._root / network_id / "leases").read_text().splitlines()
        except OSError:
            return None
        for line in lines:
            words = line.split()
            if len(words) >= 5 and words[2] == address:
                return words[1], words[4]
        return None


def cut_log(path: Path) -> None:
    """In place, because dnsmasq holds it open (for appending)."""
    try:
        if path.stat().st_size <= LOG_BYTES:
            return
        with path.open("r+b") as file:
            file.seek(-LOG_BYTES // 2, os.SEEK_END)
            tail = file.read(LOG_BYTES)
            file.truncate(0)
        with path.open("ab") as file:
            file.write(tail)
    except FileNotFoundError:
        return


def end_processes(namespace: str) -> list[int]:
    """Kill every dnsmasq in a namespace that is about to go, whatever its files say."""
    killed: list[int] = []
    for process in processes_in(namespace):
        try:
            name = Path(f"/proc/{process}/comm").read_text().strip()
        except OSError:
            continue
        if name == "dnsmasq":
            end(process)
            killed.append(process)
    return killed


def processes_in(namespace: str) -> Iterable[int]:
    try:
        identity = namespaces.identity(namespace)
    except OSError:
        return
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                if os.stat(f"/proc/{entry}/ns/net").st_ino == identity:
                    yield int(entry)
            except OSError:
                continue


def _runs(process: int, config: Path, namespace: str) -> bool:
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
        there = os.stat(f"/proc/{process}/ns/net").st_ino
    except OSError:
        return False
    return f"--conf-file={config}".encode() in command.split(b"\0") and there == namespaces.identity(namespace)


def end(process: int) -> None:
    """SIGTERM, later SIGKILL; returns once it is gone."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                return
            if _gone(descriptor):
                return
    finally:
        os.close(descriptor)


def _gone(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(_END_WITHIN_S * 1000))


def _user_of(directory: Path) -> str:
    """Whom dnsmasq becomes: nobody, unless nobody could not reach the directory."""
    for parent in directory.resolve().parents:
        if not parent.stat().st_mode & stat.S_IXOTH:
            return "root"
    return UNPRIVILEGED
