"""Where guests and routers send a packet, as the rows say: longest prefix first. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from kilonova.cloud.explain.rows import Port, Router, Snapshot, Subnet


@dataclass(frozen=True)
class Decision:
    """The leg by which a router sends a packet on, and to whom."""

    leg: Port
    next_hop: str
    why: str

    @property
    def is_direct(self) -> bool:
        return self.why.startswith("directly")


def holds(cidr: str, address: str) -> bool:
    network, item = ip_network(cidr, strict=False), ip_address(address)
    return network.version == item.version and item in network


def subnet_with(snapshot: Snapshot, network_id: str, address: str) -> Subnet | None:
    return next((item for item in snapshot.subnets_of(network_id) if holds(item.cidr, address)), None)


def subnets_of_port(snapshot: Snapshot, port: Port, version: int) -> list[Subnet]:
    found = [snapshot.subnets[item.subnet_id] for item in port.addresses if item.subnet_id in snapshot.subnets]
    return [item for item in found if ip_network(item.cidr).version == version]


def next_hop_of_guest(snapshot: Snapshot, port: Port, destination: str) -> tuple[str | None, str]:
    """To whom a guest that took what DHCP (or its config drive) gave it sends a packet, and why; none: to nobody."""
    version = ip_address(destination).version
    subnets = subnets_of_port(snapshot, port, version)
    for subnet in subnets:
        if holds(subnet.cidr, destination):
            return destination, f"directly, {destination} is in its subnet {subnet.cidr}"
    routes = [
        (ip_network(cidr).prefixlen, next_hop, f"by the host route to {cidr}")
        for subnet in subnets
        for cidr, next_hop in subnet.host_routes
        if holds(cidr, destination)
    ]
    routes += [(0, item.gateway_ip, f"to the gateway of its subnet {item.cidr}") for item in subnets if item.gateway_ip]
    if not routes:
        return None, "no subnet of it has a gateway"
    _, next_hop, why = max(routes, key=lambda route: route[0])
    return next_hop, why


def decide(snapshot: Snapshot, router: Router, destination: str) -> Decision | None:
    """How a router sends a packet on; none: it has no route."""
    found: list[tuple[int, Decision]] = []
    for leg in router.legs:
        for item in leg.addresses:
            cidr = snapshot.subnets[item.subnet_id].cidr
            if holds(cidr, destination):
                length = ip_network(cidr).prefixlen
                found.append((length, Decision(leg, destination, f"directly, it is in {cidr}")))
    for cidr, next_hop in router.routes:
        if holds(cidr, destination) and (by := leg_towards(snapshot, router, next_hop)) is not None:
            found.append((ip_network(cidr).prefixlen, Decision(by, next_hop, f"by the static route to {cidr}")))
    external, version = router.external, ip_address(destination).version
    if external is not None:
        for item in external.addresses:
            gateway = snapshot.subnets[item.subnet_id].gateway_ip
            if gateway and ip_address(gateway).version == version:
                found.append((0, Decision(external, gateway, f"to the public gateway {gateway}")))
                break
    return max(found, key=lambda entry: entry[0])[1] if found else None


def leg_towards(snapshot: Snapshot, router: Router, next_hop: str) -> Port | None:
    """The leg in whose subnet a next hop lies."""
    for leg in router.legs:
        if any(holds(snapshot.subnets[item.subnet_id].cidr, next_hop) for item in leg.addresses):
            return leg
    return None


def networks_joined(snapshot: Snapshot, network_id: str) -> set[str]:
    """The networks whose packets reach this one through routers with their own addresses; it is one of them."""
    joined, before = {network_id}, 0
    while len(joined) != before:
        before = len(joined)
        for router in snapshot.routers.values():
            inner = {leg.network_id for leg in router.legs if leg is not router.external}
            if inner & joined:
                joined |= inner
    return joined
