"""Addresses that come are announced twice; one that has gone meanwhile is not claimed again."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest

from kilonova.network.host import namespaces
from kilonova.network.host.arp import Announcement, announce_again

from .world import inspect_namespace


@pytest.fixture
def wire() -> Iterator[tuple[str, str]]:
    """Two namespaces, joined by a pair of devices eth0; the first has 10.0.0.1 and 10.0.0.2."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    prefix = "n" + secrets.token_hex(2)
    names = f"{prefix}-a", f"{prefix}-b"
    for name in names:
        namespaces.create(name, lambda: None)
    ip(names[0], "link add eth0 type veth peer name eth0 netns", names[1])
    for name in names:
        ip(name, "link set eth0 up")
    ip(names[0], "addr add 10.0.0.1/24 dev eth0")
    ip(names[0], "addr add 10.0.0.2/24 dev eth0")
    try:
        yield names
    finally:
        for name in names:
            namespaces.delete(name)


async def test_what_is_kept_is_announced_twice_and_what_went_once(wire: tuple[str, str]) -> None:
    here, there = wire
    ears = namespaces.run_inside(there, _ears)
    mac = inspect_namespace(here).links["eth0"].mac
    announcement = Announcement("eth0", mac, ("10.0.0.1", "10.0.0.2"))
    with ears:
        call = partial(announce_again, [announcement], after_s=2.0)
        running = asyncio.create_task(asyncio.to_thread(namespaces.run_inside, here, call))
        heard = [await asyncio.to_thread(_next, ears) for _ in range(2)]
        ip(here, "addr del 10.0.0.2/24 dev eth0")
        await running
        heard.append(await asyncio.to_thread(_next, ears))
        ears.settimeout(0.05)
        with pytest.raises(TimeoutError):
            _next(ears)
    assert heard == ["10.0.0.1", "10.0.0.2", "10.0.0.1"]


def ip(namespace: str, *words: str) -> None:
    argv = ["ip", "-n", namespace, *" ".join(words).split()]
    subprocess.run(argv, check=True, timeout=10, capture_output=True)


def _ears() -> socket.socket:
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
    packet.bind(("eth0", 0))
    packet.settimeout(5)
    return packet


def _next(ears: socket.socket) -> str:
    """The address that the next gratuitous ARP is about."""
    while True:
        frame = ears.recv(2048)
        if frame[28:32] == frame[38:42]:
            return socket.inet_ntoa(frame[28:32])
