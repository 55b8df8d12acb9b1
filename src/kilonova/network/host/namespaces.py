"""Network namespaces: made, deleted and entered by threads of this process, never by a program.

A namespace is a bind mount in /run/netns, as `ip netns` makes them, so that `ip netns` shows them. `setns` and
`unshare` change only the calling thread: a thread that entered a namespace is used for it alone and then ends.
"""

from __future__ import annotations

import ctypes
import logging
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from kilonova.errors import CommandFailed, KilonovaError, NotFound

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)

DIRECTORY = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 1 << 20
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)
_directory_lock = threading.Lock()


def path(name: str) -> Path:
    """The file that stands for a namespace."""
    return DIRECTORY / name


def exists(name: str) -> bool:
    """Whether there is such a namespace; a file that none is mounted on is what a crash or an unmount has left."""
    try:
        return path(name).stat().st_dev != DIRECTORY.stat().st_dev
    except FileNotFoundError:
        return False


def names(prefix: str) -> list[str]:
    """The namespaces of the cloud with this prefix."""
    try:
        return sorted(entry for entry in os.listdir(DIRECTORY) if entry.startswith(f"{prefix}-"))
    except FileNotFoundError:
        return []


def identity(name: str) -> int:
    """The kernel's number of a namespace: equal numbers are the same namespace."""
    return path(name).stat().st_ino


def create(name: str, setup: Callable[[], T]) -> T:
    """Make a namespace and run `setup` in it, its loopback up. One that is there is entered, not made anew."""
    with _directory_lock:
        _prepare_directory()
        if not exists(name):
            path(name).unlink(missing_ok=True)
    try:
        os.close(os.open(path(name), os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0))
    except FileExistsError:
        return run_inside(name, setup)

    def make() -> T:
        _call("unshare", _CLONE_NEWNET)
        _mount(b"/proc/thread-self/ns/net", path(name), _MS_BIND)
        return setup()

    try:
        return _in_thread(make)
    except BaseException:
        delete(name)
        raise


def delete(name: str) -> None:
    """Remove the name; the kernel ends the namespace, and every link in it, once no process is in it."""
    target = path(name)
    _libc.umount2(os.fsencode(target), _MNT_DETACH)
    target.unlink(missing_ok=True)


def enter(name: str) -> None:
    """Move the calling thread, for good. Raises `NotFound`."""
    try:
        descriptor = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"There is no network namespace {name}.") from None
    try:
        _call("setns", descriptor, _CLONE_NEWNET)
    finally:
        os.close(descriptor)


def run_inside(name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function` in a thread of its own inside the namespace and return what it returns. Blocks."""

    def inside() -> T:
        enter(name)
        return function(*args, **kwargs)

    return _in_thread(inside)


def run_later(name: str, function: Callable[[], object]) -> None:
    """As `run_inside`, without waiting: for what costs a grace period of the kernel and nobody needs to know done."""

    def inside() -> None:
        try:
            enter(name)
            function()
        except (KilonovaError, OSError) as error:
            log.warning("in namespace %s: %s", name, error)

    threading.Thread(target=inside, name=f"netns-{name}", daemon=True).start()


class Worker:
    """A thread that lives in one namespace and runs what it is given, one after the other."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"netns-{name}", daemon=True)
        self._thread.start()

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run in the namespace and wait for the result."""
        future: Future[T] = Future()
        self._jobs.put((future, lambda: function(*args, **kwargs)))
        return future.result()

    def close(self) -> None:
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            enter(self.name)
            failure: BaseException | None = None
        except (NotFound, CommandFailed) as error:
            failure = error
        while (job := self._jobs.get()) is not None:
            future, function = job
            try:
                if failure is not None:
                    raise failure
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)


def _in_thread(function: Callable[[], T]) -> T:
    future: Future[T] = Future()

    def body() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=body, name="netns")
    thread.start()
    thread.join()
    return future.result()


def _prepare_directory() -> None:
    """As `ip netns` does: a shared mount, so that mounts made here are seen in every mount namespace."""
    DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        _mount(b"", DIRECTORY, _MS_SHARED)
    except CommandFailed:  # no mount point yet; `os.path.ismount` does not see a bind mount within one file system
        _mount(os.fsencode(DIRECTORY), DIRECTORY, _MS_BIND | _MS_REC)
        _mount(b"", DIRECTORY, _MS_SHARED)


def _mount(source: bytes, target: Path, flags: int) -> None:
    if _libc.mount(source, os.fsencode(target), b"none", flags, None) != 0:
        raise CommandFailed(f"mount of {target}: {os.strerror(ctypes.get_errno())}")


def _call(name: str, *args: int) -> None:
    if getattr(_libc, name)(*args) != 0:
        raise CommandFailed(f"{name}: {os.strerror(ctypes.get_errno())} (network namespaces need root)")
