"""The forwarding tables of VXLAN devices, by netlink (what `bridge fdb` shows as `self permanent`)."""

from __future__ import annotations

import socket as sockets
import struct
from collections.abc import Mapping
from ipaddress import ip_address

from kilonova.network.host import netlink
from kilonova.network.host.netlink import attribute, attributes
from kilonova.network.layout import Forward

_NDMSG = struct.Struct("=BxxxiHBB")
_IFINFO = struct.Struct("=BxHiII")
_AF_BRIDGE = 7
_DESTINATION, _MAC = 1, 2
_PERMANENT = 0x40 | 0x80
_SELF = 0x02
_EXISTS, _NONE_THERE = 17, (2, 19)
"""EEXIST; ENOENT and ENODEV."""


class Forwarding:
    """The tables of the namespace that a socket belongs to."""

    def __init__(self, socket: netlink.Socket) -> None:
        self._socket = socket

    def add(self, entry: Forward) -> None:
        """One more destination for a MAC. Raises `CommandFailed` when there is no such device."""
        try:
            self._entry(netlink.RTM_NEWNEIGH, netlink.F_CREATE | netlink.F_APPEND, entry)
        except netlink.NetlinkError as error:
            if error.number != _EXISTS:
                raise

    def remove(self, entry: Forward) -> None:
        """One that is gone, perhaps with its device, is passed over."""
        try:
            self._entry(netlink.RTM_DELNEIGH, 0, entry)
        except netlink.NetlinkError as error:
            if error.number not in _NONE_THERE:
                raise

    def found(self, devices: Mapping[str, int]) -> frozenset[Forward]:
        """What was told about these devices (name -> index)."""
        entries: set[Forward] = set()
        for name, index in devices.items():
            request = _IFINFO.pack(_AF_BRIDGE, 0, index, 0, 0)
            for message in self._socket.dump(netlink.RTM_GETNEIGH, request, f"forwarding of {name}"):
                _, where, state, flags, _ = _NDMSG.unpack_from(message.body)
                parsed = attributes(message.body, _NDMSG.size)
                if where != index or not flags & _SELF or _DESTINATION not in parsed or state & 0x80 == 0:
                    continue
                entries.add(Forward(name, parsed[_MAC].hex(":"), str(ip_address(parsed[_DESTINATION]))))
        return frozenset(entries)

    def _entry(self, kind: int, flags: int, entry: Forward) -> None:
        try:
            index = sockets.if_nametoindex(entry.device)
        except OSError:
            raise netlink.NetlinkError.of(f"forwarding of {entry.device}", 19) from None
        body = _NDMSG.pack(_AF_BRIDGE, index, _PERMANENT, _SELF, 0)
        body += attribute(_DESTINATION, ip_address(entry.destination).packed)
        body += attribute(_MAC, bytes.fromhex(entry.mac.replace(":", "")))
        what = f"forwarding of {entry.device}: {entry.mac} to {entry.destination}"
        self._socket.request(kind, flags, body, what)
