"""VLAN devices, `TRUNK.VID`, by one of two back ends: the kernel's 8021q, or tc with eBPF where the kernel has none.

The rest of the host sees links of kind `vlan` and does not ask which. A device that one back end made stays when the
other is chosen later: traffic is not interrupted for it.
"""

from __future__ import annotations

import socket as sockets
import struct
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Literal

from kilonova.errors import CommandFailed, NotSupported
from kilonova.network.host import netlink, vlan_tc
from kilonova.network.host.netlink import nested, number, text, u16, u32
from kilonova.network.layout import Link, VlanTag

VlanBackend = Literal["auto", "8021q", "tc"]
_IFINFO = struct.Struct("=BxHiII")
_IFNAME, _MTU, _LINK, _LINKINFO = 3, 4, 5, 18
_INFO_KIND, _INFO_DATA, _VETH_PEER, _VLAN_ID = 1, 2, 1, 1
_UP, _PROMISCUOUS = 0x1, 0x100
_UNKNOWN = (95, 93)
"""EOPNOTSUPP, EPROTONOSUPPORT: the kernel knows no such kind of link."""


class Vlans:
    """The VLAN devices of the namespace that a socket belongs to."""

    def __init__(self, socket: netlink.Socket, backend: VlanBackend = "auto") -> None:
        self._socket = socket
        self._backend = backend

    def add(self, name: str, link: Link) -> None:
        """Make a device, down and without a master. Raises `NotSupported` when no back end works here."""
        tag = _tag(name, link)
        trunk = self._index(tag.trunk)
        self._check_mtu(name, tag, link)
        if self._backend == "8021q" or (self._backend == "auto" and kernel_has_8021q()):
            info = nested(_LINKINFO, text(_INFO_KIND, "vlan"), nested(_INFO_DATA, u16(_VLAN_ID, tag.vid)))
            try:
                self._new(name, u32(_LINK, trunk) + info)
            except netlink.NetlinkError as error:
                if error.number in _UNKNOWN:
                    raise NotSupported(
                        f"VLAN device {name}: this kernel has no 802.1Q (module 8021q); load it, "
                        "or set vlan_backend to auto or tc"
                    ) from error
                raise
            return
        peer = _IFINFO.pack(0, 0, 0, 0, 0) + text(_IFNAME, name + vlan_tc.BACK) + u32(_MTU, link.mtu)
        info = nested(_LINKINFO, text(_INFO_KIND, "veth"), nested(_INFO_DATA, netlink.attribute(_VETH_PEER, peer)))
        self._new(name, u32(_MTU, link.mtu) + info)
        self.mend(name, link)

    def mend(self, name: str, link: Link) -> None:
        """Put in place whatever is missing between a device made by tc and its trunk. The kernel's own need nothing."""
        tag, end = _tag(name, link), name + vlan_tc.BACK
        try:
            back = sockets.if_nametoindex(end)
        except OSError:
            return
        trunk = self._index(tag.trunk)
        try:
            vlan_tc.join(self._socket, back, trunk, tag.vid)
        except NotSupported as error:
            raise NotSupported(
                f"VLAN device {name}: this kernel has no 802.1Q (module 8021q) and takes no eBPF program "
                f"instead ({error}); load the module, or give the physical network no trunk on this host"
            ) from error
        self._set(back, _UP, end, u32(_MTU, link.mtu))
        self._set(trunk, _UP | _PROMISCUOUS, tag.trunk)

    def forget(self, name: str) -> None:
        """Before a device is removed, if it is one by tc: its trunk shall not send to it any more."""
        try:
            back = sockets.if_nametoindex(name + vlan_tc.BACK)
        except OSError:
            return
        vlan_tc.part(self._socket, back)

    def found(self, links: Mapping[str, Link], flags: Mapping[int, int], names: Mapping[int, str]) -> dict[str, Link]:
        """The links with those by tc told as VLAN devices, and without their back ends."""
        indexes = {name: index for index, name in names.items()}
        told = dict(links)
        with vlan_tc.Inspection(self._socket) as inspection:
            for name in links:
                back = links.get(name + vlan_tc.BACK)
                if back is None or back.kind != "veth" or links[name].kind != "veth":
                    continue
                trunk = inspection.trunk_of(indexes[name + vlan_tc.BACK])
                intact = trunk is not None and back.up and bool(flags.get(trunk, 0) & _PROMISCUOUS)
                told[name] = replace(links[name], kind="vlan", intact=intact)
                del told[name + vlan_tc.BACK]
        return told

    def _check_mtu(self, name: str, tag: VlanTag, link: Link) -> None:
        (message, *_) = self._socket.ask(netlink.RTM_GETLINK, 0, _named(tag.trunk), f"link {tag.trunk}")
        mtu = number(netlink.attributes(message.body, _IFINFO.size).get(_MTU))
        if mtu < link.mtu:
            raise CommandFailed(
                f"VLAN device {name}: frames of {link.mtu} bytes do not fit the trunk {tag.trunk}, whose MTU is {mtu}; "
                f"raise that (ip link set {tag.trunk} mtu {link.mtu}, in the switch namespace) or lower the network's"
            )

    def _new(self, name: str, more: bytes) -> None:
        body = _named(name) + more
        self._socket.request(netlink.RTM_NEWLINK, netlink.F_CREATE | netlink.F_EXCL, body, f"new VLAN device {name}")

    def _set(self, index: int, flags: int, name: str, more: bytes = b"") -> None:
        self._socket.request(netlink.RTM_NEWLINK, 0, _IFINFO.pack(0, 0, index, flags, flags) + more, f"link {name}")

    @staticmethod
    def _index(name: str) -> int:
        try:
            return sockets.if_nametoindex(name)
        except OSError:
            raise CommandFailed(f"there is no link {name}") from None


@cache
def kernel_has_8021q() -> bool:
    """Whether the kernel knows links of the kind; asked by a request for one that lacks too much to be made."""
    body = _IFINFO.pack(0, 0, 0, 0, 0) + text(_IFNAME, "kn-vlan-probe") + nested(_LINKINFO, text(_INFO_KIND, "vlan"))
    with netlink.Socket() as socket:
        try:
            socket.request(netlink.RTM_NEWLINK, netlink.F_CREATE | netlink.F_EXCL, body, "probe of 8021q")
        except netlink.NetlinkError as error:
            return error.number not in _UNKNOWN
    return True


def _tag(name: str, link: Link) -> VlanTag:
    if link.tag is None:
        raise CommandFailed(f"link {name}: a VLAN device needs its trunk and VLAN id")
    return link.tag


def _named(name: str) -> bytes:
    return _IFINFO.pack(0, 0, 0, 0, 0) + text(_IFNAME, name)
