"""What the hosts' network agents say in their heartbeats about wires: which host can carry networks of which type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VXLAN_OVERHEAD = 50
"""Bytes around a guest's packet in a tunnel over IPv4: Ethernet, IP, UDP and VXLAN's own header (RFC 7348)."""


@dataclass(frozen=True)
class HostWires:
    """One live, enabled host. A host that has not told yet (`told` is false) is taken for able."""

    host: str
    told: bool = False
    trunks: frozenset[str] = frozenset()
    """Physical networks whose VLAN tags it has a device for."""
    flat_bridges: Mapping[str, str] = field(default_factory=dict)
    """Physical network -> the administrator's bridge, of those that are there."""
    tunnel_mtu: int | None = None
    """What fits into a VXLAN network through its tunnel; none: it has no tunnel."""
    enforces_groups: bool = True


def wires_of(host: str, capacity: Mapping[str, Any] | None) -> HostWires:
    """Of a row of `services` of kind `network`; what it does not say, it does not have."""
    told = capacity or {}
    tunnel = told.get("tunnel")
    tunnel_mtu = None
    if isinstance(tunnel, Mapping):
        tunnel_mtu = int(tunnel.get("mtu", 1500)) - VXLAN_OVERHEAD
    return HostWires(
        host=host,
        told="trunks" in told,
        trunks=frozenset(told.get("trunks") or ()),
        flat_bridges=dict(told.get("flat_bridges") or {}),
        tunnel_mtu=tunnel_mtu,
        enforces_groups=bool(told.get("groups", True)),
    )
