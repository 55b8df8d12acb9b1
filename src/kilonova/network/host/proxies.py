"""Proxy neighbour entries of the namespace the calling thread is in: for which addresses a device answers ARP."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from pathlib import Path

from kilonova.network.host import netlink
from kilonova.network.layout import Proxy

_NDMSG = struct.Struct("=BxxxiHBB")
_NEW, _DELETE, _GET = 28, 29, 30
_PERMANENT, _PROXY, _DST = 0x80, 0x08, 1
_NO_ENTRY = 2


def found() -> frozenset[Proxy]:
    """Every IPv4 entry."""
    with netlink.Socket() as kernel:
        dump = kernel.dump(_GET, _NDMSG.pack(socket.AF_INET, 0, 0, _PROXY, 0), "proxy neighbours")
    entries: set[Proxy] = set()
    for message in dump:
        _, index, _, flags, _ = _NDMSG.unpack_from(message.body)
        if flags & _PROXY and index:
            address = netlink.attributes(message.body, _NDMSG.size)[_DST]
            entries.add(Proxy(socket.if_indextoname(index), str(ip_address(address))))
    return frozenset(entries)


def add(proxy: Proxy) -> None:
    """Let a device answer, at once: the kernel's own delay is up to 0.8 s. Raises `CommandFailed`."""
    Path(f"/proc/sys/net/ipv4/neigh/{proxy.device}/proxy_delay").write_text("0")
    with netlink.Socket() as kernel:
        kernel.request(_NEW, netlink.F_CREATE | netlink.F_REPLACE, _body(proxy), f"neighbour proxy {proxy.address}")


def remove(proxy: Proxy) -> None:
    """One that is gone, perhaps with its device, is passed over."""
    try:
        body = _body(proxy)
    except OSError:
        return
    try:
        with netlink.Socket() as kernel:
            kernel.request(_DELETE, 0, body, f"neighbour proxy {proxy.address}")
    except netlink.NetlinkError as error:
        if error.number != _NO_ENTRY:
            raise


def _body(proxy: Proxy) -> bytes:
    index = socket.if_nametoindex(proxy.device)
    head = _NDMSG.pack(socket.AF_INET, index, _PERMANENT, _PROXY, 0)
    return head + netlink.attribute(_DST, ip_address(proxy.address).packed)
