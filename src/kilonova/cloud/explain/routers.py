"""The hops in and around a router: itself, its routes, its translations, the public side, services. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from kilonova.cloud.explain.actual import (
    Sight,
    Wrong,
    anything,
    chain,
    element,
    link,
    namespace,
    sysctl,
)
from kilonova.cloud.explain.routing import Decision
from kilonova.cloud.explain.rows import Floating, Network, Port, Router
from kilonova.cloud.explain.trail import MEND, Trail
from kilonova.network.fragments import OUTSIDE_END, SERVICE_DEVICE
from kilonova.network.group_rules import ICMP, ICMPV6
from kilonova.network.observation import RouteAnswer, RouteQuestion
from kilonova.network.plan import SHORT_ID
from kilonova.network.ports import VPN_CLIENT
from kilonova.network.rules import OUTSIDE_DEVICE, PUBLIC_DEVICE
from kilonova.network.vpn_plan import DEVICE_PREFIX

__all__ = ["Crossing", "Router"]


@dataclass(frozen=True)
class Crossing:
    """A router on the way: by which leg the packet came (none: from itself), and how it goes on."""

    router: Router
    leg: Port | None
    decision: Decision | None
    source: str
    """As it came."""
    destination: str
    """After translation."""


def leg_device(router: Router, leg: Port) -> str:
    """In the router's namespace."""
    return PUBLIC_DEVICE if leg is router.external else f"int{leg.id[:SHORT_ID]}"


def _leg(router: Router, leg: Port) -> Wrong:
    switch_end = f"rtr{leg.id[:SHORT_ID]}"
    own = next((item.address for item in leg.addresses), "")
    return anything(
        link(leg_device(router, leg), address=own), link(switch_end), element("kn_l2 trusted", has=[switch_end])
    )


def _of(router: Router, test: Wrong) -> Wrong:
    """Devices of routers have the same names in each of them."""
    return lambda item: item.owner == router.id and test(item)


def _see(trail: Trail, router: Router, *routes: RouteQuestion) -> Sight:
    return trail.hosts.see(router.host or "", routers=[router.id], routes=routes)


def router_hop(trail: Trail, crossing: Crossing) -> None:
    router = crossing.router
    where = f"{trail.host(router.host or '')}: {trail.router(router)}"
    intent = "up, forwarding" if router.admin_state_up else "administratively down"
    if not router.admin_state_up:
        trail.end("router", where, intent, "the router is set down", f"openstack router set --enable {router.id}")
        return
    if not router.host:
        trail.end("router", where, intent, "no network host has it", "kilonova host list")
        return
    legs = [leg for leg in (crossing.leg, crossing.decision.leg if crossing.decision else None) if leg is not None]
    wrong = anything(
        namespace(f"router {router.id}"),
        sysctl("net.ipv4.ip_forward"),
        sysctl("net.ipv6.conf.all.forwarding"),
        chain("kn_rt forwarded"),
        chain("kn_rt from_public"),
        *(_leg(router, leg) for leg in legs),
    )
    sight = _see(trail, router)
    if sight.told is not None and sight.told.silenced:
        _silenced(trail, "router", where, intent, sight)
        return
    visible, fragment = trail.snapshot.may_see(router.project_id), f"router {router.id}"
    trail.check(
        "router",
        where,
        intent,
        sight,
        _of(router, wrong),
        planned=[fragment],
        owners=[router.id, ""],
        visible=visible,
    )
    trail.strangers("other filters", sight, f"-r-{router.id[:SHORT_ID]}")


def _silenced(trail: Trail, name: str, where: str, intent: str, sight: Sight) -> None:
    why = f"{trail.host(sight.host)} has lost its lease, so its routers and services are silent until it has it again"
    trail.note(name, where, intent, "dropped", why=why, actual="cut off", command="kilonova status")


def route_hop(trail: Trail, crossing: Crossing) -> None:
    """Does the kernel route it as the rows say?"""
    decision = crossing.decision
    if decision is not None:
        _routed(trail, crossing, decision, crossing.leg, crossing.source, crossing.destination)


def route_back_hop(trail: Trail, crossing: Crossing, back: Decision) -> None:
    """The answer's way through the same router."""
    if crossing.decision is not None:
        _routed(trail, crossing, back, crossing.decision.leg, crossing.destination, crossing.source)


def _routed(
    trail: Trail, crossing: Crossing, decision: Decision, leg: Port | None, source: str, destination: str
) -> None:
    router = crossing.router
    question = RouteQuestion(router.id, source, destination, leg.id if leg else "")
    sight = _see(trail, router, question)
    answer = next((item for item in sight.told.routes if _same(item, question)), None) if sight.told else None
    device = leg_device(router, decision.leg)
    where = f"{trail.host(router.host or '')}: routes of {trail.router(router)}"
    intent = f"{destination} {decision.why}, by {device}"
    beside = trail.snapshot.owner_of(decision.leg.network_id, destination) if decision.is_direct else None
    if beside is not None and beside.device_owner == VPN_CLIENT:
        device = answer.device if answer and answer.device.startswith(DEVICE_PREFIX) else f"{DEVICE_PREFIX}..."
        intent = f"{destination} is a VPN client's, by the router's WireGuard device"
    if sight.told is None or sight.told.simulated or answer is None:
        trail.check("route", where, intent, sight, lambda item: False)
        return
    next_hop = "" if decision.is_direct else decision.next_hop
    said = f"by {answer.device}" + (f" via {answer.next_hop}" if answer.next_hop else "")
    if answer.error:
        why = f"the kernel has no route to {destination}: {answer.error}"
    elif answer.device != device or answer.next_hop != next_hop:
        why = f"the kernel sends it {said}, not by {device}" + (f" via {next_hop}" if next_hop else "")
    else:
        trail.note("route", where, intent, actual=said)
        return
    trail.note("route", where, intent, "dropped", why=why, actual=answer.error or said, command=MEND)


def _same(answer: RouteAnswer, question: RouteQuestion) -> bool:
    asked = (question.router_id, question.source, question.destination)
    return (answer.router_id, answer.source, answer.destination) == asked


# ------------------------------------------------------------------------------------------------ translation
def floating_hop(trail: Trail, crossing: Crossing, floating: Floating) -> None:
    router = crossing.router
    where = f"{trail.host(router.host or '')}: NAT of {trail.router(router)}"
    intent = f"{floating.address} stands for {floating.fixed_address}"
    wrong = anything(
        element("kn_nat fip", has=[floating.address]),
        chain("kn_nat pre"),
        link(PUBLIC_DEVICE, address=floating.address),
    )
    trail.check("floating IP", where, intent, _see(trail, router), _of(router, wrong), owners=[router.id, ""])


def source_nat_hop(trail: Trail, crossing: Crossing, floating: Floating | None) -> str:
    """What the world sees as the source."""
    router, external = crossing.router, crossing.router.external
    where = f"{trail.host(router.host or '')}: NAT of {trail.router(router)}"
    own = next((item.address for item in external.addresses), "") if external else ""
    if ":" in crossing.source:
        trail.note("source NAT", where, "IPv6 is not translated")
        return crossing.source
    if floating is not None:
        wrong = anything(element("kn_nat fip_rev", has=[crossing.source]), chain("kn_nat post"))
        intent = f"{crossing.source} leaves as its floating IP {floating.address}"
        trail.check("source NAT", where, intent, _see(trail, router), _of(router, wrong), owners=[router.id, ""])
        return floating.address
    if crossing.leg is None:
        return crossing.source
    if not router.enable_snat:
        why = f"source NAT is off: who is outside must have a route to {crossing.source} by {own}"
        command = f"openstack router set --enable-snat --external-gateway NETWORK {router.id}"
        trail.note("source NAT", where, "off", "unknown", why=why, command=command)
        return crossing.source
    wrong = anything(element("kn_nat inside"), chain("kn_nat post", "kn_nat snat_default"))
    intent = f"{crossing.source} leaves as {own}"
    trail.check("source NAT", where, intent, _see(trail, router), _of(router, wrong), owners=[router.id, ""])
    return own


def hairpin_hop(trail: Trail, crossing: Crossing, floating: Floating | None) -> str:
    """A guest reached a floating IP of its own router: the answer must come back by it."""
    router, external = crossing.router, crossing.router.external
    own = next((item.address for item in external.addresses), "") if external else ""
    seen = floating.address if floating else own
    where = f"{trail.host(router.host or '')}: NAT of {trail.router(router)}"
    parts = [element("kn_nat fip_rev", has=[crossing.source])] if floating else [element("kn_nat inside")]
    wrong = anything(*parts, chain("kn_nat post", "kn_nat snat_hairpin"))
    intent = f"{crossing.source} is seen as {seen}"
    trail.check("source NAT", where, intent, _see(trail, router), _of(router, wrong), owners=[router.id, ""])
    return seen or crossing.source


def itself_hop(trail: Trail, router: Router, address: str) -> None:
    """The router's own addresses answer pings and nothing else."""
    where = f"{trail.host(router.host or '')}: {trail.router(router)}"
    if trail.traffic.number not in (ICMP, ICMPV6):
        why = f"{address} is the router itself, which answers nothing but ICMP"
        trail.end("router", where, "ICMP only", why)
        return
    wrong = _of(router, chain("kn_rt received"))
    trail.check("router itself", where, f"{address} answers pings", _see(trail, router), wrong)


# ------------------------------------------------------------------------------------------------ other ends
def outside_hop(trail: Trail, network: Network, host: str) -> None:
    """The way between the public bridge and the world."""
    gateway = next((item.gateway_ip for item in trail.snapshot.subnets_of(network.id) if item.gateway_ip), None)
    where = f"{trail.host(host)}: {network.name or 'public'}, gateway {gateway or 'none'}"
    sight = trail.hosts.see(host, networks=[network.id], routers=())
    wrong = anything(
        namespace("outside"),
        lambda item: item.fragment == "outside" and link(OUTSIDE_END, address=gateway or "")(item),
        link(OUTSIDE_DEVICE),
        element("kn_l2 trusted", has=[OUTSIDE_DEVICE]),
        lambda item: item.kind == "link" and item.fragment.startswith("uplink "),
        lambda item: item.fragment.startswith("bridge ") and link(network.bridge)(item),
    )
    trail.check("outside gateway", where, "the public bridge leads there", sight, wrong)


def service_hop(trail: Trail, network: Network, host: str) -> None:
    """DHCP, DNS and metadata of a network."""
    where = f"{trail.host(host)}: services of {trail.network(network)}"
    sight = trail.hosts.see(host, networks=[network.id])
    end = f"svc{network.id[:SHORT_ID]}"
    fragment = f"service {network.id}"
    if sight.told is not None and sight.told.silenced:
        _silenced(trail, "service", where, "DHCP, DNS, metadata", sight)
        return
    wrong = anything(
        namespace(fragment),
        lambda item: item.fragment == fragment and item.kind in ("link", "route") and item.name in (SERVICE_DEVICE, ""),
        link(end),
        element("kn_l2 trusted", has=[end]),
    )
    trail.check("service", where, "DHCP, DNS, metadata", sight, wrong, planned=[fragment], owners=[network.id, ""])


def vpn_hop(trail: Trail, router: Router, port: Port) -> None:
    where = f"{trail.host(router.host or '')}: VPN of {trail.router(router)}"
    sight = _see(trail, router)
    wrong = _of(router, lambda item: item.fragment.startswith("vpn "))
    trail.check("VPN", where, f"{trail.port(port)} is a client of it", sight, wrong, owners=[router.id])
    why = "whether the client is connected, only the VPN knows: `kilonova vpn list`"
    trail.note("VPN client", where, trail.port(port), "unknown", why=why, decides=False)
