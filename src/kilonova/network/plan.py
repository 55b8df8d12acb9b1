"""What one host shall have, as frozen dataclasses: made of the store's rows by `kilonova.network.planner`.

A plan speaks the field's words (bridges, ports, groups, routers, services); how they look in the kernel is
`kilonova.network.fragments`'.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kilonova.network.layout import VlanTag
from kilonova.network.rows import ReleasedRow
from kilonova.network.tunnels import TunnelPlan
from kilonova.network.vpn_plan import VpnPlan

METADATA_ADDRESS = "169.254.169.254"
SHORT_ID = 11


class AddressPair(NamedTuple):
    """What a port may send from: both at once."""

    mac: str
    address: str


class Filter(NamedTuple):
    """The groups that guard an address on its bridge."""

    address: str
    groups: tuple[str, ...]


class Member(NamedTuple):
    bridge: str
    address: str


class StaticRoute(NamedTuple):
    destination: str
    next_hop: str


@dataclass(frozen=True)
class BridgePlan:
    """A network's bridge; several external networks share the public one."""

    name: str
    network_id: str
    mtu: int
    zone: int
    """Of connection tracking: networks with equal addresses do not mix. 0: not filtered."""
    vlan: VlanTag | None = None
    dhcp_servers: tuple[str, ...] = ()
    given: bool = False
    """It is the administrator's: used, and neither made nor removed."""

    @property
    def filtered(self) -> bool:
        return self.zone > 0


@dataclass(frozen=True)
class PortPlan:
    port_id: str
    network_id: str
    device: str
    vif: str
    bridge: str
    mac: str
    mtu: int
    up: bool
    secured: bool
    """False: nothing is filtered, port security is off."""
    pairs: tuple[AddressPair, ...] = ()
    filters: tuple[Filter, ...] = ()


@dataclass(frozen=True)
class GroupPlan:
    group_id: str
    ingress: tuple[str, ...]
    egress: tuple[str, ...]
    members: tuple[Member, ...] = ()
    """Only of a group that a rule names as the remote one."""


@dataclass(frozen=True)
class HostEntry:
    """A port that the network's DHCP server knows."""

    port_id: str
    mac: str
    address: str
    hostname: str
    instance_id: str = ""
    names: tuple[str, ...] = ()
    """What DNS says of the address, without the network's domain; the first one is what its reverse says."""
    dhcp: bool = True
    """Does the DHCP server hand it out?"""
    options: tuple[str, ...] = ()
    """DHCP options of the port alone, as dnsmasq names them."""


@dataclass(frozen=True)
class ServiceSubnet:
    subnet_id: str
    cidr: str
    service_address: str
    gateway: str | None
    dns: tuple[str, ...]
    routes: tuple[StaticRoute, ...]
    dhcp: bool
    """Does the DHCP server answer for it?"""
    stateful: bool = True
    """Does it hand out addresses; if not, only options."""


@dataclass(frozen=True)
class ServicePlan:
    """A network's own namespace: DHCP, DNS and metadata."""

    network_id: str
    bridge: str
    mac: str
    mtu: int
    domain: str
    subnets: tuple[ServiceSubnet, ...]
    forwarders: tuple[str, ...] = ()
    entries: tuple[HostEntry, ...] = ()


class Prefix(NamedTuple):
    cidr: str
    automatic: bool
    """Do guests make addresses of it?"""


@dataclass(frozen=True)
class Advertisement:
    """What a router announces on a leg (RFC 4861, RFC 8106)."""

    prefixes: tuple[Prefix, ...]
    managed: bool
    """Guests shall ask DHCPv6 for addresses."""
    other: bool
    """Guests shall ask DHCPv6 for everything else."""
    dns: tuple[str, ...]
    domain: str


@dataclass(frozen=True)
class InterfacePlan:
    """A router's leg on a bridge. `addresses` with prefix length."""

    port_id: str
    network_id: str
    bridge: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]
    advertisement: Advertisement | None = None


@dataclass(frozen=True)
class RouterPlan:
    router_id: str
    interfaces: tuple[InterfacePlan, ...] = ()
    external: InterfacePlan | None = None
    gateways: tuple[str, ...] = ()
    floating: tuple[tuple[str, str], ...] = ()
    """(floating address, fixed address)"""
    inside: tuple[str, ...] = ()
    inside6: tuple[str, ...] = ()
    snat: bool = True
    routes: tuple[StaticRoute, ...] = ()


@dataclass(frozen=True)
class OutsidePlan:
    """A sandbox's outside world: the public gateway, in a namespace that forwards nowhere."""

    bridge: str
    address: str
    mtu: int


class Uplink(NamedTuple):
    """A NIC of the machine that belongs into the switch namespace; no bridge: it is a trunk or the tunnel's."""

    device: str
    bridge: str = ""
    address: str = ""
    """With prefix length: VXLAN goes over it."""


@dataclass(frozen=True)
class HostPlan:
    bridges: Mapping[str, BridgePlan] = field(default_factory=dict)
    ports: Mapping[str, PortPlan] = field(default_factory=dict)
    groups: Mapping[str, GroupPlan] = field(default_factory=dict)
    services: Mapping[str, ServicePlan] = field(default_factory=dict)
    routers: Mapping[str, RouterPlan] = field(default_factory=dict)
    vpns: Mapping[str, VpnPlan] = field(default_factory=dict)
    uplinks: tuple[Uplink, ...] = ()
    tunnels: Mapping[str, TunnelPlan] = field(default_factory=dict)
    outside: OutsidePlan | None = None
    forget: tuple[ReleasedRow, ...] = ()
    released_pool_networks: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    """What the rows ask for and this host does not do."""
    guarded: bool = False
    """Other hosts may take over: routers and services are silent when this host's lease has run out."""

    def filtered_addresses(self) -> Iterator[tuple[str, Filter]]:
        """(bridge, address with its groups) of ports, and of the VPN clients that routers here stand for."""
        for port in self.ports.values():
            for item in port.filters:
                yield port.bridge, item
        for vpn in self.vpns.values():
            for client in vpn.clients:
                if client.groups is not None:
                    for bridge in client.bridges:
                        yield bridge, Filter(client.address, client.groups)

    def bridge_of(self, network_id: str) -> BridgePlan | None:
        return next((bridge for bridge in self.bridges.values() if bridge.network_id == network_id), None)


def tap_name(port_id: str) -> str:
    """A port's device on its bridge."""
    return f"tap{port_id[:SHORT_ID]}"


def guest_end_name(port_id: str) -> str:
    """The other end of a `veth` port's device, before a guest takes it."""
    return f"gst{port_id[:SHORT_ID]}"
