"""VLAN devices on a kernel without 8021q: veth pairs whose back ends tc joins to the trunk by two eBPF programs.

`TRUNK.VID` is the front of a pair, the rest of the host sees only it. One program on the trunk takes the tag off and
sends the frame to the back end that the tag's id names in a map; one program on each back end puts the tag on and sends
the frame out of the trunk. Frames on the wire are real 802.1Q. Nothing but the kernel is needed once they are attached.
"""

from __future__ import annotations

import os
import re
import socket as sockets
import struct
from collections.abc import Iterator
from typing import NamedTuple

from kilonova.errors import CommandFailed
from kilonova.network.host import netlink
from kilonova.network.host.bpf import Array, Instruction, array_of, load_classifier, new_array
from kilonova.network.host.netlink import attributes, nested, number, string, text, u32

BACK = "~"
"""Ends the name of a back end."""
_IDS = 4096
_TRUNK_MARK = "kn_untag"
_BACK_MARK = re.compile(r"kn_tag:(\d+):(\d+)")

_NEWQDISC, _NEWFILTER, _GETFILTER = 36, 44, 46
_TCMSG = struct.Struct("=BxxxiIII")
_CLSACT, _CLSACT_PARENT, _INGRESS = 0xFFFF0000, 0xFFFFFFF1, 0xFFFFFFF2
_KIND, _OPTIONS = 1, 2
_BPF_DESCRIPTOR, _BPF_NAME, _BPF_FLAGS, _BPF_ID = 6, 7, 8, 11
_DIRECT_ACTION = 1
_PREFERENCE = 0x6B6E
_EVERY_PROTOCOL = 0x0003
_EXISTS = 17

_LOAD_CONTEXT, _LOAD_STACK, _STORE_STACK, _LOAD_MAP = 0x61, 0x61, 0x63, 0x18
_SET, _COPY, _ADD, _AND, _IF_EQUAL, _IF_OTHER, _CALL, _EXIT = 0xB7, 0xBF, 0x07, 0x57, 0x15, 0x55, 0x85, 0x95
_LOOKUP, _PUSH, _POP, _REDIRECT = 1, 18, 19, 23
_VLAN_PRESENT, _VLAN_TCI, _VLAN_PROTOCOL = 20, 24, 28
"""Fields of struct __sk_buff."""
_NEXT_FILTER = -1


class _Filter(NamedTuple):
    name: str
    program_id: int


def join(socket: netlink.Socket, back: int, trunk: int, vid: int) -> None:
    """Attach what is missing between a back end and the trunk, both by index. Doing it twice changes nothing.

    Raises `NotSupported` where the kernel takes no eBPF program, `CommandFailed` for the rest.
    """
    with _array_on(socket, trunk) or _untag_on(socket, trunk) as array:
        array.set(vid, back)
    if not any(item.name == _mark(vid, trunk) for item in _filters(socket, back)):
        _attach(socket, back, _mark(vid, trunk), _tag_program(vid, trunk))


def part(socket: netlink.Socket, back: int) -> None:
    """Have the trunk forget a back end that is about to go."""
    for _, trunk, vid in _joined(socket, back):
        array = _array_on(socket, trunk)
        if array is not None:
            with array:
                if array.get(vid) == back:
                    array.set(vid, 0)


class Inspection:
    """Tells which back ends are joined to their trunks as they shall be; looks at each trunk once."""

    def __init__(self, socket: netlink.Socket) -> None:
        self._socket = socket
        self._arrays: dict[int, Array | None] = {}

    def __enter__(self) -> Inspection:
        return self

    def __exit__(self, *_: object) -> None:
        for array in self._arrays.values():
            if array is not None:
                array.close()

    def trunk_of(self, back: int) -> int | None:
        """The trunk's index if both programs are there and agree; none: something is missing."""
        for _, trunk, vid in _joined(self._socket, back):
            if trunk not in self._arrays:
                self._arrays[trunk] = _array_on(self._socket, trunk)
            array = self._arrays[trunk]
            if array is not None and array.get(vid) == back:
                return trunk
        return None


def check() -> None:
    """Raises `NotSupported` or `CommandFailed` when this kernel takes no such program from this process."""
    os.close(load_classifier("kn_tag", _tag_program(1, 1)))
    with new_array("kn_vlans", _IDS) as array:
        os.close(load_classifier(_TRUNK_MARK, _untag_program(array)))


def _untag_on(socket: netlink.Socket, trunk: int) -> Array:
    array = new_array("kn_vlans", _IDS)
    try:
        _attach(socket, trunk, _TRUNK_MARK, _untag_program(array))
    except CommandFailed:
        array.close()
        raise
    return array


def _array_on(socket: netlink.Socket, trunk: int) -> Array | None:
    for item in _filters(socket, trunk):
        if item.name == _TRUNK_MARK:
            return array_of(item.program_id)
    return None


def _joined(socket: netlink.Socket, back: int) -> Iterator[tuple[int, int, int]]:
    """(program, trunk, VLAN id) that a back end's filter names."""
    for item in _filters(socket, back):
        if found := _BACK_MARK.fullmatch(item.name):
            yield item.program_id, int(found[2]), int(found[1])


def _mark(vid: int, trunk: int) -> str:
    return f"kn_tag:{vid}:{trunk}"


# ------------------------------------------------------------------------------------------------ programs
def _untag_program(array: Array) -> list[Instruction]:
    """A frame with a tag that has a back end goes there without it; every other goes on as if nobody had looked."""
    return [
        Instruction(_COPY, 6, 1, 0, 0),
        Instruction(_LOAD_CONTEXT, 2, 1, _VLAN_PRESENT, 0),
        Instruction(_IF_EQUAL, 2, 0, 19, 0),
        Instruction(_LOAD_CONTEXT, 2, 1, _VLAN_PROTOCOL, 0),
        Instruction(_IF_OTHER, 2, 0, 17, sockets.htons(0x8100)),
        Instruction(_LOAD_CONTEXT, 2, 1, _VLAN_TCI, 0),
        Instruction(_AND, 2, 0, 0, _IDS - 1),
        Instruction(_STORE_STACK, 10, 2, -4, 0),
        Instruction(_COPY, 2, 10, 0, 0),
        Instruction(_ADD, 2, 0, 0, -4),
        Instruction(_LOAD_MAP, 1, 1, 0, array.descriptor),
        Instruction(0, 0, 0, 0, 0),
        Instruction(_CALL, 0, 0, 0, _LOOKUP),
        Instruction(_IF_EQUAL, 0, 0, 8, 0),
        Instruction(_LOAD_STACK, 7, 0, 0, 0),
        Instruction(_IF_EQUAL, 7, 0, 6, 0),
        Instruction(_COPY, 1, 6, 0, 0),
        Instruction(_CALL, 0, 0, 0, _POP),
        Instruction(_COPY, 1, 7, 0, 0),
        Instruction(_SET, 2, 0, 0, 0),
        Instruction(_CALL, 0, 0, 0, _REDIRECT),
        Instruction(_EXIT, 0, 0, 0, 0),
        Instruction(_SET, 0, 0, 0, _NEXT_FILTER),
        Instruction(_EXIT, 0, 0, 0, 0),
    ]


def _tag_program(vid: int, trunk: int) -> list[Instruction]:
    return [
        Instruction(_COPY, 6, 1, 0, 0),
        Instruction(_SET, 2, 0, 0, sockets.htons(0x8100)),
        Instruction(_SET, 3, 0, 0, vid),
        Instruction(_CALL, 0, 0, 0, _PUSH),
        Instruction(_SET, 1, 0, 0, trunk),
        Instruction(_SET, 2, 0, 0, 0),
        Instruction(_CALL, 0, 0, 0, _REDIRECT),
        Instruction(_EXIT, 0, 0, 0, 0),
    ]


# ------------------------------------------------------------------------------------------------ filters
def _attach(socket: netlink.Socket, index: int, name: str, program: list[Instruction]) -> None:
    """The one filter of ours on a device's ingress, in place of one that is there."""
    descriptor = load_classifier(name.partition(":")[0], program)
    try:
        clsact = _TCMSG.pack(0, index, _CLSACT, _CLSACT_PARENT, 0) + text(_KIND, "clsact")
        try:
            socket.request(_NEWQDISC, netlink.F_CREATE | netlink.F_EXCL, clsact, f"clsact of device {index}")
        except netlink.NetlinkError as error:
            if error.number != _EXISTS:
                raise
        options = (u32(_BPF_DESCRIPTOR, descriptor), text(_BPF_NAME, name), u32(_BPF_FLAGS, _DIRECT_ACTION))
        info = _PREFERENCE << 16 | sockets.htons(_EVERY_PROTOCOL)
        body = _TCMSG.pack(0, index, 1, _INGRESS, info) + text(_KIND, "bpf") + nested(_OPTIONS, *options)
        socket.request(_NEWFILTER, netlink.F_CREATE, body, f"filter {name} of device {index}")
    finally:
        os.close(descriptor)


def _filters(socket: netlink.Socket, index: int) -> list[_Filter]:
    found: list[_Filter] = []
    request = _TCMSG.pack(0, index, 0, _INGRESS, 0)
    for message in socket.dump(_GETFILTER, request, f"filters of device {index}"):
        parsed = attributes(message.body, _TCMSG.size)
        if string(parsed.get(_KIND)) != "bpf":
            continue
        options = attributes(parsed.get(_OPTIONS, b""))
        if _BPF_ID in options:
            found.append(_Filter(string(options.get(_BPF_NAME)), number(options[_BPF_ID])))
    return found
