"""Opens a tap device that lives in another network namespace and hands out its file descriptor.

A descriptor keeps its tap whatever namespace either is in later, so QEMU needs no right and no namespace of its own.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kilonova.errors import CommandFailed

NAMESPACES = Path("/run/netns")

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000

T = TypeVar("T")


def open_tap(namespace: str, device: str) -> int:
    """A descriptor of the persistent tap `device` in `namespace`. Blocks for about a millisecond.

    Raises `CommandFailed` when there is no such device, or something else has it open.
    """
    return in_namespace(namespace, lambda: _attach(device))


def in_namespace(namespace: str, work: Callable[[], T]) -> T:
    """Run `work` in a named network namespace: in a thread used once, since setns changes the thread that calls it."""
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            _enter(namespace)
            results.append(work())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=f"in-{namespace}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _enter(namespace: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        descriptor = os.open(NAMESPACES / namespace, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise CommandFailed(
            f"network namespace {namespace} does not exist: is this host's network agent up?"
        ) from error
    try:
        if libc.setns(descriptor, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise CommandFailed(f"cannot enter network namespace {namespace}: {os.strerror(number)}")
    finally:
        os.close(descriptor)


def _attach(device: str) -> int:
    if device not in link_names():
        raise CommandFailed(f"tap {device} does not exist: the network agent did not wire its port")
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        request = struct.pack("16sH22x", device.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
    except OSError as error:
        os.close(descriptor)
        raise CommandFailed(f"cannot open tap {device}: {error.strerror}") from error
    return descriptor


def link_names() -> set[str]:
    """The links of the network namespace this thread is in."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    return {line.partition(":")[0].strip() for line in lines}
