"""The daemons of this cloud's namespaces (dnsmasq, radvd): finding, recognising and ending them.

They outlive the agent, which knows them again by their pid file, their command line and the namespace they run in.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path

from kilonova.network.host import namespaces

DAEMONS = ("dnsmasq", "radvd")
LOG_BYTES = 256 * 1024
"""A log is cut to its last half of this when it is longer: a guest can make a daemon write without end."""
POLITELY = (signal.SIGTERM, signal.SIGKILL)
AT_ONCE = (signal.SIGKILL,)
_END_WITHIN_S = 5.0


def alive(pid_file: Path, directory: Path) -> int | None:
    """The process that a pid file names, if it lives and its command line names `directory`."""
    try:
        process = int(pid_file.read_text())
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return process if os.fsencode(directory) in command else None


def runs(process: int, argument: str, namespace: str) -> bool:
    """Whether a process has this among its arguments and is in this namespace."""
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
        there = os.stat(f"/proc/{process}/ns/net").st_ino
    except OSError:
        return False
    return os.fsencode(argument) in command.split(b"\0") and there == namespaces.identity(namespace)


def end(process: int, signals: Sequence[signal.Signals] = POLITELY) -> None:
    """One signal after the other until it is gone."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    try:
        for number in signals:
            try:
                signal.pidfd_send_signal(descriptor, number)
            except ProcessLookupError:
                return
            if _gone(descriptor):
                return
    finally:
        os.close(descriptor)


def end_daemons(namespace: str) -> list[int]:
    """Kill every daemon in a namespace that is about to go, whatever its files say."""
    killed: list[int] = []
    for process in processes_in(namespace):
        try:
            name = Path(f"/proc/{process}/comm").read_text().strip()
        except OSError:
            continue
        if name in DAEMONS:
            end(process, AT_ONCE if name == "radvd" else POLITELY)
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


def cut_log(path: Path) -> None:
    """In place, because the daemon holds it open (for appending)."""
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


def _gone(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(_END_WITHIN_S * 1000))


def text_of(path: Path) -> str | None:
    """What a file says; none: it is not there."""
    try:
        return path.read_text()
    except OSError:
        return None
