"""What a host shall have of the projects' VPNs: one WireGuard device in each project's router. Pure, as the plan is.

A client is a port of its project: its address is of the project's subnet, its groups rule what it reaches. The router
answers for the address on the inside and leads it into the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

DEVICE_PREFIX = "wg"
_LONGEST_NAME = 15
OVERHEAD = 80
"""Bytes that WireGuard over IPv6 adds to a packet; 20 fewer over IPv4."""


def device_name(prefix: str, vpn_id: str) -> str:
    """Of a host with this prefix. Unique on the machine: the device's control socket is named so in every namespace."""
    return f"{DEVICE_PREFIX}{prefix}{vpn_id.replace('-', '')}"[:_LONGEST_NAME]


@dataclass(frozen=True)
class VpnClientPlan:
    client_id: str
    port_id: str
    public_key: str
    address: str
    beside: str
    """The port of the router's interface in whose subnet the address is: there the router answers for it."""
    bridges: tuple[str, ...]
    """Those of the router's networks: the filters of each know the address."""
    groups: tuple[str, ...] | None
    """None: port security is off, nothing is filtered."""


@dataclass(frozen=True)
class VpnPlan:
    """`private_key` is never shown, not even in a log of the plan."""

    vpn_id: str
    device: str
    router_id: str
    port: int
    private_key: str = field(repr=False)
    public_key: str
    mtu: int
    inside: tuple[str, ...]
    """The networks behind the router that clients reach."""
    clients: tuple[VpnClientPlan, ...] = ()

    @property
    def peers(self) -> dict[str, str]:
        """Public key -> address."""
        return {client.public_key: client.address for client in self.clients}


class FoundDevice(NamedTuple):
    """A WireGuard device as it is found."""

    public_key: str
    port: int
    peers: Mapping[str, tuple[str, ...]]
    """Public key -> the addresses, as CIDRs, that it may send from."""
    handshakes: Mapping[str, int]
    """Public key -> the last one, seconds since 1970; peers without one are left out."""


def parse_dump(text: str) -> FoundDevice:
    """What `wg show DEVICE dump` prints (wg(8)); its private key is dropped."""
    lines = [line.split("\t") for line in text.splitlines()]
    _, public_key, port, _ = lines[0]
    peers: dict[str, tuple[str, ...]] = {}
    handshakes: dict[str, int] = {}
    for words in lines[1:]:
        key, _, _, allowed, handshake = words[:5]
        peers[key] = () if allowed == "(none)" else tuple(sorted(allowed.split(",")))
        if int(handshake):
            handshakes[key] = int(handshake)
    return FoundDevice("" if public_key == "(none)" else public_key, int(port), peers, handshakes)


class PeerChanges(NamedTuple):
    removed: tuple[str, ...]
    set: tuple[tuple[str, str], ...]
    """(public key, address)"""


def peer_changes(found: FoundDevice, wanted: VpnPlan) -> PeerChanges:
    """What to tell the device; a peer that is right is not mentioned."""
    peers = wanted.peers
    return PeerChanges(
        tuple(sorted(found.peers.keys() - peers.keys())),
        tuple((key, address) for key, address in peers.items() if found.peers.get(key) != (f"{address}/32",)),
    )
