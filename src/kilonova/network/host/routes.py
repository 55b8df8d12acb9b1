"""The routes of a namespace as the kernel has them, and what of them is neither planned nor the kernel's own. Pure.

Deleting names exactly what the kernel told, so that a route added by hand goes whatever its metric, table or kind.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from typing import NamedTuple

from kilonova.network.host import netlink
from kilonova.network.layout import Layout, Route

RTMSG = struct.Struct("=BBBBBBBBI")
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_MULTIPATH, RTA_TABLE = 1, 4, 5, 6, 7, 9, 15
TABLE_MAIN, TABLE_LOCAL = 254, 255
PROTOCOL_KERNEL, PROTOCOL_STATIC = 2, 4
UNICAST, ONLINK, SCOPE_LINK = 1, 4, 253
_IPV6_METRIC, _IPV6_CONNECTED_METRIC = 1024, 256
_CLONED = 0x200
_IDENTITY = (RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_MULTIPATH, RTA_TABLE)
_KINDS = {2: "local", 3: "broadcast", 5: "multicast", 6: "blackhole", 7: "unreachable", 8: "prohibit", 9: "throw"}


class Record(NamedTuple):
    """One route of a dump."""

    route: Route
    """Of an unusual one only for messages."""
    planned: bool
    """Has the form of those that this cloud makes."""
    connected: bool
    """Made by the kernel for an address."""
    body: bytes
    """What deletes it."""

    def __str__(self) -> str:
        return f"{self.route.destination} via {self.route.next_hop or self.route.device}"


class Connected(NamedTuple):
    """What the kernel makes for an address of a device."""

    destination: str
    device: str
    source: str


@dataclass(frozen=True)
class Drift:
    """What somebody did to a namespace's routes besides what a plan can say."""

    strays: tuple[Record, ...] = ()
    lost: tuple[Connected, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.strays or self.lost)

    def __str__(self) -> str:
        words = [f"-route {record}" for record in self.strays]
        return ", ".join(words + [f"+route {item.destination} of {item.device}" for item in self.lost])


NO_DRIFT = Drift()


def parse(messages: Iterable[netlink.Message], names: Mapping[int, str]) -> tuple[Record, ...]:
    """The routes of a dump but those of the table `local`; `names` of the links by index."""
    found: list[Record] = []
    for message in messages:
        family, length, source_length, tos, table, protocol, scope, kind, flags = RTMSG.unpack_from(message.body)
        parsed = netlink.attributes(message.body, RTMSG.size)
        table = netlink.number(parsed.get(RTA_TABLE)) or table
        if table == TABLE_LOCAL or flags & _CLONED or family not in (socket.AF_INET, socket.AF_INET6):
            continue
        zero = bytes(4) if family == socket.AF_INET else bytes(16)
        destination = f"{ip_address(parsed.get(RTA_DST, zero))}/{length}"
        next_hop = str(ip_address(parsed[RTA_GATEWAY])) if RTA_GATEWAY in parsed else ""
        device = names.get(netlink.number(parsed.get(RTA_OIF)), _KINDS.get(kind, ""))
        metric = netlink.number(parsed.get(RTA_PRIORITY))
        usual = metric == (0 if family == socket.AF_INET else _IPV6_METRIC)
        head = RTMSG.pack(family, length, source_length, tos, message.body[4], protocol, scope, kind, flags & ONLINK)
        found.append(
            Record(
                Route(destination, next_hop, device),
                planned=usual
                and table == TABLE_MAIN
                and protocol == PROTOCOL_STATIC
                and kind == UNICAST
                and RTA_OIF in parsed,
                connected=protocol == PROTOCOL_KERNEL,
                body=head + b"".join(netlink.attribute(key, parsed[key]) for key in _IDENTITY if key in parsed),
            )
        )
    return tuple(found)


def planned(records: Iterable[Record]) -> frozenset[Route]:
    """Those that a plan can name."""
    return frozenset(record.route for record in records if record.planned)


def drift(records: Iterable[Record], found: Layout, wanted: Layout) -> Drift:
    """Of a namespace that is this cloud's alone."""
    records = tuple(records)
    there = {(record.route.destination, record.route.device) for record in records if record.connected}
    lost: list[Connected] = []
    for device, link in wanted.links.items():
        now = found.links.get(device)
        if now is None or not now.up:
            continue  # with the device or its state the kernel brings the routes back
        for address in sorted(link.addresses & now.addresses):
            interface = ip_interface(address)
            network = interface.network
            if network.prefixlen < network.max_prefixlen and (str(network), device) not in there:
                lost.append(Connected(str(network), device, str(interface.ip)))
    strays = [
        record for record in records if not record.connected and not (record.planned and record.route in wanted.routes)
    ]
    return Drift(tuple(strays), tuple(lost))


def body_of_route(route: Route, index: int) -> bytes:
    """What adds or deletes a planned route through the link of that index."""
    address, _, length = route.destination.partition("/")
    destination = ip_address(address)
    family = socket.AF_INET if destination.version == 4 else socket.AF_INET6
    scope = SCOPE_LINK if not route.next_hop and destination.version == 4 else 0
    flags = ONLINK if route.next_hop and destination.version == 4 else 0
    body = RTMSG.pack(family, int(length), 0, 0, TABLE_MAIN, PROTOCOL_STATIC, scope, UNICAST, flags)
    if int(length):
        body += netlink.attribute(RTA_DST, destination.packed)
    if route.next_hop:
        body += netlink.attribute(RTA_GATEWAY, ip_address(route.next_hop).packed)
    return body + netlink.u32(RTA_OIF, index)


def body_of_connected(item: Connected, index: int) -> bytes:
    """What brings back a route that the kernel had made for an address."""
    address, _, length = item.destination.partition("/")
    destination = ip_address(address)
    is_ipv4 = destination.version == 4
    family, scope = (socket.AF_INET, SCOPE_LINK) if is_ipv4 else (socket.AF_INET6, 0)
    body = RTMSG.pack(family, int(length), 0, 0, TABLE_MAIN, PROTOCOL_KERNEL, scope, UNICAST, 0)
    body += netlink.attribute(RTA_DST, destination.packed) + netlink.u32(RTA_OIF, index)
    if is_ipv4:
        return body + netlink.attribute(RTA_PREFSRC, ip_address(item.source).packed)
    return body + netlink.u32(RTA_PRIORITY, _IPV6_CONNECTED_METRIC)
