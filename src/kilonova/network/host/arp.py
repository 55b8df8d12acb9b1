"""Gratuitous ARP (RFC 5227, section 3): tells a link where an address now is, by a packet socket."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable

_BROADCAST = b"\xff" * 6
_ETHERTYPE = 0x0806


def announce(device: str, mac: str, addresses: Iterable[str]) -> None:
    """From the namespace of the calling thread, once per IPv4 address."""
    source = bytes.fromhex(mac.replace(":", ""))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETHERTYPE)) as packet:
        packet.bind((device, 0))
        for address in addresses:
            if ":" in address:
                continue
            packed = socket.inet_aton(address)
            body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + source + packed + bytes(6) + packed
            packet.send(_BROADCAST + source + struct.pack("!H", _ETHERTYPE) + body)
