"""Tells a link where addresses now are: gratuitous ARP (RFC 5227, section 3) and unsolicited neighbour advertisements
(RFC 4861, section 7.2.6), by a packet socket. Neighbours' caches learn it, and so does every bridge on the way.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable
from typing import NamedTuple

_BROADCAST = b"\xff" * 6
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ALL_NODES = socket.inet_pton(socket.AF_INET6, "ff02::1")
_ARP, _IPV6, _ICMPV6 = 0x0806, 0x86DD, 58
AGAIN_S = 1.0
_ADVERTISEMENT, _TARGET_MAC = 136, 2
_IS_ROUTER, _OVERRIDES = 0x80000000, 0x20000000


class Announcement(NamedTuple):
    """What a device says it has."""

    device: str
    mac: str
    addresses: tuple[str, ...]


def announce(announcements: Iterable[Announcement], *, router: bool = False) -> None:
    """From the namespace of the calling thread, a frame per address; `router`: IPv6 neighbours may route through it."""
    for device, mac, addresses in announcements:
        source = bytes.fromhex(mac.replace(":", ""))
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as packet:
            packet.bind((device, 0))
            for address in addresses:
                packet.send(neighbour_frame(source, address, router) if ":" in address else arp_frame(source, address))


def announce_again(announcements: Iterable[Announcement], *, router: bool = False, after_s: float = AGAIN_S) -> None:
    """At once and once more: a bridge port that has just come up may not forward yet. Blocks meanwhile.

    The second time only what the namespace still has: it may have gone to another host.
    """
    announcements = tuple(announcements)
    announce(announcements, router=router)
    time.sleep(after_s)
    still = (item._replace(addresses=tuple(filter(_is_local, item.addresses))) for item in announcements)
    announce((item for item in still if item.addresses), router=router)


def _is_local(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def arp_frame(source: bytes, address: str) -> bytes:
    """An ARP request for one's own address."""
    packed = socket.inet_aton(address)
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + source + packed + bytes(6) + packed
    return _BROADCAST + source + struct.pack("!H", _ARP) + body


def neighbour_frame(source: bytes, address: str, router: bool) -> bytes:
    """An advertisement to all nodes that overrides what they knew."""
    packed = socket.inet_pton(socket.AF_INET6, address)
    flags = _OVERRIDES | (_IS_ROUTER if router else 0)
    body = struct.pack("!I", flags) + packed + struct.pack("!BB", _TARGET_MAC, 1) + source
    pseudo = packed + _ALL_NODES + struct.pack("!II", 4 + len(body), _ICMPV6)
    checksum = _checksum(pseudo + struct.pack("!BBH", _ADVERTISEMENT, 0, 0) + body)
    message = struct.pack("!BBH", _ADVERTISEMENT, 0, checksum) + body
    header = struct.pack("!IHBB", 6 << 28, len(message), _ICMPV6, 255) + packed + _ALL_NODES
    return _ALL_NODES_MAC + source + struct.pack("!H", _IPV6) + header + message


def _checksum(data: bytes) -> int:
    """RFC 1071; the data is of even length."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)
