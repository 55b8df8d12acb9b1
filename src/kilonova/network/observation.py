"""What a host tells about a few objects: where its kernel differs from its plan, and facts that no plan holds. Pure.

`concerned` picks the fragments of a plan that are about some ports, networks and routers; `deviations` compares them
with what was found, piece by piece, so that a reader can tell which packet a difference hits. Reading the kernel is
`kilonova.network.host.observe`'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from kilonova.network.fragments import Fragment
from kilonova.network.group_rules import combination_name
from kilonova.network.layout import GIVEN, Chain, Layout, LinkChange, SetKey, difference, merge
from kilonova.network.plan import HostPlan


class RouteQuestion(Struct, frozen=True):
    """Where does a router send a packet that came in by one of its legs (a port's id)?"""

    router_id: str
    source: str
    destination: str
    leg: str = ""


class Concern(Struct, frozen=True):
    """The objects that a host is asked about."""

    ports: tuple[str, ...] = ()
    routers: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    """Of guests: their leases and neighbour entries are told."""
    routes: tuple[RouteQuestion, ...] = ()


class Deviation(Struct, frozen=True):
    """One thing in the kernel that is not as planned."""

    fragment: str
    """Which part of the plan wants it, such as "port ID" or "router ID"."""
    owner: str
    namespace: str
    kind: str
    """namespace | link | route | set | chain | element | sysctl | file | process, or another one of a later layout."""
    name: str
    """The device, route or sysctl; of a set or chain its table and name."""
    key: str = ""
    """Of an element its key, of a link the fields that differ."""
    wanted: str = ""
    """Empty: nobody planned it."""
    found: str = ""
    """Empty: it is missing."""

    def __str__(self) -> str:
        thing = f"{self.kind} {self.name}" + (f" {self.key}" if self.key and self.kind != "link" else "")
        if not self.found:
            return f"{thing} is missing in {self.namespace}"
        if not self.wanted:
            return f"{thing} in {self.namespace} was planned by nobody"
        return f"{thing} in {self.namespace} is {self.found}, not {self.wanted}"


class PortFacts(Struct, frozen=True):
    device: str
    carrier: bool
    """Somebody is at the other end: the guest has its device open."""


class ServiceFacts(Struct, frozen=True):
    """A network's DHCP server."""

    running: bool
    leases: dict[str, str]
    """Address -> MAC, of the addresses asked about."""
    entries: tuple[str, ...]
    """The addresses asked about that it may give."""


class Neighbour(Struct, frozen=True):
    """What a router or a network's service (`owner`) knows of the MAC of an address."""

    owner: str
    address: str
    mac: str
    state: str
    """As `ip neigh` says it: REACHABLE, STALE, FAILED, ..."""


class RouteAnswer(Struct, frozen=True):
    router_id: str
    source: str
    destination: str
    device: str = ""
    next_hop: str = ""
    error: str = ""


class Observation(Struct, frozen=True):
    """What one host answers to a `Concern`."""

    host: str
    planned: tuple[str, ...] = ()
    """The fragments of its plan that are concerned."""
    deviations: tuple[Deviation, ...] = ()
    failures: dict[str, str] = {}
    """Owner -> why the last pass could not realise it."""
    ports: dict[str, PortFacts] = {}
    services: dict[str, ServiceFacts] = {}
    neighbours: tuple[Neighbour, ...] = ()
    routes: tuple[RouteAnswer, ...] = ()
    foreign_tables: dict[str, tuple[str, ...]] = {}
    """Namespace -> nft tables that are none of this cloud's."""
    wires: dict[str, tuple[str, ...]] = {}
    """Network -> the devices that join its bridge with other hosts, the NICs below them among them."""
    carriers: dict[str, bool] = {}
    """Such a device -> is there a live cable in it?"""
    silenced: bool = False
    """The host's lease has run out: its routers and services are cut off, so that another host's can answer."""
    simulated: bool = False


class Leak(Struct, frozen=True):
    """Something with the cloud's own mark that belongs to nothing."""

    kind: str
    """namespace | process | file | guest | address | port | pool network | operation"""
    name: str
    why: str
    mend: str
    """What removes it, in words; empty: nothing does by itself."""


class Audit(Struct, frozen=True):
    """Everything on one host that is not as planned."""

    host: str
    drift: tuple[Deviation, ...] = ()
    leaks: tuple[Leak, ...] = ()
    failures: dict[str, str] = {}


def concerned(plan: HostPlan, wanted: Mapping[str, Fragment], concern: Concern) -> dict[str, Fragment]:
    """The fragments about the objects, and those that every packet of the host depends on."""
    owners = {*concern.ports, *concern.routers, *concern.networks}
    keys = {"rules", "outside", "outside port"}
    keys |= {key for key in wanted if key.startswith("uplink ")}
    for port_id in concern.ports:
        port = plan.ports.get(port_id)
        if port is None:
            continue
        keys.add(f"bridge {port.bridge}")
        for item in port.filters:
            owners |= set(item.groups)
            keys.add(f"groups {combination_name(item.groups)}")
    for vpn in plan.vpns.values():
        if vpn.router_id in concern.routers:
            keys.add(f"vpn filters {vpn.vpn_id}")
            for groups in (client.groups for client in vpn.clients if client.groups is not None):
                owners |= set(groups)
                keys.add(f"groups {combination_name(groups)}")
    for router_id in concern.routers:
        router = plan.routers.get(router_id)
        if router is not None:
            legs = [*router.interfaces, *([router.external] if router.external else [])]
            keys |= {f"bridge {leg.bridge}" for leg in legs}
    return {key: item for key, item in wanted.items() if key in keys or (item.owner and item.owner in owners)}


def wires(wanted: Mapping[str, Fragment], networks: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The devices of the plan that lead from these networks' bridges to other hosts, the NICs below them too."""
    found: dict[str, set[str]] = {network_id: set() for network_id in networks}
    uplinks = [item.layout.links for key, item in wanted.items() if key.startswith("uplink ")]
    underlays = {name for links in uplinks for name, link in links.items() if link.addresses}
    for key, item in wanted.items():
        if item.owner not in found:
            continue
        if key.startswith("uplinks of "):
            found[item.owner] |= {element.key.strip('"') for element in item.layout.elements}
        elif key.startswith(("bridge ", "tunnel ")):
            for name, link in item.layout.links.items():
                if link.kind == "vlan":
                    found[item.owner] |= {name, *([link.tag.trunk] if link.tag else [])}
                elif link.kind == "vxlan":
                    found[item.owner] |= {name, *underlays}
    return {network_id: tuple(sorted(devices)) for network_id, devices in found.items()}


def deviations(concern: Mapping[str, Fragment], found: Mapping[str, Layout]) -> Iterator[Deviation]:
    """Where `found` (by namespace; none: there is no such namespace) is not as the concerned fragments say."""
    for key, item in concern.items():
        there = found.get(item.namespace)
        if there is None:
            yield Deviation(key, item.owner, item.namespace, "namespace", item.namespace, wanted="there")
            continue
        yield from _differences(key, item, difference(_only(there, item.layout), item.layout))


def drift(wanted: Mapping[str, Fragment], found: Mapping[str, Layout]) -> Iterator[Deviation]:
    """Every difference of a host, what nobody planned included. `found` holds only what is this cloud's."""
    by_namespace: dict[str, list[Layout]] = {}
    for item in wanted.values():
        by_namespace.setdefault(item.namespace, []).append(item.layout)
    yield from deviations(wanted, found)
    for namespace, layouts in by_namespace.items():
        there, planned = found.get(namespace), merge(layouts)
        if there is None:
            continue
        ours = {name for name, link in there.links.items() if link.kind not in GIVEN}
        for name in sorted(ours - planned.links.keys()):
            yield Deviation("", there.links[name].owner, namespace, "link", name, found=there.links[name].kind)
        for set_key, text in sorted(there.elements.keys() - planned.elements.keys()):
            yield Deviation("", "", namespace, "element", _nft(set_key), text, found="there")
        for chain in sorted(there.chains.keys() - planned.chains.keys()):
            yield Deviation("", "", namespace, "chain", _nft(chain), found="there")
        for entry in sorted(there.forwarding - planned.forwarding):
            yield Deviation("", "", namespace, "forwarding", str(entry), found="there")
        for name_key in sorted(there.sets.keys() - planned.sets.keys()):
            yield Deviation("", "", namespace, "set", _nft(name_key), found="there")


def _only(found: Layout, wanted: Layout) -> Layout:
    """`found` without what `wanted` does not name."""
    parts: dict[str, Any] = {}
    for part in dataclasses.fields(Layout):
        there, here = getattr(found, part.name), getattr(wanted, part.name)
        if isinstance(here, Mapping):
            parts[part.name] = {key: value for key, value in there.items() if key in here}
        elif isinstance(here, frozenset):
            parts[part.name] = there & here
        else:
            parts[part.name] = there
    return Layout(**parts)


def _differences(key: str, item: Fragment, changes: object) -> Iterator[Deviation]:
    def deviation(kind: str, name: str, part: str = "", wanted: str = "", found: str = "") -> Deviation:
        return Deviation(key, item.owner, item.namespace, kind, name, part, wanted, found)

    values: dict[str, tuple[Any, ...]] = dict(vars(changes))
    for name, link in values.pop("added_links", ()):
        yield deviation("link", name, wanted=link.kind)
    values.pop("removed_links", ())
    for change in values.pop("changed_links", ()):
        yield deviation("link", change.name, *_link_words(change))
    for route in values.pop("added_routes", ()):
        words = f"{route.destination} via {route.next_hop} dev {route.device}"
        yield deviation("route", route.destination, wanted=words)
    for set_key, _ in values.pop("added_sets", ()):
        yield deviation("set", _nft(set_key), wanted="there")
    for chain_key, chain in values.pop("added_chains", ()):
        yield deviation("chain", _nft(chain_key), wanted=_rules(chain.rules))
    for chain_key, there, chain in values.pop("changed_chains", ()):
        yield deviation("chain", _nft(chain_key), *_chain_words(there, chain))
    gone = dict(values.pop("removed_elements", ()))
    for element, value in values.pop("added_elements", ()):
        yield deviation("element", _nft(element.set), element.key, value or "there", gone.get(element, ""))
    for part, items in values.items():  # what later layouts hold besides
        for thing in items if isinstance(items, Iterable) else ():
            verb, _, kind = part.partition("_")
            if verb in ("added", "changed"):
                yield deviation(kind.removesuffix("s"), str(thing), wanted="there")


def _link_words(change: LinkChange) -> tuple[str, str, str]:
    """The fields that differ, how they should be, how they are."""
    fields = [
        name
        for name in (field.name for field in dataclasses.fields(change.after) if field.compare)
        if getattr(change.before, name) != getattr(change.after, name)
        and not (name == "mac" and not change.after.mac)
        and not (name == "mtu" and change.after.kind in GIVEN)
    ]
    return (
        ",".join(fields),
        ", ".join(_field(name, getattr(change.after, name), getattr(change.before, name)) for name in fields),
        ", ".join(_field(name, getattr(change.before, name), getattr(change.after, name)) for name in fields),
    )


def _field(name: str, value: object, other: object) -> str:
    """One side's value; of a set of addresses those that the other side has not."""
    if name == "up":
        return "up" if value else "down"
    if name == "master":
        return f"on {value}" if value else "on no bridge"
    if isinstance(value, frozenset) and isinstance(other, frozenset):
        more = sorted(map(str, value - other))
        return f"with {', '.join(more)}" if more else f"without {', '.join(sorted(map(str, other - value)))}"
    return f"{name} {value}"


def _nft(key: SetKey) -> str:
    return f"{key.table} {key.name}"


def _chain_words(there: Chain, wanted: Chain) -> tuple[str, str, str]:
    """Whether rules are missing, foreign or in another order; the missing ones; how many there are."""
    missing = [rule for rule, digest in zip(wanted.rules, wanted.digests, strict=True) if digest not in there.digests]
    foreign = sum(digest not in wanted.digests for digest in there.digests)
    policy = there.base.policy != wanted.base.policy and there.base.policy == "drop"
    said = (("missing", missing), ("foreign", foreign), ("policy", policy))
    words = [word for word, is_so in said if is_so] or ["order"]
    told = f"{len(there.digests)} rules" + (f", {foreign} of them planned by nobody" if foreign else "")
    told += f", {there.base.place} policy {there.base.policy}" if there.base != wanted.base else ""
    return ",".join(words), _rules(missing) if missing else f"{len(wanted.digests)} rules", told


def _rules(rules: Iterable[str]) -> str:
    return "\n".join(rules) or "no rule"
