"""From a host's plan to layouts of its namespaces, in fragments that belong to one port, group, network or router each.

A pass compares fragments with the last ones by equality, and only those that differ are looked at further; a fragment's
owner says whose failure it is. Pure; the functions per object remember their last results.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_interface

from kilonova.network import rules
from kilonova.network.group_rules import chain_name, combination_name, members_name
from kilonova.network.ipv6 import link_local
from kilonova.network.layout import Chain, ElementKey, Kind, Layout, Link, Peer, Proxy, Route, SetKey
from kilonova.network.plan import (
    METADATA_ADDRESS,
    SHORT_ID,
    BridgePlan,
    GroupPlan,
    HostPlan,
    InterfacePlan,
    OutsidePlan,
    PortPlan,
    RouterPlan,
    ServicePlan,
    Uplink,
    guest_end_name,
)
from kilonova.network.tunnels import TunnelPlan
from kilonova.network.vpn_plan import VpnPlan

SERVICE_DEVICE = "svc0"
OUTSIDE_END = "eth0"
LONGEST_NAME = 15
_REMEMBERED = 16384


@dataclass(frozen=True)
class Fragment:
    """A part of one namespace's layout. `owner`: the network, router, port or group it is for."""

    owner: str
    namespace: str
    layout: Layout


class Names:
    """The names of a host's namespaces; every one begins with the cloud's prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.switch = f"{prefix}-switch"
        self.outside = f"{prefix}-outside"

    def router(self, router_id: str) -> str:
        return f"{self.prefix}-r-{router_id[:SHORT_ID]}"

    def service(self, network_id: str) -> str:
        return f"{self.prefix}-s-{network_id[:SHORT_ID]}"

    def owns(self, name: str) -> bool:
        """Does this agent make and delete a namespace of that name? Guests' are compute's."""
        return name in (self.switch, self.outside) or name.startswith((f"{self.prefix}-r-", f"{self.prefix}-s-"))


def fragments(plan: HostPlan, names: Names) -> dict[str, Fragment]:
    """Key -> fragment of everything in the plan that is a link, an address, a route or an nft object."""
    found = {"rules": Fragment("", names.switch, _switch_rules(plan.guarded))}
    for bridge in plan.bridges.values():
        found[f"bridge {bridge.name}"] = Fragment(bridge.network_id, names.switch, bridge_layout(bridge))
    for port in plan.ports.values():
        found[f"port {port.port_id}"] = Fragment(port.port_id, names.switch, port_layout(port))
    for group in plan.groups.values():
        found[f"group {group.group_id}"] = Fragment(group.group_id, names.switch, group_layout(group))
    for combination in combinations(plan):
        name = combination_name(combination)
        found[f"groups {name}"] = Fragment("", names.switch, combination_layout(combination))
    for service in plan.services.values():
        owner, namespace = service.network_id, names.service(service.network_id)
        found[f"service {owner}"] = Fragment(owner, namespace, service_layout(service))
        found[f"service port {owner}"] = Fragment(owner, names.switch, service_port_layout(service, namespace))
    for vpn in plan.vpns.values():
        # The device is the router's: what fails in the namespace fails the router.
        found[f"vpn {vpn.vpn_id}"] = Fragment(vpn.router_id, names.router(vpn.router_id), vpn_layout(vpn))
        found[f"vpn filters {vpn.vpn_id}"] = Fragment(vpn.vpn_id, names.switch, vpn_filters_layout(vpn))
    for router in plan.routers.values():
        owner, namespace = router.router_id, names.router(router.router_id)
        found[f"router {owner}"] = Fragment(owner, namespace, router_layout(router))
        found[f"router ports {owner}"] = Fragment(owner, names.switch, router_ports_layout(router, namespace))
    for tunnel in plan.tunnels.values():
        found[f"tunnel {tunnel.device}"] = Fragment(tunnel.network_id, names.switch, tunnel_layout(tunnel))
    for uplink in plan.uplinks:
        found[f"uplink {uplink.device}"] = Fragment(uplink.device, names.switch, uplink_layout(uplink))
    if plan.outside is not None:
        found["outside"] = Fragment("", names.outside, outside_layout(plan.outside))
        found["outside port"] = Fragment("", names.switch, outside_port_layout(plan.outside, names.outside))
    return found


def combinations(plan: HostPlan) -> set[tuple[str, ...]]:
    """Every combination of groups that guards some address."""
    return {item.groups for _, item in plan.filtered_addresses()}


@lru_cache(maxsize=2)
def _switch_rules(guarded: bool) -> Layout:
    return rules.switch_rules(guarded=guarded)


@lru_cache(maxsize=1)
def _router_rules() -> Layout:
    return rules.router_rules()


@lru_cache(maxsize=_REMEMBERED)
def bridge_layout(plan: BridgePlan) -> Layout:
    name = _quoted(plan.name)
    if plan.given:
        bridge = Link("given bridge", 0, owner=plan.network_id, filtered=True)
    else:
        owner = plan.network_id if plan.filtered else "public"
        bridge = Link("bridge", plan.mtu, owner=owner, filtered=plan.filtered)
    links = {plan.name: bridge}
    elements: dict[ElementKey, str] = {}
    if plan.filtered:
        elements[ElementKey(rules.ZONES, name)] = str(plan.zone)
    for address in plan.dhcp_servers:
        elements[ElementKey(rules.DHCP_SERVERS, f"{name} . {address}")] = ""
    if plan.vlan is not None:
        device = vlan_name(plan)
        links[device] = Link("vlan", plan.mtu, owner=plan.network_id, master=plan.name, tag=plan.vlan)
        elements[ElementKey(rules.TRUSTED, _quoted(device))] = ""
    return Layout(links=links, elements=elements)


def vlan_name(plan: BridgePlan) -> str:
    """`TRUNK.VID`; of a trunk with a long name a part and a digest, so that the back end's name fits a device's too."""
    if plan.vlan is None:
        raise ValueError(f"bridge {plan.name} has no VLAN device")
    trunk, suffix = plan.vlan.trunk, f".{plan.vlan.vid}"
    room = LONGEST_NAME - len(suffix) - 1
    if len(trunk) > room:
        trunk = trunk[: room - 4] + f"{zlib.crc32(trunk.encode()) & 0xFFFF:04x}"
    return trunk + suffix


def tunnel_layout(plan: TunnelPlan) -> Layout:
    """A network's VXLAN device on its bridge, and where its frames go."""
    link = Link("vxlan", plan.mtu, owner=plan.network_id, master=plan.bridge, tunnel=plan.tunnel)
    trusted = {ElementKey(rules.TRUSTED, _quoted(plan.device)): ""}
    return Layout(links={plan.device: link}, elements=trusted, forwarding=plan.forwarding)


def given_uplinks_layout(devices: Iterable[str]) -> Layout:
    """The ports that the administrator put on a bridge of his own: what comes from there is no guest's."""
    return Layout(elements={ElementKey(rules.TRUSTED, _quoted(device)): "" for device in devices})


def given_uplinks(plan: HostPlan, given: Mapping[str, Iterable[str]], switch: str) -> dict[str, Fragment]:
    """Fragments that trust what the administrator has on his bridges; `given`: bridge -> its ports that are his."""
    return {
        f"uplinks of {bridge.name}": Fragment(bridge.network_id, switch, given_uplinks_layout(given[bridge.name]))
        for bridge in plan.bridges.values()
        if bridge.given and bridge.name in given
    }


@lru_cache(maxsize=_REMEMBERED)
def port_layout(plan: PortPlan) -> Layout:
    """A port's device and the elements that bind its MAC and addresses to it and its addresses to its groups."""
    kind: Kind = "tap" if plan.vif == "tap" else "veth"
    link = Link(
        kind,
        plan.mtu,
        owner=plan.port_id,
        up=plan.up,
        master=plan.bridge,
        peer=Peer("", guest_end_name(plan.port_id), plan.mac) if kind == "veth" else None,
    )
    device, bridge = _quoted(plan.device), _quoted(plan.bridge)
    elements: dict[ElementKey, str] = {}
    if not plan.secured:
        elements[ElementKey(rules.TRUSTED, device)] = ""
    for mac, address in plan.pairs:
        elements[ElementKey(rules.MAC_OK, f"{device} . {mac}")] = ""
        if ":" in address:
            elements[ElementKey(rules.ADDRESS6_OK, f"{device} . {mac} . {address}")] = ""
            elements[ElementKey(rules.ADVERTISED6_OK, f"{device} . {hex(int(IPv6Address(address)))}")] = ""
            elements[ElementKey(rules.TARGET6_OK, f"{device} . {address}")] = ""
        else:
            elements[ElementKey(rules.ADDRESS_OK, f"{device} . {mac} . {address}")] = "goto v4ok"
            elements[ElementKey(rules.ARP_OK, f"{device} . {mac} . {address}")] = ""
            elements[ElementKey(rules.TARGET_OK, f"{device} . {address}")] = ""
    for address, groups in plan.filters:
        egress, ingress = (rules.EGRESS6, rules.INGRESS6) if ":" in address else (rules.EGRESS, rules.INGRESS)
        name = combination_name(groups)
        elements[ElementKey(egress, f"{bridge} . {address}")] = f"goto {name}_out"
        elements[ElementKey(ingress, f"{bridge} . {address}")] = f"goto {name}_in"
    return Layout(links={plan.device: link}, elements=elements)


@lru_cache(maxsize=_REMEMBERED)
def group_layout(plan: GroupPlan) -> Layout:
    members4, members6 = (rules.groups(members_name(plan.group_id, version)) for version in (4, 6))
    elements = {
        ElementKey(members6 if ":" in address else members4, f"{_quoted(bridge)} . {address}"): ""
        for bridge, address in plan.members
    }
    return Layout(
        sets={members4: "type ifname . ipv4_addr;", members6: "type ifname . ipv6_addr;"},
        chains={
            rules.groups(chain_name(plan.group_id, "ingress")): Chain.of(*plan.ingress),
            rules.groups(chain_name(plan.group_id, "egress")): Chain.of(*plan.egress),
        },
        elements=elements,
    )


@lru_cache(maxsize=_REMEMBERED)
def combination_layout(groups: tuple[str, ...]) -> Layout:
    name = combination_name(groups)
    chains: dict[SetKey, Chain] = {}
    for suffix, direction in (("in", "ingress"), ("out", "egress")):
        jumps = [f"jump {chain_name(group, direction)}" for group in groups]
        chains[rules.groups(f"{name}_{suffix}")] = Chain.of(*jumps, "drop")
    return Layout(chains=chains)


def service_port_layout(plan: ServicePlan, namespace: str) -> Layout:
    """The end in the switch of the pair that joins a network's services to its bridge."""
    device = f"svc{plan.network_id[:SHORT_ID]}"
    port = _trusted_veth(device, plan.network_id, plan.bridge, plan.mtu, Peer(namespace, SERVICE_DEVICE, plan.mac))
    addresses = [*(subnet.service_address for subnet in plan.subnets), METADATA_ADDRESS, link_local(plan.mac)]
    guarded = {
        ElementKey(rules.SERVED6 if ":" in each else rules.SERVED, f"{_quoted(plan.bridge)} . {each}"): ""
        for each in addresses
    }
    return Layout(links=port.links, elements={**port.elements, **guarded})


def service_layout(plan: ServicePlan) -> Layout:
    addresses = {f"{subnet.service_address}/{subnet.cidr.rpartition('/')[2]}" for subnet in plan.subnets}
    addresses.add(f"{METADATA_ADDRESS}/32")
    routes: dict[str, Route] = {}
    for subnet in plan.subnets:
        if subnet.gateway:
            destination = _default_route(subnet.gateway)
            routes.setdefault(destination, Route(destination, subnet.gateway, SERVICE_DEVICE))
    link = Link("veth", plan.mtu, owner=plan.network_id, mac=plan.mac, addresses=frozenset(addresses))
    return Layout(links={SERVICE_DEVICE: link}, routes=frozenset(routes.values()))


def inside_device(interface: InterfacePlan) -> str:
    return _inside_name(interface.port_id)


def _inside_name(port_id: str) -> str:
    return f"int{port_id[:SHORT_ID]}"


def router_ports_layout(plan: RouterPlan, namespace: str) -> Layout:
    """The ends in the switch of a router's legs."""
    links: dict[str, Link] = {}
    elements: dict[ElementKey, str] = {}
    legs = [(interface, inside_device(interface)) for interface in plan.interfaces]
    if plan.external is not None:
        legs.append((plan.external, rules.PUBLIC_DEVICE))
    for interface, inner in legs:
        part = _trusted_veth(
            f"rtr{interface.port_id[:SHORT_ID]}",
            plan.router_id,
            interface.bridge,
            interface.mtu,
            Peer(namespace, inner, interface.mac),
        )
        links.update(part.links)
        elements.update(part.elements)
    return Layout(links=links, elements=elements)


@lru_cache(maxsize=_REMEMBERED)
def router_layout(plan: RouterPlan) -> Layout:
    """A router's namespace: interfaces, routes, and the maps of its translations."""
    links = {inside_device(interface): _leg(plan, interface, ()) for interface in plan.interfaces}
    routes: set[Route] = set()
    chains: dict[SetKey, Chain] = {}
    source_nat: tuple[str, ...] = ()
    hairpin_nat: tuple[str, ...] = ()
    if plan.external is not None:
        floating = tuple(f"{address}/32" for address, _ in plan.floating)
        links[rules.PUBLIC_DEVICE] = _leg(plan, plan.external, floating)
        own_defaults = {destination for destination, hop in plan.routes if _device_towards(plan, hop)}
        for gateway in plan.gateways:
            if _default_route(gateway) not in own_defaults:  # the kernel has one of a destination, the last one told
                routes.add(Route(_default_route(gateway), gateway, rules.PUBLIC_DEVICE))
        own = next((item.partition("/")[0] for item in plan.external.addresses if ":" not in item), None)
        if own:
            hairpin_nat = (f"snat to {own}",)
            source_nat = hairpin_nat if plan.snat else ()
    chains[rules.SOURCE_NAT] = Chain.of(*source_nat)
    chains[rules.HAIRPIN_NAT] = Chain.of(*hairpin_nat)
    for destination, next_hop in plan.routes:
        device = _device_towards(plan, next_hop)
        if device:
            routes.add(Route(destination, next_hop, device))
    elements: dict[ElementKey, str] = {ElementKey(rules.INSIDE, cidr): "" for cidr in plan.inside}
    elements |= {ElementKey(rules.INSIDE6, cidr): "" for cidr in plan.inside6}
    for public, fixed in plan.floating:
        elements[ElementKey(rules.FLOATING, public)] = fixed
        elements[ElementKey(rules.FIXED, fixed)] = public
    base = _router_rules()
    return Layout(links, frozenset(routes), base.sets, {**base.chains, **chains}, elements)


@lru_cache(maxsize=_REMEMBERED)
def vpn_layout(plan: VpnPlan) -> Layout:
    """In the router's namespace. The device itself is made by WireGuard; it is found by its owner's mark."""
    device = _quoted(plan.device)
    elements = {
        ElementKey(rules.VPN_PORTS, str(plan.port)): "",
        ElementKey(rules.VPN_DEVICES, device): "",
        **{ElementKey(rules.VPN_INSIDE, f"{cidr}"): "" for cidr in plan.inside},
        **{ElementKey(rules.VPN_CLIENTS, f"{device} . {client.address}"): "" for client in plan.clients},
    }
    return Layout(
        links={plan.device: Link("wireguard", plan.mtu, owner=plan.vpn_id)},
        routes=frozenset(Route(f"{client.address}/32", "", plan.device) for client in plan.clients),
        proxies=frozenset(Proxy(_inside_name(client.beside), client.address) for client in plan.clients),
        elements=elements,
    )


@lru_cache(maxsize=_REMEMBERED)
def vpn_filters_layout(plan: VpnPlan) -> Layout:
    """In the switch: clients' packets come and go through the router's leg, and their groups are asked there."""
    elements: dict[ElementKey, str] = {}
    for client in plan.clients:
        if client.groups is None:
            continue
        name = combination_name(client.groups)
        for bridge in client.bridges:
            key = f"{_quoted(bridge)} . {client.address}"
            elements[ElementKey(rules.EGRESS, key)] = f"goto {name}_out"
            elements[ElementKey(rules.INGRESS, key)] = f"goto {name}_in"
    return Layout(elements=elements)


def uplink_layout(plan: Uplink) -> Layout:
    """It carries no owner's mark: it is never removed, only let go."""
    addresses = frozenset({plan.address} if plan.address else ())
    link = Link("other", 0, master=plan.bridge, addresses=addresses)
    elements = {ElementKey(rules.TRUSTED, _quoted(plan.device)): ""}
    if plan.address:
        elements[ElementKey(rules.UNDERLAY, _quoted(plan.device))] = ""
    return Layout(links={plan.device: link}, elements=elements)


def outside_port_layout(plan: OutsidePlan, namespace: str) -> Layout:
    peer = Peer(namespace, OUTSIDE_END)
    return _trusted_veth(rules.OUTSIDE_DEVICE, "outside", plan.bridge, plan.mtu, peer)


def outside_layout(plan: OutsidePlan) -> Layout:
    link = Link("veth", plan.mtu, owner="outside", addresses=frozenset({plan.address}))
    return Layout(links={OUTSIDE_END: link})


def _leg(plan: RouterPlan, interface: InterfacePlan, more: Iterable[str]) -> Link:
    addresses = frozenset((*interface.addresses, *more))
    return Link("veth", interface.mtu, owner=plan.router_id, mac=interface.mac, addresses=addresses)


def _trusted_veth(device: str, owner: str, bridge: str, mtu: int, peer: Peer) -> Layout:
    link = Link("veth", mtu, owner=owner, master=bridge, peer=peer)
    return Layout(links={device: link}, elements={ElementKey(rules.TRUSTED, _quoted(device)): ""})


def _device_towards(plan: RouterPlan, next_hop: str) -> str:
    """The interface in whose subnet a next hop lies; nothing when no interface reaches it."""
    for interface in plan.interfaces:
        if any(ip_address(next_hop) in ip_interface(address).network for address in interface.addresses):
            return inside_device(interface)
    if plan.external and any(
        ip_address(next_hop) in ip_interface(address).network for address in plan.external.addresses
    ):
        return rules.PUBLIC_DEVICE
    return ""


def _default_route(gateway: str) -> str:
    return "::/0" if ":" in gateway else "0.0.0.0/0"


def _quoted(name: str) -> str:
    return f'"{name}"'


def changed(before: Mapping[str, Fragment], after: Mapping[str, Fragment]) -> tuple[list[Fragment], list[Fragment]]:
    """The fragments of either side that the other has not, or has otherwise."""
    gone = [item for key, item in before.items() if after.get(key) != item]
    come = [item for key, item in after.items() if before.get(key) != item]
    return gone, come
