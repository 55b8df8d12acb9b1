"""Builds snapshots for the walk, a few words per row, and hosts that told something."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kilonova.cloud.explain.actual import Hosts
from kilonova.cloud.explain.endpoints import Endpoint
from kilonova.cloud.explain.hops import Explanation, Hop
from kilonova.cloud.explain.question import parse_traffic
from kilonova.cloud.explain.rows import (
    Address,
    Floating,
    Group,
    Instance,
    Network,
    Port,
    Router,
    Rule,
    Service,
    Snapshot,
    Subnet,
)
from kilonova.cloud.explain.walk import walk
from kilonova.network.observation import Observation, PortFacts, RouteAnswer, ServiceFacts
from kilonova.network.ports import DHCP, ROUTER_GATEWAY, ROUTER_INTERFACE

EGRESS = Rule("r-out", "egress", "IPv4", None, None, None, None, None)
PING = Rule("r-ping", "ingress", "IPv4", "icmp", None, None, None, None)
OUT6 = Rule("r-out6", "egress", "IPv6", None, None, None, None, None)
PING6 = Rule("r-ping6", "ingress", "IPv6", "icmp", None, None, None, None)
EVERYTHING = (EGRESS, PING, OUT6, PING6)


class Scene:
    """Collects rows. Ids are the words that tests give."""

    def __init__(self) -> None:
        self.ports: dict[str, Port] = {}
        self.instances: dict[str, Instance] = {}
        self.networks: dict[str, Network] = {}
        self.subnets: dict[str, Subnet] = {}
        self.routers: dict[str, Router] = {}
        self.groups: dict[str, Group] = {"g": Group("g", "default", EVERYTHING)}
        self.members: set[tuple[str, str, str]] = set()
        self.floating: list[Floating] = []
        self.services: dict[tuple[str, str], Service] = {}
        for host in ("host1", "host2", "host3"):
            self.services["network", host] = Service("network", host, 1.0, True)

    def network(self, name: str, cidr: str = "10.0.0.0/24", *, host: str | None = "host1", **values: Any) -> None:
        row = Network(name, name, "p", "vlan", "physnet1", 100 + len(self.networks), f"br-{name}", True, False, host)
        self.networks[name] = replace(row, **{key: value for key, value in values.items() if hasattr(row, key)})
        self.subnet(f"s-{name}", name, cidr)
        if not self.networks[name].external:
            self.port(f"dhcp-{name}", name, service_address(cidr), owner=DHCP, host=host or "")

    def subnet(self, subnet: str, network: str, cidr: str, **values: Any) -> None:
        base = cidr.partition("/")[0].removesuffix("0") if "." in cidr else cidr.partition("/")[0]
        row = Subnet(subnet, network, cidr, f"{base}1", True, (), service_address(cidr), None)
        self.subnets[subnet] = replace(row, **values)

    def port(self, name: str, network: str, address: str, *, owner: str = "", host: str = "", **values: Any) -> None:
        subnet = next(
            item.id
            for item in self.subnets.values()
            if item.network_id == network and (":" in item.cidr) == (":" in address)
        )
        row = Port(
            name, network, "p", f"fa:16:3e:00:00:{len(self.ports):02x}", True, "ACTIVE", "", owner, host, "none", True
        )
        self.ports[name] = replace(row, addresses=(Address(subnet, address),), **values)

    def guest(self, name: str, network: str, address: str, host: str = "host1", **values: Any) -> None:
        self.instances[f"i-{name}"] = Instance(f"i-{name}", name, "p", "active", 1, host)
        given = {"device_id": f"i-{name}", "groups": ("g",), "vif": "tap", **values}
        self.port(name, network, address, owner="compute:nova", host=host, **given)

    def router(self, name: str, *legs: tuple[str, str], gateway: tuple[str, str] | None = None, **values: Any) -> None:
        made: list[Port] = []
        for network, address in legs:
            self.port(f"{name}-{network}", network, address, owner=ROUTER_INTERFACE, device_id=name)
            made.append(self.ports[f"{name}-{network}"])
        if gateway is not None:
            self.port(f"{name}-gw", *gateway, owner=ROUTER_GATEWAY, device_id=name)
            made.append(self.ports[f"{name}-gw"])
        self.routers[name] = replace(Router(name, name, "p", True, True, "host1", (), tuple(made)), **values)

    def public(self) -> None:
        self.network("public", "203.0.113.0/24", external=True, host=None, bridge="br-public")

    def snapshot(self, project_id: str | None = None) -> Snapshot:
        return Snapshot(
            project_id,
            self.ports,
            self.instances,
            self.networks,
            self.subnets,
            self.routers,
            self.groups,
            frozenset(self.members),
            tuple(self.floating),
            self.services,
        )

    def end(self, name: str) -> Endpoint:
        """A guest or port by name, an address, or `outside`."""
        if name in self.ports:
            return Endpoint(name, (name,))
        floating = next((item for item in self.floating if item.address == name), None)
        if floating is not None:
            return Endpoint(name, (floating.fixed_port_id,) if floating.fixed_port_id else (), name, True)
        return Endpoint(name) if name == "outside" else Endpoint(name, address=name)

    def needs(self, source: str, destination: str, traffic: str = "icmp") -> Hosts:
        hosts = Hosts()
        walk(self.snapshot(), self.end(source), self.end(destination), parse_traffic(traffic), hosts)
        return hosts

    def explain(
        self,
        source: str,
        destination: str,
        traffic: str = "icmp",
        told: Mapping[str, Observation | str] | None = None,
        **more: Any,
    ) -> Explanation:
        """With hosts that do as planned, but for what `told` says."""
        ends = self.end(source), self.end(destination)
        snapshot = self.snapshot(more.pop("project_id", None))
        hosts = Hosts()
        walk(snapshot, *ends, parse_traffic(traffic), hosts, **more)
        answers: dict[str, Observation | str] = {host: self.as_planned(host, hosts) for host in hosts.needs if host}
        answers.update(told or {})
        return walk(snapshot, *ends, parse_traffic(traffic), Hosts(answers), **more)

    def as_planned(self, host: str, hosts: Hosts, **values: Any) -> Observation:
        """A host on which all that it is asked about is there."""
        needs = hosts.needs[host]
        told = Observation(
            host=host,
            planned=tuple(
                [f"{kind} {item}" for kind, ids in (("port", needs.ports), ("router", needs.routers)) for item in ids]
                + [f"service {item}" for item in needs.networks]
                + [f"bridge {self.networks[item].bridge}" for item in needs.networks]
            ),
            ports={item: PortFacts(f"tap{item}", True) for item in needs.ports},
            services={
                item: ServiceFacts(True, dict.fromkeys(needs.addresses, "mac"), tuple(needs.addresses))
                for item in needs.networks
            },
            routes=tuple(self._route(question.router_id, question) for question in needs.routes),
            wires=dict.fromkeys(needs.networks, ("wire",)),
        )
        return replace_told(told, **values)

    def _route(self, router_id: str, question: Any) -> RouteAnswer:
        """What a kernel that does as the rows say answers."""
        from kilonova.cloud.explain.routers import leg_device
        from kilonova.cloud.explain.routing import decide

        decision = decide(self.snapshot(), self.routers[router_id], question.destination)
        base = (question.router_id, question.source, question.destination)
        if decision is None:
            return RouteAnswer(*base, error="Network is unreachable")
        device = leg_device(self.routers[router_id], decision.leg)
        owner = self.snapshot().owner_of(decision.leg.network_id, question.destination)
        if owner is not None and owner.device_owner == "network:vpn_client":
            device = "wg0"
        return RouteAnswer(*base, device=device, next_hop="" if decision.is_direct else decision.next_hop)


def replace_told(told: Observation, **values: Any) -> Observation:
    import msgspec

    return msgspec.structs.replace(told, **values)


def service_address(cidr: str) -> str:
    base = cidr.partition("/")[0].removesuffix("0") if "." in cidr else cidr.partition("/")[0]
    return f"{base}2"


def hop(found: Explanation, name: str, direction: str = "forward") -> Hop:
    return next(item for item in found.hops if item.name == name and item.direction == direction)


def words(found: Explanation) -> str:
    lines = [
        f"{item.verdict} {item.direction} {item.name} [{item.where}] {item.intent}: {item.why}" for item in found.hops
    ]
    return "\n".join([*lines, found.conclusion])
