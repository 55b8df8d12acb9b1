"""Looks at a host for `kilonova explain` and `kilonova doctor`: reads only, in threads and sockets of its own.

What the plan wants is compared by `kilonova.network.observation`; here is what the kernel and dnsmasq are asked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from kilonova.errors import CommandFailed, KilonovaError
from kilonova.network.fragments import Fragment, Names, fragments, given_uplinks, inside_device
from kilonova.network.host import namespaces, routes
from kilonova.network.host.dnsmasq import Dnsmasq
from kilonova.network.host.inspect import Survey, relevant, survey, without_peoples_routes
from kilonova.network.host.links import Links
from kilonova.network.host.processes import DAEMONS, end
from kilonova.network.host.radvd import Radvd
from kilonova.network.host.sysctls import SWITCH, sysctls_of
from kilonova.network.host.wireguard import PROGRAM
from kilonova.network.layout import Layout, merge
from kilonova.network.observation import (
    Audit,
    Concern,
    Deviation,
    Leak,
    Neighbour,
    Observation,
    PortFacts,
    RouteAnswer,
    RouteQuestion,
    ServiceFacts,
    concerned,
    deviations,
    drift,
    wires,
)
from kilonova.network.plan import HostPlan, RouterPlan, ServicePlan
from kilonova.network.radvd_files import radvd_files
from kilonova.network.rules import LEASE, PREFIX, PUBLIC_DEVICE
from kilonova.process import run


def observe(plan: HostPlan, concern: Concern, names: Names, state_dir: Path) -> Observation:
    """What is there of the concerned objects; `state_dir` holds the daemons' files. Blocks.

    Whose host it is, the caller says.
    """
    directory = state_dir / "network"
    wanted = _wanted(plan, names)
    mine = concerned(plan, wanted, concern)
    surveyed = _survey(mine, wanted, names)
    found = {name: item.layout for name, item in surveyed.items()}
    lines = wires(wanted, concern.networks)
    neighbours: list[Neighbour] = []
    for owner, namespace in _speakers(plan, concern, names):
        if namespace in found:
            neighbours += _neighbours(owner, namespace, concern.addresses)
    return Observation(
        host="",
        planned=tuple(sorted(mine)),
        deviations=(*deviations(mine, found), *_sysctls(mine, found), *_strange_routes(mine, wanted, surveyed)),
        ports={port_id: facts for port_id in concern.ports if (facts := _port(plan, port_id, names)) is not None},
        services={
            network_id: _service(plan.services[network_id], directory, concern.addresses)
            for network_id in concern.networks
            if network_id in plan.services
        },
        neighbours=tuple(neighbours),
        routes=tuple(_route(plan, question, names) for question in concern.routes),
        wires=lines,
        carriers={device: _has_carrier(names.switch, device) for devices in lines.values() for device in devices},
        silenced=plan.guarded and names.switch in found and _is_silenced(names.switch),
        foreign_tables={name: tables for name in sorted(found) if (tables := _foreign_tables(name))},
    )


def audit(plan: HostPlan, names: Names, state_dir: Path) -> Audit:
    """Everything of this host's network that is not as planned, and what is left of things that are gone. Blocks."""
    wanted = _wanted(plan, names)
    surveyed = _survey(wanted, wanted, names)
    found = {name: item.layout for name, item in surveyed.items()}
    differences = [
        *drift(wanted, found),
        *_sysctls(wanted, found),
        *_strange_routes(wanted, wanted, surveyed),
        *_dnsmasq_drift(plan, names, state_dir / "network"),
        *_radvd_drift(plan, names, state_dir / "routers"),
    ]
    return Audit("", tuple(dict.fromkeys(differences)), tuple(_leaks(plan, wanted, names, state_dir)))


def _wanted(plan: HostPlan, names: Names) -> dict[str, Fragment]:
    """The plan as fragments, with what the administrator has on his bridges."""
    bridges = [bridge.name for bridge in plan.bridges.values() if bridge.given]
    given = {bridge: _foreign_ports(names.switch, bridge) for bridge in bridges}
    return fragments(plan, names) | given_uplinks(plan, given, names.switch)


# ------------------------------------------------------------------------------------------------ the kernel
def _survey(mine: Mapping[str, Fragment], wanted: Mapping[str, Fragment], names: Names) -> dict[str, Survey]:
    """Of the namespaces that are there."""
    found: dict[str, Survey] = {}
    for name in sorted({item.namespace for item in mine.values()}):
        if namespaces.exists(name):
            there, layout = survey(name), _layout(wanted, name)
            if name == names.outside:
                there = without_peoples_routes(there, layout)
            found[name] = there._replace(layout=relevant(there.layout, layout, names.prefix))
    return found


def _layout(wanted: Mapping[str, Fragment], namespace: str) -> Layout:
    return merge(item.layout for item in wanted.values() if item.namespace == namespace)


def _strange_routes(
    mine: Mapping[str, Fragment], wanted: Mapping[str, Fragment], found: Mapping[str, Survey]
) -> Iterator[Deviation]:
    """Routes that somebody added, and the kernel's own that he took away; those of the switch are not the cloud's."""
    owners = {item.namespace: (key, item.owner) for key, item in mine.items()}
    for namespace, there in found.items():
        if sysctls_of(namespace) is SWITCH:
            continue
        key, owner = owners[namespace]
        strange = routes.drift(there.routes, there.layout, _layout(wanted, namespace))
        for record in strange.strays:
            name = record.route.destination
            yield Deviation(key, owner, namespace, "route", name, found=f"{record} dev {record.route.device}")
        for item in strange.lost:
            yield Deviation(key, owner, namespace, "route", item.destination, wanted=f"dev {item.device}")


def _sysctls(mine: Mapping[str, Fragment], found: Iterable[str]) -> Iterator[Deviation]:
    owners = {item.namespace: (key, item.owner) for key, item in mine.items()}
    for namespace in found:
        for name, (wanted, there) in namespaces.run_inside(namespace, _other_sysctls, namespace).items():
            key, owner = owners[namespace]
            yield Deviation(key, owner, namespace, "sysctl", name.replace("/", "."), wanted=wanted, found=there)


def _other_sysctls(namespace: str) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for name, wanted in sysctls_of(namespace).items():
        try:
            there = Path("/proc/sys", name).read_text().strip()
        except OSError:
            continue
        if there != wanted:
            found[name] = (wanted, there)
    return found


def _ip(namespace: str, *words: str) -> list[dict[str, object]]:
    """What `ip -j` lists. Raises `CommandFailed` with its words."""
    text = namespaces.run_inside(namespace, run, ["ip", "-j", *words], timeout_s=5.0)
    listed: list[dict[str, object]] = json.loads(text or "[]")
    return listed


def _port(plan: HostPlan, port_id: str, names: Names) -> PortFacts | None:
    port = plan.ports.get(port_id)
    if port is None:
        return None
    return PortFacts(port.device, _has_carrier(names.switch, port.device))


def _has_carrier(namespace: str, device: str) -> bool:
    try:
        listed = _ip(namespace, "link", "show", "dev", device)
    except KilonovaError:
        return False
    flags = listed[0].get("flags") if listed else ()
    return isinstance(flags, list) and "LOWER_UP" in flags


def _foreign_ports(switch: str, bridge: str) -> tuple[str, ...]:
    """What the administrator has on a bridge of his."""

    def look() -> tuple[str, ...]:
        with Links() as links:
            return links.foreign_ports(bridge)

    return namespaces.run_inside(switch, look) if namespaces.exists(switch) else ()


def _is_silenced(switch: str) -> bool:
    """Is the set that the heartbeats fill empty?"""
    try:
        text = namespaces.run_inside(switch, run, ["nft", "-j", "list", "set", *LEASE], timeout_s=5.0)
    except KilonovaError:
        return True
    return not any(item["set"].get("elem") for item in json.loads(text)["nftables"] if "set" in item)


def _speakers(plan: HostPlan, concern: Concern, names: Names) -> Iterator[tuple[str, str]]:
    """The routers and services that may have spoken with the guests, and their namespaces."""
    for router_id in concern.routers:
        if router_id in plan.routers:
            yield router_id, names.router(router_id)
    for network_id in concern.networks:
        if network_id in plan.services:
            yield network_id, names.service(network_id)


def _neighbours(owner: str, namespace: str, addresses: Iterable[str]) -> Iterator[Neighbour]:
    asked = set(addresses)
    try:
        entries = _ip(namespace, "neigh", "show")
    except KilonovaError:
        return
    for entry in entries:
        address, states = str(entry.get("dst", "")), entry.get("state")
        if address in asked:
            state = str(states[0]) if isinstance(states, list) and states else "NONE"
            yield Neighbour(owner, address, str(entry.get("lladdr", "")), state)


def _route(plan: HostPlan, question: RouteQuestion, names: Names) -> RouteAnswer:
    def answer(**words: str) -> RouteAnswer:
        return RouteAnswer(question.router_id, question.source, question.destination, **words)

    router, namespace = plan.routers.get(question.router_id), names.router(question.router_id)
    if router is None or not namespaces.exists(namespace):
        return answer(error="the router is not there")
    words = ["route", "get", question.destination]
    device = _leg_device(router, question.leg)
    if device:
        words += ["from", question.source, "iif", device]
    try:
        (first, *_) = _ip(namespace, *words)
    except (CommandFailed, ValueError) as error:
        return answer(error=str(error).rpartition(": ")[2].strip().removeprefix("RTNETLINK answers: "))
    if first.get("type") in ("blackhole", "unreachable", "prohibit"):
        return answer(error=str(first["type"]))
    local = "lo" if first.get("type") == "local" else ""
    return answer(device=local or str(first.get("dev", "")), next_hop=str(first.get("gateway", "")))


def _leg_device(router: RouterPlan, port_id: str) -> str:
    if router.external is not None and router.external.port_id == port_id:
        return PUBLIC_DEVICE
    return next((inside_device(leg) for leg in router.interfaces if leg.port_id == port_id), "")


def _foreign_tables(namespace: str) -> tuple[str, ...]:
    try:
        text = namespaces.run_inside(namespace, run, ["nft", "-j", "list", "tables"], timeout_s=5.0)
    except KilonovaError:
        return ()
    tables = [item["table"]["name"] for item in json.loads(text or "{}").get("nftables", []) if "table" in item]
    return tuple(sorted({name for name in tables if not name.startswith(PREFIX)}))


# ------------------------------------------------------------------------------------------------ dnsmasq
def _service(plan: ServicePlan, directory: Path, addresses: Iterable[str]) -> ServiceFacts:
    home = directory / plan.network_id
    leases = _leases(home / "leases")
    lines = list(_host_lines(home / "hosts").values())
    return ServiceFacts(
        running=Dnsmasq(directory).is_running(plan.network_id),
        leases={address: leases[address] for address in addresses if address in leases},
        entries=tuple(address for address in addresses if any(_names(line, address) for line in lines)),
    )


def _leases(file: Path) -> dict[str, str]:
    """Address -> MAC (of DHCPv6: the client's identity)."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return {}
    return {words[2]: words[1] for line in lines if len(words := line.split()) >= 4}


def _host_lines(hosts: Path) -> dict[str, str]:
    try:
        return {entry.name: entry.read_text() for entry in hosts.iterdir()}
    except OSError:
        return {}


def _names(line: str, address: str) -> bool:
    return any(word.strip().strip("[]") == address for word in line.split(","))


def _dnsmasq_drift(plan: HostPlan, names: Names, directory: Path) -> Iterator[Deviation]:
    dnsmasq = Dnsmasq(directory)
    for network_id, service in plan.services.items():
        key, namespace = f"service {network_id}", names.service(network_id)
        if not dnsmasq.is_running(network_id):
            yield Deviation(key, network_id, namespace, "process", "dnsmasq", wanted="running")
        if not dnsmasq.is_configured(service):
            yield _edited(key, network_id, namespace, "dnsmasq.conf")
        for path in dnsmasq.altered(service):
            yield _edited(key, network_id, namespace, path)


def _radvd_drift(plan: HostPlan, names: Names, directory: Path) -> Iterator[Deviation]:
    radvd = Radvd(directory)
    for router_id, router in plan.routers.items():
        fragment, namespace = f"router {router_id}", names.router(router_id)
        if not radvd.is_configured(router):
            yield _edited(fragment, router_id, namespace, "radvd.conf")
        if radvd_files(router) is not None and radvd.process(router_id) is None:
            yield Deviation(fragment, router_id, namespace, "process", "radvd", wanted="running")


def _edited(fragment: str, owner: str, namespace: str, file: str) -> Deviation:
    """A program's file that a hand changed."""
    return Deviation(fragment, owner, namespace, "file", file, owner, wanted="as planned", found="edited or missing")


# ------------------------------------------------------------------------------------------------ leaks
def _leaks(plan: HostPlan, wanted: Mapping[str, Fragment], names: Names, state_dir: Path) -> Iterator[Leak]:
    look = "the agent removes it when it looks again"
    kept = {item.namespace for item in wanted.values()}
    for name in namespaces.names(names.prefix):
        if names.owns(name) and name not in kept:
            yield Leak("namespace", name, "no router or network of this host has it", look)
    networks, routers = state_dir / "network", state_dir / "routers"
    for network_id in Dnsmasq(networks).networks():
        if network_id not in plan.services:
            yield Leak("file", str(networks / network_id), f"this host does not serve network {network_id}", look)
    for router_id in Radvd(routers).routers():
        if router_id not in plan.routers:
            yield Leak("file", str(routers / router_id), f"router {router_id} is not on this host", look)
    for process, words in _strangers(plan, names):
        yield Leak(
            "process", f"{process} ({words[0]})", "it serves no network, router or VPN of this host", "it is ended"
        )


def end_strangers(plan: HostPlan, names: Names) -> None:
    """End the daemons in this cloud's namespaces that serve nothing which this host has."""
    for process, _ in list(_strangers(plan, names)):
        end(process)


def _strangers(plan: HostPlan, names: Names) -> Iterator[tuple[int, list[str]]]:
    devices = {vpn.device for vpn in plan.vpns.values()}
    for process, words in _daemons(names):
        mine = [item for item in (*plan.services, *plan.routers) if any(f"/{item}/" in word for word in words)]
        if not mine and not devices & set(words):
            yield process, words


def _daemons(names: Names) -> Iterator[tuple[int, list[str]]]:
    """The daemons in the namespaces of this agent, and their command lines; those outside are people's."""
    mine = [name for name in namespaces.names(names.prefix) if names.owns(name) and name != names.outside]
    inside = {namespaces.identity(name) for name in mine if namespaces.exists(name)}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace").split("\0")
            there = os.stat(f"/proc/{entry}/ns/net").st_ino
        except OSError:
            continue
        if there in inside and words[0].rpartition("/")[2] in (*DAEMONS, PROGRAM):
            yield int(entry), [word for word in words if word]
