"""What a packet costs on its way from one namespace to another, by sendmmsg: many datagrams in one system call.

The kernel does the whole way of a datagram (sender's stack, bridges, filters, router, receiver's stack) before the call
returns, on the processor that sends. So the time of a call divided by its datagrams is the cost of the path and of
nothing else. Paths are measured in turns; their ratio is the median of the turns' ratios: a busy machine hits both.
"""

from __future__ import annotations

import ctypes
import os
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kilonova.network.host import namespaces

BURST = 256


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Header(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vector", ctypes.POINTER(_IoVec)),
        ("vector_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Message(ctypes.Structure):
    _fields_ = (("header", _Header), ("sent", ctypes.c_uint))


_libc = ctypes.CDLL(None, use_errno=True)


class Path:
    """An established UDP flow from one namespace to an address that leads to another."""

    def __init__(self, name: str, source: str, target: str, address: str, *, payload: int = 22) -> None:
        """`payload` of 22 bytes makes a frame of 64. Raises `RuntimeError` when nothing arrives."""
        self.name = name
        self._receiver = namespaces.run_inside(target, _bound)
        self._sender = namespaces.run_inside(source, socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        self._sender.connect((address, self._receiver.getsockname()[1]))
        self._content = ctypes.create_string_buffer(payload)
        vector = _IoVec(ctypes.cast(self._content, ctypes.c_void_p), payload)
        self._vectors = (_IoVec * 1)(vector)
        self._messages = (_Message * BURST)()
        for message in self._messages:
            message.header.vector, message.header.vector_length = self._vectors, 1
        self._greet()

    def close(self) -> None:
        self._receiver.close()
        self._sender.close()

    def burst(self) -> float:
        """Seconds per datagram of one system call."""
        began = time.perf_counter()
        sent = _libc.sendmmsg(self._sender.fileno(), self._messages, BURST, 0)
        took = time.perf_counter() - began
        if sent != BURST:
            raise RuntimeError(f"{self.name}: {sent} of {BURST} datagrams sent: {os.strerror(ctypes.get_errno())}")
        return took / BURST

    def arrives(self) -> bool:
        """Do datagrams still reach the other end?"""
        self._receiver.setblocking(False)
        try:
            while True:
                self._receiver.recv(64)
        except BlockingIOError:
            pass
        self._sender.send(b"probe")
        self._receiver.settimeout(2)
        try:
            return self._receiver.recv(64) == b"probe"
        except TimeoutError:
            return False

    def _greet(self) -> None:
        """There and back, so that connection tracking knows an established flow."""
        self._receiver.settimeout(0.5)
        for _ in range(20):
            self._sender.send(b"hello")
            try:
                _, peer = self._receiver.recvfrom(64)
            except TimeoutError:
                continue
            self._receiver.sendto(b"hello", peer)
            self._sender.settimeout(2)
            self._sender.recv(64)
            self._sender.settimeout(None)
            return
        raise RuntimeError(f"{self.name}: nothing arrives")


@dataclass(frozen=True)
class Cost:
    name: str
    ns: float
    """Nanoseconds per datagram, the median."""
    ratio: float
    """To the first path, the median of the ratios of single turns."""
    turns: int


def compare(paths: Sequence[Path], *, turns: int, give_up: Callable[[], bool] = lambda: False) -> list[Cost]:
    """Measure paths in turns on one processor; the first is what the others are compared with."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(processors)})
    taken: list[list[float]] = [[] for _ in paths]
    try:
        for turn in range(turns + 5):
            order = list(range(len(paths)))
            for number in order if turn % 2 else reversed(order):
                spent = min(paths[number].burst() for _ in range(3))
                if turn >= 5:
                    taken[number].append(spent)
            if give_up() and turn > 20:
                break
    finally:
        os.sched_setaffinity(0, processors)
    for path in paths:
        if not path.arrives():
            raise RuntimeError(f"{path.name}: datagrams got lost on the way, the figure would be of another path")
    first = taken[0]
    return [
        Cost(
            path.name,
            1e9 * statistics.median(spent),
            statistics.median(own / base for own, base in zip(spent, first, strict=True)),
            len(spent),
        )
        for path, spent in zip(paths, taken, strict=True)
    ]


def _bound() -> socket.socket:
    """A receiver that is full at once: what comes later is thrown away where it would be queued."""
    end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    end.bind(("", 0))
    return end
