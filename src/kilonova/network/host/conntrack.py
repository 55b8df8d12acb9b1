"""Connection tracking of the namespace the calling thread is in, by netlink: which flows there are, and cutting them.

Where there are many, the kernel sends only those of the addresses that are asked for (ctnetlink's filter, Linux 5.8);
what else must be true of a flow is `kilonova.network.flows`' to say.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

from kilonova.network.flows import Cut, Flow
from kilonova.network.host import netlink
from kilonova.network.host.netlink import attribute, attributes, nested

_NETFILTER = 12
_NEW, _GET, _DELETE = 0x100, 0x101, 0x102
_ORIGINAL, _ZONE, _FILTER = 1, 18, 25
_TUPLE_IP, _TUPLE_PROTOCOL = 1, 2
_ADDRESSES = {4: (1, 2), 6: (3, 4)}
_PROTOCOL, _SOURCE_PORT, _TARGET_PORT = 1, 2, 3
_FILTER_ORIGINAL, _BY_SOURCE, _BY_TARGET = 1, 1, 2
_FAMILIES = {0: socket.AF_UNSPEC, 4: socket.AF_INET, 6: socket.AF_INET6}
_HEADER_BYTES = 4
_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
"""Of the reading thread's own namespace."""
_CHEAPLY_READ, _FEW = 5000, 16
"""So many flows are read at once; of more, those of single addresses are asked for, unless these are many."""
_BATCH = 512


class Conntrack:
    """A netlink socket of the namespace of the thread that opens it."""

    def __init__(self) -> None:
        self._socket = netlink.Socket(_NETFILTER)

    def __enter__(self) -> Conntrack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def flows(self, cuts: Iterable[Cut]) -> list[Flow]:
        """The flows among which those of `cuts` are, each once."""
        wanted = set(cuts)
        known = int(_COUNT.read_text())
        if not wanted or not known:
            return []
        found: dict[Flow, None] = {}
        if known <= _CHEAPLY_READ or len(wanted) > _FEW or any(not (cut.source or cut.target) for cut in wanted):
            zones = {cut.zone for cut in wanted}
            zone = next(iter(zones)) if len(zones) == 1 else 0
            found.update(dict.fromkeys(flow for flow in self._dump(zone) if flow.zone in zones))
            return list(found)
        for zone, version, source, target in sorted({cut[:4] for cut in wanted}):
            flows = self._dump(zone, version, source, target)
            found.update(dict.fromkeys(flow for flow in flows if flow.zone == zone))
        return list(found)

    def delete(self, flows: Iterable[Flow]) -> None:
        """Forget them, so that the rules decide anew about their packets; one that is gone is no failure."""
        bodies = [
            _header(flow.version) + attribute(_ORIGINAL | netlink.NESTED, flow.original) + _zone(flow.zone)
            for flow in flows
        ]
        for start in range(0, len(bodies), _BATCH):
            self._socket.tell(_DELETE, bodies[start : start + _BATCH])

    def _dump(self, zone: int, version: int = 0, source: str = "", target: str = "") -> Iterator[Flow]:
        """Each costs a walk through the table of the whole machine. Zone 0: of every zone; older kernels send all."""
        body = _header(version) + _zone(zone)
        if source or target:
            kinds, words = _ADDRESSES[version], (source, target)
            ends = [attribute(kind, _packed(version, word)) for kind, word in zip(kinds, words, strict=True) if word]
            flags = (_BY_SOURCE if source else 0) | (_BY_TARGET if target else 0)
            body += nested(_ORIGINAL, nested(_TUPLE_IP, *ends))
            body += nested(_FILTER, netlink.u32(_FILTER_ORIGINAL, flags))
        for message in self._socket.dump(_GET, body, "connection tracking"):
            if message.kind == _NEW and (flow := _flow(message.body)) is not None:
                yield flow


def cut_translated(addresses: Iterable[str]) -> None:
    """Delete the entries from or to these addresses, before translation; routers have no zones."""
    wanted = set(addresses)
    with Conntrack() as conntrack:
        either = [Cut(0, 4, source=each) for each in wanted] + [Cut(0, 4, target=each) for each in wanted]
        conntrack.delete(flow for flow in conntrack.flows(either) if {flow.source, flow.target} & wanted)


def _flow(body: bytes) -> Flow | None:
    version = 6 if body[0] == socket.AF_INET6 else 4
    found = attributes(body, _HEADER_BYTES)
    original = found.get(_ORIGINAL, b"")
    tuple_ = attributes(original)
    ends = attributes(tuple_.get(_TUPLE_IP, b""))
    protocol = attributes(tuple_.get(_TUPLE_PROTOCOL, b""))
    source, target = _ADDRESSES[version]
    if source not in ends or target not in ends or _PROTOCOL not in protocol:
        return None
    return Flow(
        zone=int.from_bytes(found.get(_ZONE, b""), "big"),
        version=version,
        source=socket.inet_ntop(_FAMILIES[version], ends[source]),
        target=socket.inet_ntop(_FAMILIES[version], ends[target]),
        protocol=protocol[_PROTOCOL][0],
        source_port=int.from_bytes(protocol.get(_SOURCE_PORT, b""), "big"),
        target_port=int.from_bytes(protocol.get(_TARGET_PORT, b""), "big"),
        original=original,
    )


def _header(version: int) -> bytes:
    return struct.pack("=BBH", _FAMILIES[version], 0, 0)


def _zone(zone: int) -> bytes:
    return attribute(_ZONE, zone.to_bytes(2, "big")) if zone else b""


def _packed(version: int, address: str) -> bytes:
    return socket.inet_pton(_FAMILIES[version], address)
