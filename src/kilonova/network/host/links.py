"""Links, addresses and routes of the namespace the calling thread is in, by netlink. The one module that speaks it.

What this cloud made carries the alias `kilonova:OWNER`; `found` tells it, so that nothing else is ever removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path

from kilonova.errors import CommandFailed
from kilonova.network.host import namespaces, netlink, routes
from kilonova.network.host.forwarding import Forwarding
from kilonova.network.host.netlink import attribute, nested, number, string, text, u8, u32
from kilonova.network.host.vlans import VlanBackend, Vlans
from kilonova.network.layout import GIVEN, Kind, Link, LinkChange, Route, Tunnel

ALIAS = "kilonova:"
VXLAN_PORT = 4789
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBi")
_ADDRESS, _IFNAME, _MTU, _MASTER, _LINKINFO, _ALIAS, _GROUP, _NS_FD = 1, 3, 4, 10, 18, 20, 27, 28
_INFO_KIND, _INFO_DATA = 1, 2
_VETH_PEER = 1
_VXLAN_ID, _VXLAN_LOCAL, _VXLAN_LEARNING, _VXLAN_PORT = 1, 4, 7, 15
_BRIDGE_DELAY, _BRIDGE_SNOOPING, _BRIDGE_CALL4, _BRIDGE_CALL6 = 1, 23, 36, 37
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_IFA_NODAD = 0x02
_UP, _PROMISCUOUS = 0x1, 0x100
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_KINDS: Mapping[str, Kind] = {
    "bridge": "bridge",
    "veth": "veth",
    "tun": "tap",
    "vlan": "vlan",
    "vxlan": "vxlan",
    "wireguard": "wireguard",
}
_TUN_TYPE, _TUN = 3, 1
_NONE_THERE = 19
_DOOMED = 0x6B6E
"""The group of links that are deleted together."""


class Links:
    """The links of the namespace of the thread that opens it; use it in that thread only."""

    def __init__(self, vlan_backend: VlanBackend = "auto") -> None:
        self._socket = netlink.Socket()
        self._vlans = Vlans(self._socket, vlan_backend)
        self.forwarding = Forwarding(self._socket)

    def __enter__(self) -> Links:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    # -------------------------------------------------------------------------------------------- changes
    def add(self, name: str, link: Link) -> None:
        """Make a link as it shall be. Raises `CommandFailed`, naming it."""
        if link.kind == "bridge":
            call = int(link.filtered)
            info = (u32(_BRIDGE_DELAY, 0), u8(_BRIDGE_SNOOPING, 0), u8(_BRIDGE_CALL4, call), u8(_BRIDGE_CALL6, call))
            self._new(name, link, "bridge", nested(_INFO_DATA, *info))
            # Only an MTU that was really changed is kept: else the bridge follows the smallest of its ports.
            self.change(LinkChange(name, Link("bridge", 0, up=False), Link("bridge", link.mtu - 1, up=False)))
        elif link.kind == "veth":
            self._add_veth(name, link)
        elif link.kind == "tap":
            _make_tap(name)
        elif link.kind == "vlan":
            self._vlans.add(name, link)
        elif link.kind == "vxlan":
            self._add_vxlan(name, link)
        elif not self.exists(name):
            raise CommandFailed(_missing(name, link))
        if link.kind in GIVEN:
            link = replace(link, owner="", mtu=0)
        try:
            self.change(LinkChange(name, Link(link.kind, 0, up=False), link))
        except CommandFailed:
            if link.kind not in GIVEN:  # without its mark nobody would ever remove it
                self.remove(name)
            raise

    def change(self, change: LinkChange) -> None:
        """Say what differs, addresses too."""
        name, before, after = change.name, change.before, change.after
        attributes: list[bytes] = []
        if after.mtu != before.mtu:
            attributes.append(u32(_MTU, after.mtu))
        if after.mac and after.mac != before.mac:
            attributes.append(attribute(_ADDRESS, _mac_bytes(after.mac)))
        if after.owner != before.owner:
            attributes.append(text(_ALIAS, ALIAS + after.owner))
        if after.master != before.master:
            attributes.append(u32(_MASTER, self.index(after.master) if after.master else 0))
        if before.filtered != after.filtered and (before.mtu or after.kind == "given bridge"):
            call = int(after.filtered)
            data = nested(_INFO_DATA, u8(_BRIDGE_CALL4, call), u8(_BRIDGE_CALL6, call))
            attributes.append(nested(_LINKINFO, text(_INFO_KIND, "bridge"), data))
        if attributes or after.up != before.up:
            body = _IFINFO.pack(0, 0, self.index(name), _UP if after.up else 0, _UP) + b"".join(attributes)
            self._socket.request(netlink.RTM_NEWLINK, 0, body, f"link {name}")
        if after.tag is not None and (not before.intact or before.mtu not in (0, after.mtu)):
            self._vlans.mend(name, after)
        for address in sorted(before.addresses - after.addresses):
            self._address(netlink.RTM_DELADDR, 0, name, address)
        for address in sorted(after.addresses - before.addresses):
            self._address(netlink.RTM_NEWADDR, netlink.F_CREATE | netlink.F_REPLACE, name, address)

    def add_wireguard(self, name: str) -> None:
        """By the kernel's WireGuard. Raises `NetlinkError` EOPNOTSUPP where it has none."""
        self._new(name, Link("wireguard", 0), "wireguard", b"")

    def move(self, name: str, namespace: str) -> None:
        """Give a link of this namespace to another one."""
        descriptor = os.open(namespaces.path(namespace), os.O_RDONLY | os.O_CLOEXEC)
        try:
            body = _IFINFO.pack(0, 0, self.index(name), 0, 0) + u32(_NS_FD, descriptor)
            self._socket.request(netlink.RTM_NEWLINK, 0, body, f"link {name} to {namespace}")
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        """Delete a link; one that is gone is passed over."""
        try:
            index = socket.if_nametoindex(name)
        except OSError:
            return
        try:
            self._socket.request(netlink.RTM_DELLINK, 0, _IFINFO.pack(0, 0, index, 0, 0), f"link {name}")
        except netlink.NetlinkError as error:
            if error.number != _NONE_THERE:
                raise

    def remove_all(self, names: Sequence[str]) -> None:
        """Delete links together: the kernel waits once for all, ten to forty milliseconds, not once for each."""
        present = [name for name in names if self.exists(name)]
        for name in present:
            self._vlans.forget(name)
        if len(present) < 2:
            for name in present:
                self.remove(name)
            return
        for name in present:
            body = _IFINFO.pack(0, 0, self.index(name), 0, 0) + u32(_GROUP, _DOOMED)
            self._socket.request(netlink.RTM_NEWLINK, 0, body, f"link {name}")
        body = _IFINFO.pack(0, 0, 0, 0, 0) + u32(_GROUP, _DOOMED)
        self._socket.request(netlink.RTM_DELLINK, 0, body, f"links {', '.join(present)}")

    def mtu(self, name: str) -> int:
        """Of a link by name; raises `CommandFailed` when there is none."""
        (message, *_) = self._socket.ask(netlink.RTM_GETLINK, 0, _IFINFO.pack(0, 0, self.index(name), 0, 0), name)
        return number(netlink.attributes(message.body, _IFINFO.size).get(_MTU))

    def up(self, name: str) -> None:
        body = _IFINFO.pack(0, 0, self.index(name), _UP, _UP)
        self._socket.request(netlink.RTM_NEWLINK, 0, body, f"link {name}")

    def quiet(self, name: str) -> None:
        """No longer promiscuous by our wish."""
        body = _IFINFO.pack(0, 0, self.index(name), 0, _PROMISCUOUS)
        self._socket.request(netlink.RTM_NEWLINK, 0, body, f"link {name}")

    def add_route(self, route: Route) -> None:
        self._route(netlink.RTM_NEWROUTE, netlink.F_CREATE | netlink.F_REPLACE, route)

    def remove_route(self, route: Route) -> None:
        if not self.exists(route.device):
            return  # it went with its link
        try:
            self._route(netlink.RTM_DELROUTE, 0, route)
        except netlink.NetlinkError as error:
            if error.number != 3:  # ESRCH: it went with its link or address
                raise

    def mend_routes(self, drift: routes.Drift) -> None:
        """Take away what somebody added, bring back what the kernel had made for addresses."""
        for record in drift.strays:
            with suppress(netlink.NetlinkError):  # it went with its link, or a planned one took its place
                self._socket.request(netlink.RTM_DELROUTE, 0, record.body, f"route {record}")
        for item in drift.lost:
            flags = netlink.F_CREATE | netlink.F_REPLACE
            body = routes.body_of_connected(item, self.index(item.device))
            self._socket.request(netlink.RTM_NEWROUTE, flags, body, f"route {item.destination} of {item.device}")

    def rename(self, name: str, wanted: str) -> None:
        """Give a link another name; where the kernel wants it down for that, for a moment."""
        body = _IFINFO.pack(0, 0, self.index(name), 0, 0) + text(_IFNAME, wanted)
        try:
            self._socket.request(netlink.RTM_NEWLINK, 0, body, f"link {name}")
        except netlink.NetlinkError as error:
            if error.number != errno.EBUSY:
                raise
            down = _IFINFO.pack(0, 0, self.index(name), 0, _UP)
            self._socket.request(netlink.RTM_NEWLINK, 0, down, f"link {name}")
            self._socket.request(netlink.RTM_NEWLINK, 0, body, f"link {name}")
            self.up(wanted)

    @staticmethod
    def index(name: str) -> int:
        try:
            return socket.if_nametoindex(name)
        except OSError:
            raise CommandFailed(f"there is no link {name}") from None

    @staticmethod
    def exists(name: str) -> bool:
        try:
            return socket.if_nametoindex(name) > 0
        except OSError:
            return False

    def _new(self, name: str, link: Link, kind: str, data: bytes, *more: bytes) -> None:
        body = b"".join(
            (_IFINFO.pack(0, 0, 0, 0, 0), text(_IFNAME, name), *more, nested(_LINKINFO, text(_INFO_KIND, kind), data))
        )
        self._socket.request(netlink.RTM_NEWLINK, netlink.F_CREATE | netlink.F_EXCL, body, f"new {kind} {name}")

    def _add_veth(self, name: str, link: Link) -> None:
        if link.peer is None:
            raise CommandFailed(f"link {name}: a veth pair needs its other end's name")
        peer = [_IFINFO.pack(0, 0, 0, 0, 0), text(_IFNAME, link.peer.device), u32(_MTU, link.mtu)]
        if link.peer.mac:
            peer.append(attribute(_ADDRESS, _mac_bytes(link.peer.mac)))
        descriptor = -1
        if link.peer.namespace:
            descriptor = os.open(namespaces.path(link.peer.namespace), os.O_RDONLY | os.O_CLOEXEC)
            peer.append(u32(_NS_FD, descriptor))
        try:
            self._new(name, link, "veth", nested(_INFO_DATA, attribute(_VETH_PEER, b"".join(peer))))
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _add_vxlan(self, name: str, link: Link) -> None:
        """Nothing is learned from packets: which host has which MAC is told (`forward`)."""
        if link.tunnel is None:
            raise CommandFailed(f"link {name}: a VXLAN device needs its network identifier")
        info = (
            u32(_VXLAN_ID, link.tunnel.vni),
            attribute(_VXLAN_LOCAL, ip_address(link.tunnel.local).packed),
            u8(_VXLAN_LEARNING, 0),
            attribute(_VXLAN_PORT, struct.pack("!H", VXLAN_PORT)),
        )
        self._new(name, link, "vxlan", nested(_INFO_DATA, *info))

    def _address(self, kind: int, flags: int, name: str, address: str) -> None:
        interface = ip_interface(address)
        family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
        body = _IFADDR.pack(family, interface.network.prefixlen, 0, 0, self.index(name))
        body += attribute(_IFA_LOCAL, interface.ip.packed) + attribute(_IFA_ADDRESS, interface.ip.packed)
        if family == socket.AF_INET6:
            body += u32(_IFA_FLAGS, _IFA_NODAD)
        try:
            self._socket.request(kind, flags, body, f"address {address} of {name}")
        except netlink.NetlinkError as error:
            if kind != netlink.RTM_DELADDR or error.number != 99:  # EADDRNOTAVAIL: it is gone already
                raise

    def _route(self, kind: int, flags: int, route: Route) -> None:
        body = routes.body_of_route(route, self.index(route.device))
        self._socket.request(kind, flags, body, f"route {route.destination} via {route.next_hop or route.device}")

    # -------------------------------------------------------------------------------------------- inspection
    def found(self) -> dict[str, Link]:
        """Every link but the loopback, with its addresses of global scope."""
        dump = self._socket.dump(netlink.RTM_GETLINK, _IFINFO.pack(0, 0, 0, 0, 0), "links")
        names: dict[int, str] = {}
        raw: list[tuple[int, int, Mapping[int, bytes]]] = []
        for message in dump:
            _, _, index, flags, _ = _IFINFO.unpack_from(message.body)
            parsed = netlink.attributes(message.body, _IFINFO.size)
            names[index] = string(parsed.get(_IFNAME))
            raw.append((index, flags, parsed))
        addresses = self._addresses()
        found = {
            names[index]: _link(flags, parsed, names, addresses.get(index, ()))
            for index, flags, parsed in raw
            if names[index] != "lo"
        }
        return self._vlans.found(found, {index: flags for index, flags, _ in raw}, names)

    def _addresses(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for message in self._socket.dump(netlink.RTM_GETADDR, _IFADDR.pack(0, 0, 0, 0, 0), "addresses"):
            family, length, _, scope, index = _IFADDR.unpack_from(message.body)
            if scope != 0 or family not in (socket.AF_INET, socket.AF_INET6):
                continue
            parsed = netlink.attributes(message.body, _IFADDR.size)
            packed = parsed.get(_IFA_LOCAL) or parsed[_IFA_ADDRESS]
            found.setdefault(index, []).append(f"{ip_address(packed)}/{length}")
        return found

    def foreign_ports(self, bridge: str) -> tuple[str, ...]:
        """The ports of a bridge that this cloud did not make; none when there is no such bridge."""
        if not self.exists(bridge):
            return ()
        index = self.index(bridge)
        request = _IFINFO.pack(0, 0, 0, 0, 0) + u32(_MASTER, index)
        found: list[str] = []
        for message in self._socket.dump(netlink.RTM_GETLINK, request, f"ports of {bridge}"):
            parsed = netlink.attributes(message.body, _IFINFO.size)
            if number(parsed.get(_MASTER)) == index and not string(parsed.get(_ALIAS)).startswith(ALIAS):
                found.append(string(parsed.get(_IFNAME)))
        return tuple(sorted(found))

    def routes(self) -> tuple[routes.Record, ...]:
        """Of every table but the local one."""
        dump = self._socket.dump(netlink.RTM_GETROUTE, routes.RTMSG.pack(0, 0, 0, 0, 0, 0, 0, 0, 0), "routes")
        return routes.parse(dump, dict(socket.if_nameindex()))


def _link(flags: int, parsed: Mapping[int, bytes], names: Mapping[int, str], addresses: Iterable[str]) -> Link:
    info = netlink.attributes(parsed.get(_LINKINFO, b""))
    kind = _KINDS.get(string(info.get(_INFO_KIND)), "other")
    alias = string(parsed.get(_ALIAS))
    filtered = False
    tunnel: Tunnel | None = None
    if kind == "bridge":
        filtered = number(netlink.attributes(info.get(_INFO_DATA, b"")).get(_BRIDGE_CALL4)) == 1
    elif kind == "tap" and number(netlink.attributes(info.get(_INFO_DATA, b"")).get(_TUN_TYPE)) == _TUN:
        kind = "wireguard"  # by wireguard-go: nothing else here has packets without Ethernet
    elif kind == "vxlan":
        data = netlink.attributes(info.get(_INFO_DATA, b""))
        tunnel = Tunnel(number(data.get(_VXLAN_ID)), str(ip_address(data.get(_VXLAN_LOCAL, bytes(4)))))
    return Link(
        kind=kind,
        mtu=number(parsed.get(_MTU)),
        owner=alias.removeprefix(ALIAS) if alias.startswith(ALIAS) else "",
        up=bool(flags & _UP),
        mac=parsed.get(_ADDRESS, b"").hex(":"),
        master=names.get(number(parsed.get(_MASTER)), ""),
        addresses=frozenset(addresses),
        filtered=filtered,
        tunnel=tunnel,
    )


def _missing(name: str, link: Link) -> str:
    if link.kind == "given bridge":
        return (
            f"bridge {name} is not there: make it in the switch namespace (ip link add {name} type bridge), "
            "with the NIC of the flat network as its port, or name another one by `kilonova up --flat`"
        )
    return f"link {name}: there is no such device on this machine"


def write_sysctls(values: Mapping[str, str]) -> list[str]:
    """Of the namespace of the calling thread; `net/ipv4/ip_forward` -> value. What had another value."""
    changed: list[str] = []
    for name, value in values.items():
        path = Path("/proc/sys", name)
        if path.read_text().strip() != value:
            path.write_text(value)
            changed.append(name)
    return changed


def _make_tap(name: str) -> None:
    """A tap that stays when nobody has it open; whoever opens it by name gets its frames."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
        fcntl.ioctl(descriptor, _TUNSETIFF, request)
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    except OSError as error:
        raise CommandFailed(f"tap {name}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
