"""What guests left on this machine: namespaces, directories and processes with the cloud's mark and no server's row.

The network's own leaks are told by its agent; these are looked for here, because a compute controller that is down, or
has lost a guest's directory, does not know of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from kilonova.compute.guest_directory import all_instances
from kilonova.network.host import namespaces
from kilonova.network.host.processes import end, processes_in
from kilonova.network.observation import Leak
from kilonova.network.plan import SHORT_ID

_SWEPT = "the compute controller removes it when it looks again"

Servers = Callable[[], Collection[str]]
"""Tells the ids of the servers that this host has. Asked after what is on the machine was listed: a server's row is
older than anything of its guest."""


def find(state_dir: Path, prefix: str, servers: Servers) -> Iterator[Leak]:
    for name in _strays(state_dir, prefix, servers):
        yield Leak("namespace", name, "it is of a guest that is no server's", "it is removed, with the processes in it")
    directories = all_instances(state_dir)
    known = servers()
    for directory in directories:
        if directory not in known:
            yield Leak("file", str(state_dir / "instances" / directory), "no server has this id", _SWEPT)
    for process, instance_id in _orphans(state_dir, servers):
        yield Leak("process", str(process), f"it is the guest of {instance_id}, which is no server", "it is ended")


def remove(state_dir: Path, prefix: str, servers: Servers) -> None:
    """Stray namespaces, after the processes in them, and the processes of guests that are no server's."""
    for name in _strays(state_dir, prefix, servers):
        for process in list(processes_in(name)):
            end(process)
        namespaces.delete(name)
    for process, _ in _orphans(state_dir, servers):
        end(process)


def _strays(state_dir: Path, prefix: str, servers: Servers) -> list[str]:
    """Namespaces of guests that nobody knows, neither a row nor a directory."""
    mark = f"{prefix}-g-"
    found = [name for name in namespaces.names(prefix) if name.startswith(mark)]
    known = {item[:SHORT_ID] for item in (*all_instances(state_dir), *servers())}
    return [name for name in found if name.removeprefix(mark) not in known]


def _orphans(state_dir: Path, servers: Servers) -> list[tuple[int, str]]:
    """Guests' processes, and the ids of what is no server."""
    found = list(_processes(state_dir))
    known = servers()
    return [(process, instance_id) for process, instance_id in found if instance_id not in known]


def _processes(state_dir: Path) -> Iterator[tuple[int, str]]:
    """Processes whose command line names a guest's directory."""
    mark = f"{state_dir}/instances/"
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            command = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if command.startswith("qemu") and mark in command:
            yield int(entry), command.split(mark, 1)[1][:36]
