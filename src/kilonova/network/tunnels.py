"""VXLAN between hosts, pure: which networks of a host are tunnelled, and which host has which MAC of them.

Nothing is learned and nothing is multicast (RFC 7348 would have both): the rows say which hosts have ports, routers or
services of a network, so each host is told its peers, and tells them when it joins, leaves, or has another MAC.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_interface

from kilonova.config import HostConfig
from kilonova.network.layout import FLOOD, Forward, Tunnel
from kilonova.network.managers.wires import VXLAN_OVERHEAD
from kilonova.network.rows import HostRows, TunnelPortRow


@dataclass(frozen=True)
class TunnelPlan:
    """A network's VXLAN device on this host."""

    network_id: str
    bridge: str
    mtu: int
    tunnel: Tunnel
    peers: tuple[tuple[str, str], ...] = ()
    """(host, its address on the underlay) of the other hosts that have the network."""
    remote: tuple[tuple[str, str], ...] = ()
    """(MAC, address of its host) of the network's ports elsewhere."""
    local: tuple[str, ...] = ()
    """The MACs of the network that are here."""

    @property
    def device(self) -> str:
        return f"vx{self.tunnel.vni}"

    @property
    def forwarding(self) -> frozenset[Forward]:
        floods = {Forward(self.device, FLOOD, address) for _, address in self.peers}
        return frozenset(floods | {Forward(self.device, mac, address) for mac, address in self.remote})


def tunnels(rows: HostRows, host: HostConfig) -> Iterable[TunnelPlan]:
    """Of the networks of this host; none where no tunnel is configured: its networks are this host's alone."""
    if not host.tunnel_address:
        return
    local = str(ip_interface(host.tunnel_address).ip)
    addresses = {underlay.host: underlay.address for underlay in rows.underlays if underlay.host != host.name}
    ports: dict[str, list[TunnelPortRow]] = defaultdict(list)
    for port in rows.tunnel_ports:
        ports[port.network_id].append(port)
    for network in rows.networks:
        if network.manager != "vxlan" or network.segmentation_id is None:
            continue
        hosts = {port.host for port in ports[network.id]} | {network.host or ""}
        yield TunnelPlan(
            network_id=network.id,
            bridge=network.bridge,
            mtu=network.mtu,
            tunnel=Tunnel(network.segmentation_id, local),
            peers=tuple(sorted((name, addresses[name]) for name in hosts & addresses.keys())),
            remote=tuple(
                sorted({(port.mac, addresses[port.host]) for port in ports[network.id] if port.host in addresses})
            ),
            local=tuple(sorted(port.mac for port in ports[network.id] if port.host == host.name)),
        )


def too_small(rows: HostRows) -> Iterable[str]:
    """Networks whose packets this host's underlay has to fragment, in words."""
    mtu = next((underlay.mtu for underlay in rows.underlays if underlay.host == rows.host), 0)
    for network in rows.networks:
        if network.manager == "vxlan" and mtu and network.mtu + VXLAN_OVERHEAD > mtu:
            yield (
                f"network {network.id}: packets of {network.mtu} bytes and {VXLAN_OVERHEAD} of headers do not fit "
                f"the MTU of the tunnel's NIC, {mtu}: raise that, or lower the network's"
            )


def hosts_to_tell(before: Mapping[str, TunnelPlan], after: Mapping[str, TunnelPlan]) -> set[str]:
    """The peers that have to look again because of what changed on this host."""
    found: set[str] = set()
    for network_id in before.keys() | after.keys():
        old, new = before.get(network_id), after.get(network_id)
        if old is None or new is None or (old.local, old.tunnel) != (new.local, new.tunnel):
            found |= {host for plan in (old, new) if plan is not None for host, _ in plan.peers}
    return found
