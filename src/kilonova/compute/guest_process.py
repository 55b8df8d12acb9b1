"""Starts processes that outlive this one, and learns of their end; no child is needed for that, nor any polling.

Used by the drivers whose guests are processes. Short programs are run by `kilonova.process`.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kilonova.compute.guest_directory import GuestProcess
from kilonova.errors import CommandFailed


@dataclass(frozen=True)
class Account:
    """The user and the groups that a process runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    @classmethod
    def named(cls, name: str, groups: tuple[int, ...] = ()) -> Account | None:
        """The account of this name; none if it is empty or this process may not change its user."""
        if not name or os.geteuid() != 0:
            return None
        try:
            entry = pwd.getpwnam(name)
        except KeyError as error:
            raise CommandFailed(f"the user {name} (qemu_user) does not exist on this host") from error
        return cls(entry.pw_uid, entry.pw_gid, groups)


def spawn(
    argv: Sequence[str], *, log: Path, account: Account | None = None, pass_fds: Sequence[int] = ()
) -> GuestProcess:
    """Start a process in a session of its own, its output appended to `log`; it does not end with this process.

    Not asyncio's subprocess: its transport kills a child that lives when the loop closes.
    """
    with log.open("ab") as output:
        try:
            child = subprocess.Popen(
                list(argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
                pass_fds=tuple(pass_fds),
                start_new_session=True,
                user=None if account is None else account.uid,
                group=None if account is None else account.gid,
                extra_groups=None if account is None else account.groups,
            )
        except OSError as error:
            raise CommandFailed(f"{argv[0]}: cannot be started: {error.strerror} (see `kilonova doctor`)") from error
    child.returncode = 0  # Popen shall not look after it: `wait` reaps it by its pidfd, whoever waits
    started = GuestProcess.of(child.pid)
    if started is None:
        _reap_pid(child.pid)
        raise CommandFailed(f"{argv[0]}: ended at once")
    return started


def kill(process: GuestProcess, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to exactly this process; nothing if it has ended."""
    descriptor = _open(process)
    if descriptor is None:
        return
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


class Watch:
    """Calls back once, in the event loop, when a process has ended (at once if it already has)."""

    def __init__(self, process: GuestProcess, on_end: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_end = on_end
        self._descriptor = _open(process)
        if self._descriptor is None:
            self._loop.call_soon(on_end)
        else:
            self._loop.add_reader(self._descriptor, self._ended)

    def close(self) -> None:
        """Stop watching."""
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _ended(self) -> None:
        if self._descriptor is not None:
            _reap(self._descriptor)
        self.close()
        self._on_end()


async def wait(process: GuestProcess, timeout_s: float) -> bool:
    """Wait for a process's end; false if it still lives after `timeout_s`."""
    ended = asyncio.Event()
    watch = Watch(process, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), timeout_s)
    except TimeoutError:
        return False
    finally:
        watch.close()
    return True


async def end(process: GuestProcess, timeout_s: float = 10.0) -> None:
    """Kill a process and wait until it is gone. Raises `CommandFailed` if the kernel does not let it go."""
    kill(process)
    if not await wait(process, timeout_s):
        raise CommandFailed(f"process {process.pid} did not end within {timeout_s:g} s of SIGKILL")


def _open(process: GuestProcess) -> int | None:
    """A pidfd, checked after opening, so that it cannot be a later process of the same number."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    if process.is_alive():
        return descriptor
    _reap(descriptor)
    os.close(descriptor)
    return None


def _reap(descriptor: int) -> None:
    try:
        os.waitid(os.P_PIDFD, descriptor, os.WEXITED | os.WNOHANG)
    except ChildProcessError:  # an earlier life of this program started it: init reaps it
        pass


def _reap_pid(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
