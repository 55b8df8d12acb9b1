"""The rtnetlink protocol (RFC 3549, linux/rtnetlink.h): messages, attributes and one socket. `links` gives it meaning.

Written for speed: making a network is about thirty messages, and an inspection of a host a few dumps of thousands of
links; a general library spends a millisecond on each, this spends about thirty microseconds.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from kilonova.errors import CommandFailed

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
F_REQUEST, F_ACK, F_DUMP, F_REPLACE, F_EXCL, F_CREATE, F_APPEND = 1, 4, 0x300, 0x100, 0x200, 0x400, 0x800
NESTED = 0x8000
_DONE, _ERROR = 3, 2
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_INTERRUPTED = 0x10


class Message(NamedTuple):
    kind: int
    body: bytes


class NetlinkError(CommandFailed):
    """The kernel refused a request; `number` says why (errno), as far as that is known here."""

    number = 0

    @classmethod
    def of(cls, what: str, number: int) -> NetlinkError:
        error = cls(f"{what}: {os.strerror(number)}")
        error.number = number
        return error


class Socket:
    """A netlink socket, rtnetlink's if no other protocol is named, of the namespace of the thread that opens it."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def request(self, kind: int, flags: int, body: bytes, what: str) -> None:
        """One change, acknowledged. Raises `NetlinkError`, its message beginning with `what`."""
        self.ask(kind, flags, body, what)

    def ask(self, kind: int, flags: int, body: bytes, what: str) -> list[Message]:
        """A request whose answer is more than that it was heard."""
        self._send(kind, flags | F_REQUEST | F_ACK, body)
        return list(self._replies(what))

    def dump(self, kind: int, body: bytes, what: str) -> list[Message]:
        """All objects of a kind; asked again when they changed meanwhile."""
        while True:
            self._interrupted = False
            self._send(kind, F_REQUEST | F_DUMP, body)
            found = list(self._replies(what))
            if not self._interrupted:
                return found

    def tell(self, kind: int, bodies: Iterable[bytes]) -> None:
        """Changes that nobody waits for, in one datagram; what the kernel says about failed ones is passed over."""
        parts: list[bytes] = []
        for body in bodies:
            self._sequence += 1
            padding = b"\0" * (-len(body) % 4)
            parts.append(_HEADER.pack(_HEADER.size + len(body), kind, F_REQUEST, self._sequence, 0) + body + padding)
        if parts:
            self._socket.send(b"".join(parts))

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)

    def _replies(self, what: str) -> Iterator[Message]:
        while True:
            data = self._socket.recv(1 << 17)
            position = 0
            while position < len(data):
                length, kind, flags, sequence, _ = _HEADER.unpack_from(data, position)
                body = data[position + _HEADER.size : position + length]
                position += (length + 3) & ~3
                if sequence != self._sequence:
                    continue
                if flags & _INTERRUPTED:
                    self._interrupted = True
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    number = struct.unpack_from("=i", body)[0]
                    if number:
                        raise NetlinkError.of(what, -number)
                    return
                yield Message(kind, body)


def attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def u8(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=B", value))


def u16(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=H", value))


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def nested(kind: int, *attributes: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(attributes))


def attributes(body: bytes, offset: int = 0) -> Mapping[int, bytes]:
    """The attributes of a message after its fixed part of `offset` bytes."""
    found: dict[int, bytes] = {}
    end = len(body)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = body[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def number(value: bytes | None) -> int:
    return int.from_bytes(value, "little") if value else 0


def string(value: bytes | None) -> str:
    return value.rstrip(b"\0").decode(errors="replace") if value else ""
