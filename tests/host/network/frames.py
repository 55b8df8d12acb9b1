"""Frames made by hand, and who hears them: what a guest that keeps no rules would send."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from ipaddress import IPv6Address

from kilonova.network.host import namespaces

IPV4, IPV6, ARP, VLAN, STACKED = 0x0800, 0x86DD, 0x0806, 0x8100, 0x88A8
NOBODY = "ff:ff:ff:ff:ff:ff"


def tag(vid: int, kind: int = VLAN) -> bytes:
    return struct.pack("!HH", kind, vid)


def ethernet(source: str, target: str, kind: int, payload: bytes, tags: bytes = b"") -> bytes:
    return bytes.fromhex((target + source).replace(":", "")) + tags + struct.pack("!H", kind) + payload


def datagram(source: str, target: str, content: bytes, source_port: int = 5, target_port: int = 6) -> bytes:
    """UDP over IPv4; a checksum of zero is none."""
    payload = struct.pack("!HHHH", source_port, target_port, 8 + len(content), 0) + content
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, 17, 0) + addresses
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def arp(operation: int, mac: str, address: str, target: str) -> bytes:
    """`operation`: 1 asks, 2 answers."""
    sender = bytes.fromhex(mac.replace(":", "")) + socket.inet_aton(address)
    return struct.pack("!HHBBH", 1, IPV4, 6, 4, operation) + sender + bytes(6) + socket.inet_aton(target)


def icmp6(source: str, target: str, kind: int, body: bytes) -> bytes:
    """ICMPv6 of a type, hop limit 255 as neighbour discovery wants it. `body` begins behind the checksum."""
    ends = IPv6Address(source).packed + IPv6Address(target).packed
    message = struct.pack("!BBH", kind, 0, 0) + body
    value = checksum(ends + struct.pack("!II", len(message), 58) + message)
    message = message[:2] + struct.pack("!H", value) + message[4:]
    return struct.pack("!IHBB", 6 << 28, len(message), 58, 255) + ends + message


def advertisement(claimed: str, mac: str) -> bytes:
    """The body of a neighbour advertisement that overrides, with the MAC that it is to be believed of."""
    return struct.pack("!I", 0x20000000) + IPv6Address(claimed).packed + b"\2\1" + bytes.fromhex(mac.replace(":", ""))


def fragments6(packet: bytes, first: int) -> tuple[bytes, bytes]:
    """A packet without extension headers in two fragments; `first`: bytes of the payload in the first one, eights."""
    header, payload = packet[:40], packet[40:]
    found = []
    for offset, part in ((0, payload[:first]), (first, payload[first:])):
        fragment = struct.pack("!BBHI", header[6], 0, offset | (offset == 0), 77) + part
        found.append(header[:4] + struct.pack("!HB", len(fragment), 44) + header[7:] + fragment)
    return found[0], found[1]


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) // 2 * 2]))
    total += data[-1] << 8 if len(data) % 2 else 0
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def send(namespace: str, frame: bytes, device: str = "eth0") -> None:
    with namespaces.run_inside(namespace, opened, device) as interface:
        interface.send(frame)


def hears(namespace: str, mark: bytes, act: Callable[[], object], device: str = "eth0") -> bool:
    """Does a frame with this in it reach a device while something is done?"""
    with namespaces.run_inside(namespace, opened, device) as interface:
        act()
        interface.settimeout(0.4)
        try:
            while True:
                frame, source = interface.recvfrom(4096)
                if source[2] != socket.PACKET_OUTGOING and mark in frame:
                    return True
        except TimeoutError:
            return False


def opened(device: str = "eth0") -> socket.socket:
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    packet.bind((device, 0))
    return packet
