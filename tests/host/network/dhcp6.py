"""A DHCPv6 client of a few lines (RFC 8415), run as a program in a guest: `dhcp6.py DEVICE MAC solicit|inform`.

Prints as JSON what it was given: `address` (after all four messages), `dns`, `domain`; nothing when nobody answers.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys

SOLICIT, ADVERTISE, REQUEST, REPLY, INFORMATION = 1, 2, 3, 7, 11
CLIENT_ID, SERVER_ID, IA_NA, IA_ADDRESS, WANTED, ELAPSED, DNS, DOMAINS = 1, 2, 3, 5, 6, 8, 23, 24


def option(code: int, body: bytes) -> bytes:
    return struct.pack("!HH", code, len(body)) + body


def options(body: bytes) -> dict[int, bytes]:
    found = {}
    while len(body) >= 4:
        code, length = struct.unpack_from("!HH", body)
        found[code] = body[4 : 4 + length]
        body = body[4 + length :]
    return found


def main(device: str, mac: str, kind: str) -> None:
    client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    index = socket.if_nametoindex(device)
    client.bind(("::", 546, 0, index))
    client.settimeout(1.0)
    mine = option(CLIENT_ID, struct.pack("!HH", 3, 1) + bytes.fromhex(mac.replace(":", "")))
    rest = option(ELAPSED, b"\0\0") + option(WANTED, struct.pack("!HH", DNS, DOMAINS))
    asked = option(IA_NA, struct.pack("!III", 7, 0, 0)) if kind == "solicit" else b""

    def exchange(message: int, answer: int, body: bytes) -> dict[int, bytes]:
        number = os.urandom(3)
        for _ in range(4):
            client.sendto(bytes([message]) + number + body, ("ff02::1:2", 547, 0, index))
            try:
                data = client.recv(2048)
            except TimeoutError:
                continue
            if data[0] == answer and data[1:4] == number:
                return options(data[4:])
        sys.exit(1)

    if kind == "solicit":
        offer = exchange(SOLICIT, ADVERTISE, mine + asked + rest)
        if IA_ADDRESS not in options(offer.get(IA_NA, b"")[12:]):
            sys.exit(2)
        chosen = option(SERVER_ID, offer[SERVER_ID]) + option(IA_NA, offer[IA_NA])
        reply = exchange(REQUEST, REPLY, mine + chosen + rest)
    else:
        reply = exchange(INFORMATION, REPLY, mine + rest)
    given = options(reply.get(IA_NA, b"")[12:]).get(IA_ADDRESS, b"")[:16]
    servers = reply.get(DNS, b"")
    print(
        json.dumps(
            {
                "address": socket.inet_ntop(socket.AF_INET6, given) if given else "",
                "dns": [socket.inet_ntop(socket.AF_INET6, servers[i : i + 16]) for i in range(0, len(servers), 16)],
                "domain": labels(reply.get(DOMAINS, b"")),
            }
        )
    )


def labels(body: bytes) -> str:
    words = []
    while body and body[0]:
        words.append(body[1 : 1 + body[0]].decode())
        body = body[1 + body[0] :]
    return ".".join(words)


if __name__ == "__main__":
    main(*sys.argv[1:])
