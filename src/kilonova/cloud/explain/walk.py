"""The way of a packet, hop by hop: from its sender over bridges, wires and routers to its receiver. Pure.

The rows decide the way; what the hosts told only says whether each hop does what the rows say. So the same walk, told
nothing, finds out which objects the hosts have to be asked about.
"""

from __future__ import annotations

from dataclasses import dataclass

from kilonova.cloud.explain import ends, routers, wires
from kilonova.cloud.explain.actual import Hosts
from kilonova.cloud.explain.endpoints import METADATA, Endpoint, common_version, version_of
from kilonova.cloud.explain.hops import Explanation, Hop
from kilonova.cloud.explain.question import Traffic
from kilonova.cloud.explain.routing import Decision, decide, networks_joined, next_hop_of_guest, subnet_with
from kilonova.cloud.explain.rows import ROUTER_OWNERS, Floating, Network, Port, Snapshot
from kilonova.cloud.explain.trail import Trail
from kilonova.network.ports import DHCP, FLOATING_IP, VPN_CLIENT

_MOST_HOPS = 8
_NOWHERE = {4: "192.0.2.1", 6: "2001:db8::1"}
"""Stands for an address outside when the cloud has no public network (RFC 5737, RFC 3849)."""


@dataclass
class Packet:
    """Its header as it is now; routers translate it."""

    source: str
    destination: str


def walk(
    snapshot: Snapshot,
    source: Endpoint,
    destination: Endpoint,
    traffic: Traffic,
    hosts: Hosts,
    source_address: str | None = None,
) -> Explanation:
    """The explanation as far as `hosts` told. Which objects they should be asked about is in `hosts.needs` then."""
    ways = _Walk(snapshot, source, destination, traffic, hosts, source_address)
    ways.run()
    return Explanation(ways.named(source, ways.sender), ways.named(destination, ways.receiver), str(traffic), ways.told)


class _Walk:
    def __init__(
        self,
        snapshot: Snapshot,
        source: Endpoint,
        destination: Endpoint,
        traffic: Traffic,
        hosts: Hosts,
        source_address: str | None,
    ) -> None:
        self.snapshot = snapshot
        self.source = source
        self.destination = destination
        self.sender: Port | None = None
        self.receiver: Port | None = None
        self._choose()
        self.packet = self._packet(source_address)
        self.sent_to, self.sent_from = self.packet.destination, self.packet.source
        self.trail = Trail(snapshot, hosts, traffic.of_version(version_of(self.packet.destination)))
        self.crossings: list[routers.Crossing] = []
        self.arrived = False

    @property
    def told(self) -> tuple[Hop, ...]:
        return tuple(self.trail.hops)

    def named(self, end: Endpoint, port: Port | None) -> str:
        address = self.sent_from if end is self.source else self.sent_to
        return end.label if end.label == address else f"{end.label} ({address})"

    # -------------------------------------------------------------------------------------------- which ends
    def _ports(self, end: Endpoint) -> list[Port]:
        return [self.snapshot.ports[port_id] for port_id in end.ports if port_id in self.snapshot.ports]

    def _choose(self) -> None:
        """Of several ports, those on a common network; else those that routers join; else the first."""
        senders, receivers = self._ports(self.source), self._ports(self.destination)
        if senders and receivers:
            pairs = [(one, other) for one in senders for other in receivers]
            self.sender, self.receiver = min(pairs, key=lambda pair: self._distance(*pair))
        else:
            self.sender = next(iter(senders), None)
            self.receiver = next(iter(receivers), None)
            if self.receiver is not None and self.source.is_outside:
                public = next((port for port in receivers if self._floating_of(port)), None)
                self.receiver = public or self.receiver

    def _distance(self, one: Port, other: Port) -> int:
        if one.network_id == other.network_id:
            return 0
        return 1 if other.network_id in networks_joined(self.snapshot, one.network_id) else 2

    def _floating_of(self, port: Port) -> Floating | None:
        return next((item for item in self.snapshot.floating if item.fixed_port_id == port.id), None)

    def _packet(self, source_address: str | None) -> Packet:
        mine, theirs = self._addresses(self.source, self.sender), self._addresses(self.destination, self.receiver)
        if source_address is not None:
            mine = [source_address]
        version = common_version(mine, theirs)
        sent_from = next((item for item in mine if version_of(item) == version), mine[0] if mine else "")
        sent_to = next((item for item in theirs if version_of(item) == version), theirs[0] if theirs else "")
        public = self._floating_of(self.receiver) if self.receiver and self.source.is_outside else None
        if public is not None and self.destination.address is None:
            sent_to = public.address
        return Packet(sent_from or _NOWHERE[version], sent_to or _NOWHERE[version])

    def _addresses(self, end: Endpoint, port: Port | None) -> list[str]:
        if end.address is not None and not (end.floating and end is self.source):
            return [end.address]
        if port is not None:
            return [item.address for item in port.addresses]
        gateways = [
            subnet.gateway_ip
            for network in self.snapshot.external_networks()
            for subnet in self.snapshot.subnets_of(network.id)
            if subnet.gateway_ip
        ]
        return gateways or list(_NOWHERE.values())

    # -------------------------------------------------------------------------------------------- the way there
    def run(self) -> None:
        if version_of(self.packet.source) != version_of(self.packet.destination):
            why = f"{self.packet.source} and {self.packet.destination} are of different versions of IP"
            self.trail.end("addresses", "both ends", "one version of IP", why)
        elif self.sender is None:
            self._from_outside()
        elif self.sender.device_owner in ROUTER_OWNERS:
            self._at_router(self.sender.device_id, None)
        elif self.sender.is_cloud_own:
            self._from_cloud(self.sender)
        else:
            self._from_guest(self.sender)
        if self.arrived and not self.trail.ended:
            self._reply()

    def _from_guest(self, port: Port) -> None:
        packet, trail = self.packet, self.trail
        ends.port_hops(trail, "source", port)
        next_hop, why = next_hop_of_guest(self.snapshot, port, packet.destination)
        if packet.destination == METADATA:
            next_hop, why = self._metadata_of(port), "by the route that DHCP gives"
        near = self._routers_at(port.network_id, next_hop)
        ends.address_hop(trail, "source", port, self._own_address(port), near)
        if not port.host:
            trail.ended = True
            return
        ends.device_hop(trail, "source", port, packet.source)
        ends.spoofing_hop(trail, port, packet.source)
        ends.group_hop(
            trail,
            "egress",
            port,
            packet.source,
            packet.destination,
            anybody=self.destination.is_outside,
        )
        if next_hop is None:
            command = self._gateway_command(port)
            trail.end("guest's route", trail.port(port), why, f"the guest sends it to nobody: {why}", command)
            return
        trail.note("guest's route", trail.port(port), f"the guest sends it to {next_hop}: {why}")
        self._deliver(self.snapshot.networks[port.network_id], port.host, next_hop)

    def _own_address(self, port: Port) -> str:
        """Not one that it only pretends to have."""
        version = version_of(self.packet.source)
        mine = [item.address for item in port.addresses if version_of(item.address) == version]
        return self.packet.source if self.packet.source in mine else next(iter(mine), self.packet.source)

    def _metadata_of(self, port: Port) -> str | None:
        return next((s.service_address for s in self.snapshot.subnets_of(port.network_id) if s.service_address), None)

    def _gateway_command(self, port: Port) -> str:
        subnet = next((self.snapshot.subnets.get(item.subnet_id) for item in port.addresses), None)
        return f"openstack subnet set --gateway ADDRESS {subnet.id}" if subnet else ""

    def _routers_at(self, network_id: str, next_hop: str | None) -> list[routers.Router]:
        owner = self.snapshot.owner_of(network_id, next_hop) if next_hop else None
        router = self.snapshot.routers.get(owner.device_id) if owner else None
        return [router] if router else []

    def _from_cloud(self, port: Port) -> None:
        """From a network's service, or through a VPN."""
        network = self.snapshot.networks[port.network_id]
        if port.device_owner == VPN_CLIENT:
            for router in ends.interfaces_of(self.snapshot.routers, network.id):
                routers.vpn_hop(self.trail, router, port)
                sent = (self.packet.source, self.packet.destination)
                outside = self.destination.is_outside
                ends.group_hop(self.trail, "egress", port, *sent, anybody=outside, router=router)
                self._at_router(router.id, None)
                return
        self.trail.note(f"{port.device_owner}", self.trail.port(port), "the cloud's own", decides=False)
        subnet = subnet_with(self.snapshot, network.id, self.packet.destination)
        next_hop = self.packet.destination if subnet else self._gateway_of(network)
        if next_hop is None:
            self.trail.end("route", self.trail.port(port), "to the gateway", "its network has no gateway")
            return
        self._deliver(network, network.host or port.host, next_hop)

    def _gateway_of(self, network: Network) -> str | None:
        version = version_of(self.packet.destination)
        found = (s.gateway_ip for s in self.snapshot.subnets_of(network.id) if s.gateway_ip)
        return next((gateway for gateway in found if version_of(gateway) == version), None)

    def _from_outside(self) -> None:
        trail, packet = self.trail, self.packet
        where = "outside: beyond the public gateway"
        floating = next((item for item in self.snapshot.floating if item.address == packet.destination), None)
        if self.receiver is not None and floating is None and not self._is_public(self.receiver):
            intent = f"{packet.destination} is a fixed address; only floating ones are reached from outside"
            command = f"openstack floating ip create --port {self.receiver.id} {self._public_name()}"
            trail.end("floating IP", where, intent, "the destination has no floating IP", command)
            return
        if floating is not None and floating.fixed_port_id is None:
            command = f"openstack floating ip set --port PORT {floating.address}"
            trail.end("floating IP", where, f"{floating.address} is a floating IP", "it is given to no port", command)
            return
        if floating is not None and floating.router_id not in self.snapshot.routers:
            why = "no router translates it"
            trail.end("floating IP", where, f"{floating.address} of port {floating.fixed_port_id}", why)
            return
        router = self.snapshot.routers.get(floating.router_id or "" if floating else "")
        if router is None and self.receiver is not None:
            router = self.snapshot.routers.get(self.receiver.device_id)
        network = next(
            (n for n in self.snapshot.external_networks() if not floating or n.id == floating.network_id), None
        )
        if router is None or router.external is None or network is None:
            why = "no router of this cloud has the address on the public network"
            trail.end("outside gateway", where, f"to {packet.destination}", why)
            return
        routers.outside_hop(trail, network, router.host or "")
        wires.bridge_hops(trail, network, router.host or "", router.host or "")
        self._at_router(router.id, router.external)

    def _is_public(self, port: Port) -> bool:
        return self.snapshot.networks[port.network_id].external

    def _public_name(self) -> str:
        return next((network.name or network.id for network in self.snapshot.external_networks()), "EXTERNAL_NETWORK")

    def _deliver(self, network: Network, host: str, next_hop: str) -> None:
        """Over a network's bridge, and its wire to another host, to whoever has the address there."""
        trail, owner = self.trail, self.snapshot.owner_of(network.id, next_hop)
        if len(self.crossings) > _MOST_HOPS:
            trail.end("route", trail.network(network), "an end", "the routes go round in a circle")
        elif next_hop in self._metadata_addresses(network) and self.packet.destination == METADATA:
            self._to_service(network, host)
        elif owner is None or owner.device_owner == FLOATING_IP:
            self._to_nobody(network, host, next_hop)
        elif owner.device_owner in ROUTER_OWNERS:
            router = self.snapshot.routers.get(owner.device_id)
            there = router.host if router else None
            wires.bridge_hops(trail, network, host, there or host)
            self._at_router(owner.device_id, owner)
        elif owner.device_owner == DHCP:
            self._to_service(network, host)
        elif owner.device_owner == VPN_CLIENT:
            self._to_vpn(network, host, owner)
        elif self.receiver is not None and owner.id == self.receiver.id:
            wires.bridge_hops(trail, network, host, owner.host or host)
            self._to_guest(owner)
        else:
            wires.bridge_hops(trail, network, host, owner.host or host)
            why = f"{next_hop} is {trail.port(owner)}, a guest: what it does with packets of others is its own affair"
            trail.note("next hop", trail.port(owner), f"by way of {next_hop}", "unknown", why=why)
            trail.ended = True

    def _metadata_addresses(self, network: Network) -> set[str | None]:
        return {subnet.service_address for subnet in self.snapshot.subnets_of(network.id)}

    def _to_nobody(self, network: Network, host: str, next_hop: str) -> None:
        """To an address that no port has: beyond the cloud, or nowhere."""
        trail = self.trail
        if network.external:
            floating = next((item for item in self.snapshot.floating if item.address == next_hop), None)
            router = self.snapshot.routers.get(floating.router_id or "" if floating else "")
            if floating is not None and router is not None and router.external is not None:
                wires.bridge_hops(trail, network, host, router.host or host)
                self._at_router(router.id, router.external)
                return
            if floating is not None:
                command = f"openstack floating ip set --port PORT {floating.address}"
                trail.end("floating IP", trail.network(network), next_hop, "it is given to no port", command)
                return
            wires.bridge_hops(trail, network, host, host)
            routers.outside_hop(trail, network, host)
            self.arrived = self.receiver is None
            if self.receiver is not None:
                self._apart(self.receiver)
        elif network.manager.startswith("flat") and next_hop == self._gateway_of(network):
            wires.bridge_hops(trail, network, host, host)
            why = "the gateway of a flat network is the administrator's"
            trail.note("gateway", f"{network.bridge}: {next_hop}", "it routes", "unknown", why=why, decides=False)
            self.arrived = True
        else:
            whom = "nobody" if self.snapshot.project_id is None else "nothing of this project"
            why = f"{whom} on {trail.network(network)} has the address {next_hop}"
            if self.receiver is not None and self.receiver.network_id != network.id:
                self._apart(self.receiver)
                return
            trail.end("next hop", trail.network(network), f"to {next_hop}", why)

    def _apart(self, receiver: Port) -> None:
        """The isolation of projects: networks that no router joins do not reach each other."""
        theirs = self.trail.network(self.snapshot.networks[receiver.network_id])
        mine = self.sender.network_id if self.sender else ""
        ours = self.trail.network(self.snapshot.networks[mine]) if mine else "the source"
        why = f"no router joins {ours} with {theirs}; floating IPs would be reached"
        command = f"openstack floating ip create --port {receiver.id} {self._public_name()}"
        self.trail.end("isolation", theirs, "networks are apart unless a router joins them", why, command)

    # -------------------------------------------------------------------------------------------- routers
    def _at_router(self, router_id: str, leg: Port | None) -> None:
        router = self.snapshot.routers.get(router_id)
        if router is None:
            self.trail.end("router", f"router {router_id}", "there", "the router is gone")
            return
        packet, trail = self.packet, self.trail
        floating = self._translated(router, leg)
        inside = floating.fixed_address if floating and floating.fixed_address else packet.destination
        decision = decide(self.snapshot, router, inside)
        crossing = routers.Crossing(router, leg, decision, packet.source, inside)
        if any(known.router.id == router.id and known.leg is leg for known in self.crossings):
            trail.end("route", trail.router(router), "an end", "the routes go round in a circle")
            return
        routers.router_hop(trail, crossing)
        if trail.ended:
            return
        if floating is not None:
            routers.floating_hop(trail, crossing, floating)
            packet.destination = inside
        elif self._is_own_address(router, packet.destination):
            routers.itself_hop(trail, router, packet.destination)
            self.arrived = not trail.ended
            return
        elif leg is not None and leg is router.external:
            why = "nothing from the public side reaches a fixed address that no floating IP stands for"
            trail.end("router", trail.router(router), "public side", why)
            return
        if decision is None:
            self._no_route(crossing)
            return
        self.crossings.append(crossing)
        client = self.snapshot.owner_of(decision.leg.network_id, packet.destination)
        if client is not None and client.device_owner == VPN_CLIENT and decision.is_direct:
            self._into_vpn(crossing, client)
            return
        routers.route_hop(trail, crossing)
        if decision.leg is router.external:
            packet.source = routers.source_nat_hop(trail, crossing, self._floating_from(crossing))
        elif floating is not None and leg is not router.external:
            packet.source = routers.hairpin_hop(trail, crossing, self._floating_from(crossing))
        self._deliver(self.snapshot.networks[decision.leg.network_id], router.host or "", decision.next_hop)

    def _translated(self, router: routers.Router, leg: Port | None) -> Floating | None:
        return next(
            (
                item
                for item in self.snapshot.floating
                if item.address == self.packet.destination and item.router_id == router.id
            ),
            None,
        )

    def _floating_from(self, crossing: routers.Crossing) -> Floating | None:
        return next(
            (
                item
                for item in self.snapshot.floating
                if item.fixed_address == crossing.source and item.router_id == crossing.router.id
            ),
            None,
        )

    def _is_own_address(self, router: routers.Router, address: str) -> bool:
        return any(item.address == address for leg in router.legs for item in leg.addresses)

    def _no_route(self, crossing: routers.Crossing) -> None:
        trail, router = self.trail, crossing.router
        if self.receiver is not None:
            self._apart(self.receiver)
            return
        why = f"the router has no route to {crossing.destination}"
        command = f"openstack router set --external-gateway {self._public_name()} {router.id}"
        trail.end("route", trail.router(router), f"to {crossing.destination}", why, command)

    # -------------------------------------------------------------------------------------------- the other end
    def _to_guest(self, port: Port) -> None:
        trail, packet = self.trail, self.packet
        if port.host:
            anybody = self.source.is_outside
            ends.group_hop(trail, "ingress", port, packet.destination, packet.source, anybody=anybody)
            ends.device_hop(trail, "destination", port, packet.destination)
        ends.port_hops(trail, "destination", port)
        near = [self.crossings[-1].router] if self.crossings else []
        ends.address_hop(trail, "destination", port, packet.destination, near)
        why = "whether a program listens there, and the guest's own firewall lets it in, only the guest knows"
        if trail.traffic.port is not None:
            where = f"{trail.port(port)}: {packet.destination} {trail.traffic}"
            trail.note("listener", where, "a program in the guest", "unknown", why=why, decides=False)
        self.arrived = bool(port.host)

    def _to_service(self, network: Network, host: str) -> None:
        subnet = next((item for item in self.snapshot.subnets_of(network.id) if item.service_address), None)
        there = network.host or (subnet.host if subnet else None) or host
        wires.bridge_hops(self.trail, network, host, there)
        routers.service_hop(self.trail, network, there)
        self.arrived = True

    def _into_vpn(self, crossing: routers.Crossing, port: Port) -> None:
        """From a router to a client of its VPN."""
        sent = (self.packet.destination, self.packet.source)
        anybody = self.source.is_outside
        ends.group_hop(self.trail, "ingress", port, *sent, anybody=anybody, router=crossing.router)
        routers.route_hop(self.trail, crossing)
        routers.vpn_hop(self.trail, crossing.router, port)
        self.arrived = not self.trail.ended

    def _to_vpn(self, network: Network, host: str, port: Port) -> None:
        for router in ends.interfaces_of(self.snapshot.routers, network.id):
            leg = next(leg for leg in router.legs if leg.network_id == network.id)
            wires.bridge_hops(self.trail, network, host, router.host or host)
            decision = decide(self.snapshot, router, self.packet.destination)
            crossing = routers.Crossing(router, leg, decision, self.packet.source, self.packet.destination)
            routers.router_hop(self.trail, crossing)
            self._into_vpn(crossing, port)
            return
        self.trail.end("VPN", self.trail.network(network), "a router with a VPN", "no router joins the network")

    # -------------------------------------------------------------------------------------------- the way back
    def _reply(self) -> None:
        """What the answer needs besides: it is let through by connection tracking, but must find its way."""
        self.trail.direction = "reply"
        trail, receiver, sender = self.trail, self.receiver, self.sender
        if receiver is not None and receiver.host and not receiver.is_cloud_own:
            ends.spoofing_hop(trail, receiver, self.packet.destination)
            self._route_back(receiver)
        for crossing in reversed(self.crossings):
            back = decide(self.snapshot, crossing.router, crossing.source)
            if back is not None and crossing.decision is not None:
                routers.route_back_hop(trail, crossing, back)
        if sender is not None and sender.host and not sender.is_cloud_own:
            ends.device_hop(trail, "destination", sender, self._own_address(sender))

    def _route_back(self, receiver: Port) -> None:
        next_hop, why = next_hop_of_guest(self.snapshot, receiver, self.packet.source)
        where = self.trail.port(receiver)
        if next_hop is None:
            self.trail.drop(
                "guest's route", where, why, f"the guest answers nobody: {why}", self._gateway_command(receiver)
            )
            return
        last = self.crossings[-1] if self.crossings else None
        decision: Decision | None = last.decision if last else None
        owner = self.snapshot.owner_of(receiver.network_id, next_hop)
        by_vpn = owner is not None and owner.device_owner == VPN_CLIENT  # the router answers for it
        if decision is not None and not by_vpn and (owner is None or owner.device_id != decision.leg.device_id):
            why = f"the guest answers by way of {next_hop}, which is not the router that the packet came by"
            command = f"openstack subnet set --gateway {decision.leg.addresses[0].address} SUBNET"
            self.trail.drop("guest's route", where, "back by the same router", why, command)
            return
        self.trail.note("guest's route", where, f"the guest answers to {next_hop}: {why}")
