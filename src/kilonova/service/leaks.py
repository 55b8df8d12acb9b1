"""What guests left on this machine: namespaces, directories and processes with the cloud's mark and no server's row.

The network's own leaks are told by its agent; these are looked for here, because a compute controller that is down, or
has lost a guest's directory, does not know of them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from kilonova.compute.guest_directory import all_instances
from kilonova.network.host import namespaces
from kilonova.network.host.processes import end, processes_in
from kilonova.network.observation import Leak
from kilonova.network.plan import SHORT_ID

_SWEPT = "the compute controller removes it when it looks again"


def find(state_dir: Path, prefix: str, instances: Collection[str]) -> Iterator[Leak]:
    """`instances`: the ids of the servers that this host has."""
    for name in strays(state_dir, prefix, instances):
        yield Leak("namespace", name, "it is of a guest that is no server's", "it is removed, with the processes in it")
    for known in all_instances(state_dir):
        if known not in instances:
            yield Leak("file", str(state_dir / "instances" / known), "no server has this id", _SWEPT)
    for process, instance_id in _processes(state_dir):
        if instance_id not in instances:
            yield Leak("process", str(process), f"it is the guest of {instance_id}, which is no server", _SWEPT)


def strays(state_dir: Path, prefix: str, instances: Collection[str]) -> list[str]:
    """Namespaces of guests that nobody knows, neither a row nor a directory."""
    known = {item[:SHORT_ID] for item in (*instances, *all_instances(state_dir))}
    mark = f"{prefix}-g-"
    return [name for name in namespaces.names(prefix) if name.startswith(mark) and name.removeprefix(mark) not in known]


def remove(namespace: str) -> None:
    """A stray namespace, after the processes in it."""
    for process in list(processes_in(namespace)):
        end(process)
    namespaces.delete(namespace)


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
