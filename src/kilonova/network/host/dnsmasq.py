"""A network's dnsmasq: its files, its process, and making it forget an address.

The process outlives the agent. One whose command line names the wanted configuration is adopted, never restarted. It
sees new files in its hosts directory by itself, a removed one only after SIGHUP; a lease goes only by a DHCPRELEASE.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from kilonova.errors import CommandFailed
from kilonova.network.dnsmasq_files import HOSTS, NAMES, OPTIONS, DnsmasqFiles, dnsmasq_files
from kilonova.network.fragments import SERVICE_DEVICE
from kilonova.network.host import namespaces
from kilonova.network.host.leases import Lease, find_leases
from kilonova.network.host.processes import alive, cut_log, end, runs, text_of
from kilonova.network.plan import ServicePlan
from kilonova.process import run

UNPRIVILEGED = "nobody"
_RELEASE_WITHIN_S = 1.0
_SETTLED_S = 0.02
_LOOK_FOR_S = 0.3
_CHANGED = "changed a host"
"""dnsmasq 2.90 takes a changed line for a second one with the same address, and dies when told to read all again:
only another process reads it."""


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
        for watched in (HOSTS, NAMES):
            if not (directory / watched).is_dir():
                (directory / watched).mkdir(parents=True)
                directory.chmod(0o755)
        if look:
            cut_log(directory / "log")
        files = dnsmasq_files(plan, directory, SERVICE_DEVICE, _user_of(directory))
        done = self._write_watched(plan.network_id, files, look=look)
        process = self._process(plan.network_id)
        edited = look and process is not None and text_of(directory / files.config_name) != files.config
        is_ours = process is not None and runs(process, f"--conf-file={directory / files.config_name}", namespace)
        if process is not None and is_ours and not edited and _CHANGED not in done:
            if "forgot a host" in done:
                os.kill(process, signal.SIGHUP)
            return done
        if process is not None:
            end(process)
        self._start(directory, files, namespace)
        return [*done, "started dnsmasq"]

    def release(self, network_id: str, namespace: str, addresses: Mapping[str, str]) -> None:
        """Make it forget the leases of addresses; with each, who had it. Raises `CommandFailed` when it does not."""
        if self._process(network_id) is None:
            return
        leases = self._leases(network_id, addresses)
        for lease in leases:
            command = lease.release_command(SERVICE_DEVICE, addresses[lease.address])
            namespaces.run_inside(namespace, run, command)
        give_up = time.monotonic() + _RELEASE_WITHIN_S
        while leases and (leases := self._leases(network_id, addresses)):
            if time.monotonic() > give_up:
                named = ", ".join(lease.address for lease in leases)
                raise CommandFailed(f"dnsmasq of network {network_id} still has the lease of {named}")

    def remove(self, network_id: str) -> None:
        """End the process and delete its files."""
        process = self._process(network_id)
        if process is not None:
            end(process)
        self._written.pop(network_id, None)
        shutil.rmtree(self._root / network_id, ignore_errors=True)

    def is_running(self, network_id: str) -> bool:
        return self._process(network_id) is not None

    def is_configured(self, plan: ServicePlan) -> bool:
        """Whether its configuration file says what is planned."""
        directory = self._root / plan.network_id
        if not directory.is_dir():
            return False
        files = dnsmasq_files(plan, directory, SERVICE_DEVICE, _user_of(directory))
        return text_of(directory / files.config_name) == files.config

    def altered(self, plan: ServicePlan) -> list[str]:
        """Paths, in its directory, of watched files that are not as planned or that nobody planned."""
        directory = self._root / plan.network_id
        if not directory.is_dir():
            return []
        wanted = dnsmasq_files(plan, directory, SERVICE_DEVICE, _user_of(directory)).watched()
        there = {f"{name}/{entry.name}" for name in (HOSTS, NAMES) for entry in (directory / name).glob("*")}
        return sorted(path for path in wanted.keys() | there if text_of(directory / path) != wanted.get(path))

    def _write_watched(self, network_id: str, files: DnsmasqFiles, *, look: bool) -> list[str]:
        directory = self._root / network_id
        wanted = files.watched()
        written = None if look else self._written.get(network_id)
        if written is None:
            entries = [entry for name in (HOSTS, NAMES) for entry in (directory / name).iterdir()]
            written = {f"{entry.parent.name}/{entry.name}": entry.read_text() for entry in entries}
            if (directory / OPTIONS).exists():
                written[OPTIONS] = (directory / OPTIONS).read_text()
        done: list[str] = []
        for path in written.keys() - wanted.keys():
            (directory / path).unlink(missing_ok=True)
            done.append("forgot a host")
        for path, text in wanted.items():
            if written.get(path) == text:
                continue
            if path in written and not path.startswith(NAMES):
                done.append(_CHANGED)
            done.append("wrote a host")
            temporary = directory / "host.new"
            temporary.write_text(text)
            temporary.chmod(0o644)
            temporary.rename(directory / path)
        self._written[network_id] = wanted
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
        return alive(directory / "pid", directory)

    def _leases(self, network_id: str, addresses: Collection[str]) -> list[Lease]:
        """Those that there are. The file is written anew in place: one just changed may be half of itself.

        If it does not come to rest, while many guests ask, a lease is there that was there at any look.
        """
        path = self._root / network_id / "leases"
        seen: dict[str, Lease] = {}
        give_up = time.monotonic() + _LOOK_FOR_S
        while True:
            try:
                before, text = path.stat(), path.read_text()
                unchanged = path.stat().st_mtime_ns == before.st_mtime_ns
            except FileNotFoundError:
                return []
            found = find_leases(text, addresses)
            if unchanged and abs(time.time() - before.st_mtime) > _SETTLED_S:
                return found
            seen |= {lease.address: lease for lease in found}
            if time.monotonic() > give_up:
                return list(seen.values())
            time.sleep(_SETTLED_S / 4)


def _user_of(directory: Path) -> str:
    """Whom dnsmasq becomes: nobody, unless nobody could not reach the directory."""
    for parent in directory.resolve().parents:
        if not parent.stat().st_mode & stat.S_IXOTH:
            return "root"
    return UNPRIVILEGED
