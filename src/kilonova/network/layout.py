"""The wanted or found state of one network namespace as plain data, and the difference of two of them. Pure.

A `Layout` names links, addresses, routes and what the cloud's nft tables hold. `difference` says what turns one into
the other; only what differs is touched. Keys of nft elements are their canonical text.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, NamedTuple

Kind = Literal["bridge", "tap", "veth", "vlan", "vxlan", "wireguard", "given bridge", "other"]
"""`other` and `given bridge` are the machine's or the administrator's: never made, never removed."""
GIVEN: frozenset[Kind] = frozenset({"other", "given bridge"})


class Peer(NamedTuple):
    """The other end of a veth pair; no namespace: the same one."""

    namespace: str
    device: str
    mac: str = ""


class VlanTag(NamedTuple):
    trunk: str
    vid: int


class Tunnel(NamedTuple):
    vni: int
    local: str
    """This host's address on the underlay."""


class Forward(NamedTuple):
    """An entry of a VXLAN device's forwarding table: frames to a MAC, or with `FLOOD` to all, go to another host."""

    device: str
    mac: str
    destination: str


FLOOD = "00:00:00:00:00:00"


class Route(NamedTuple):
    """`destination` is a CIDR; without a next hop it is on the device itself."""

    destination: str
    next_hop: str
    device: str


class Proxy(NamedTuple):
    """A device answers for an address that is elsewhere (ip-neighbour(8), proxy)."""

    device: str
    address: str


@dataclass(frozen=True)
class Link:
    """A link by name. What only its making needs (peer, tag) is not compared.

    Kind `other` is a NIC of the machine: only that it is up, its master and that it has `addresses` are this cloud's
    to say. Of a `given bridge` it is only that it is up and filtered.
    """

    kind: Kind
    mtu: int
    owner: str = ""
    """The network, router or port it is for; the kernel keeps it as the link's alias, which marks it as ours."""
    up: bool = True
    mac: str = ""
    """Empty: as the kernel chose."""
    master: str = ""
    addresses: frozenset[str] = frozenset()
    """With prefix length, of global scope."""
    filtered: bool = False
    """A bridge whose packets pass the host's stateful filter."""
    intact: bool = True
    """False: a VLAN device that something between it and its trunk is missing of."""
    tunnel: Tunnel | None = None
    peer: Peer | None = field(default=None, compare=False)
    tag: VlanTag | None = field(default=None, compare=False)


MAP_MARK = ":"
"""In a declaration: it is a map."""


class SetKey(NamedTuple):
    family: str
    table: str
    name: str


class ElementKey(NamedTuple):
    set: SetKey
    key: str


@lru_cache(maxsize=16384)
def rule_digest(rule: str) -> str:
    """What marks a rule in the kernel (its comment), so that a found rule is known without comparing expressions."""
    return "k" + hashlib.sha256(rule.encode()).hexdigest()[:12]


_PRIORITIES = {"raw": "-300", "dstnat": "-100", "filter": "0", "srcnat": "100"}
"""Of the families ip, ip6 and inet (nft(8))."""
_HOOK = re.compile(r"type (\w+) hook (\w+) priority (-?\w+); policy (\w+);")


class Base(NamedTuple):
    """Where a chain is hooked in, as the kernel lists it, and what becomes of packets that no rule decides about."""

    place: str = ""
    policy: str = ""

    @staticmethod
    def of(hook: str) -> Base:
        match = _HOOK.fullmatch(hook)
        if match is None:
            return Base()
        kind, place, priority, policy = match.groups()
        return Base(f"{kind} {place} {_PRIORITIES.get(priority, priority)}", policy)


NO_BASE = Base()


@dataclass(frozen=True)
class Chain:
    """An nft chain; equal when its rules' digests are, in order, and its hook is."""

    digests: tuple[str, ...]
    hook: str = field(default="", compare=False)
    """The declaration of a base chain; of a found one only `base` is known."""
    rules: tuple[str, ...] = field(default=(), compare=False)
    base: Base = NO_BASE

    @staticmethod
    def of(*rules: str, hook: str = "") -> Chain:
        return Chain(tuple(rule_digest(rule) for rule in rules), hook, rules, Base.of(hook))


@dataclass(frozen=True)
class Layout:
    links: Mapping[str, Link] = field(default_factory=dict)
    routes: frozenset[Route] = frozenset()
    sets: Mapping[SetKey, str] = field(default_factory=dict)
    """Set or map -> its declaration; of a found one only its `MAP_MARK`, or nothing."""
    chains: Mapping[SetKey, Chain] = field(default_factory=dict)
    elements: Mapping[ElementKey, str] = field(default_factory=dict)
    """Element -> value of a map, or nothing."""
    forwarding: frozenset[Forward] = frozenset()
    proxies: frozenset[Proxy] = frozenset()

    def renamed(self, wanted: Layout) -> dict[str, str]:
        """Found links that somebody gave another name: present name -> wanted one. Only where there is no doubt."""
        lost: dict[tuple[Kind, str], list[str]] = {}
        for name, link in wanted.links.items():
            if name not in self.links and link.owner:
                lost.setdefault((link.kind, link.owner), []).append(name)
        strange: dict[tuple[Kind, str], list[str]] = {}
        for name, link in self.links.items():
            if name not in wanted.links and (link.kind, link.owner) in lost:
                strange.setdefault((link.kind, link.owner), []).append(name)
        return {names[0]: lost[key][0] for key, names in strange.items() if len(names) == len(lost[key]) == 1}


def merge(layouts: Iterable[Layout]) -> Layout:
    """All of them in one; they must not name the same thing differently."""
    links: dict[str, Link] = {}
    routes: set[Route] = set()
    sets: dict[SetKey, str] = {}
    chains: dict[SetKey, Chain] = {}
    elements: dict[ElementKey, str] = {}
    forwarding: set[Forward] = set()
    proxies: set[Proxy] = set()
    for layout in layouts:
        links.update(layout.links)
        routes.update(layout.routes)
        sets.update(layout.sets)
        chains.update(layout.chains)
        elements.update(layout.elements)
        forwarding.update(layout.forwarding)
        proxies.update(layout.proxies)
    return Layout(links, frozenset(routes), sets, chains, elements, frozenset(forwarding), frozenset(proxies))


@dataclass(frozen=True)
class LinkChange:
    """An existing link becomes another one; `before` tells what need not be said again."""

    name: str
    before: Link
    after: Link


@dataclass(frozen=True)
class Changes:
    """What to do, in the order of the fields."""

    removed_links: tuple[str, ...] = ()
    added_links: tuple[tuple[str, Link], ...] = ()
    changed_links: tuple[LinkChange, ...] = ()
    removed_routes: tuple[Route, ...] = ()
    added_routes: tuple[Route, ...] = ()
    removed_forwarding: tuple[Forward, ...] = ()
    added_forwarding: tuple[Forward, ...] = ()
    removed_proxies: tuple[Proxy, ...] = ()
    added_proxies: tuple[Proxy, ...] = ()
    added_sets: tuple[tuple[SetKey, str], ...] = ()
    added_chains: tuple[tuple[SetKey, Chain], ...] = ()
    changed_chains: tuple[tuple[SetKey, Chain, Chain], ...] = ()
    """Key, as found, as wanted."""
    removed_elements: tuple[tuple[ElementKey, str], ...] = ()
    """With the value that goes; an element whose value changes is here and in `added_elements`."""
    added_elements: tuple[tuple[ElementKey, str], ...] = ()
    removed_chains: tuple[SetKey, ...] = ()
    removed_sets: tuple[tuple[SetKey, str], ...] = ()

    def __bool__(self) -> bool:
        return self != NOTHING

    def __str__(self) -> str:
        words = [f"-{name}" for name in self.removed_links] + [f"+{name}" for name, _ in self.added_links]
        words += [f"~{change.name}" for change in self.changed_links]
        words += [f"{name} {len(value)}" for name, value in vars(self).items() if value and "links" not in name]
        return ", ".join(words) or "nothing"


NOTHING = Changes()


def difference(found: Layout, wanted: Layout) -> Changes:
    """What turns `found` into `wanted`. `difference(x, x)` is nothing."""
    removed_links, added_links, changed_links = _link_changes(found.links, wanted.links)
    removed_elements, added_elements = _element_changes(found.elements, wanted.elements)
    gone_sets = sorted(found.sets.keys() - wanted.sets.keys())
    if gone_sets:
        removed_elements = [item for item in removed_elements if item[0].set not in gone_sets]
    return Changes(
        removed_links=tuple(removed_links),
        added_links=tuple(added_links),
        changed_links=tuple(changed_links),
        removed_routes=tuple(sorted(found.routes - wanted.routes)),
        added_routes=tuple(sorted(wanted.routes - found.routes)),
        removed_forwarding=tuple(sorted(found.forwarding - wanted.forwarding)),
        added_forwarding=tuple(sorted(_forwarding_to_add(found, wanted, removed_links))),
        removed_proxies=tuple(sorted(found.proxies - wanted.proxies)),
        added_proxies=tuple(sorted(wanted.proxies - found.proxies)),
        added_sets=tuple((key, wanted.sets[key]) for key in sorted(wanted.sets.keys() - found.sets.keys())),
        added_chains=tuple((key, wanted.chains[key]) for key in sorted(wanted.chains.keys() - found.chains.keys())),
        changed_chains=tuple(
            (key, found.chains[key], chain)
            for key, chain in wanted.chains.items()
            if key in found.chains and found.chains[key] != chain
        ),
        removed_elements=tuple(removed_elements),
        added_elements=tuple(added_elements),
        removed_chains=tuple(sorted(found.chains.keys() - wanted.chains.keys())),
        removed_sets=tuple((key, found.sets[key]) for key in gone_sets),
    )


def _forwarding_to_add(found: Layout, wanted: Layout, removed_links: Collection[str]) -> Iterable[Forward]:
    """What goes with a link that is made anew has to be said again."""
    return (item for item in wanted.forwarding if item not in found.forwarding or item.device in removed_links)


def without_device(changes: Changes, device: str) -> Changes:
    """The changes but for a device that could not be made, and the routes through it."""
    return replace(
        changes,
        added_links=tuple(item for item in changes.added_links if item[0] != device),
        changed_links=tuple(item for item in changes.changed_links if item.name != device),
        added_routes=tuple(route for route in changes.added_routes if route.device != device),
    )


def _link_changes(
    found: Mapping[str, Link], wanted: Mapping[str, Link]
) -> tuple[list[str], list[tuple[str, Link]], list[LinkChange]]:
    removed = [name for name, link in found.items() if name not in wanted and link.kind not in GIVEN]
    added: list[tuple[str, Link]] = []
    changed: list[LinkChange] = []
    for name, link in wanted.items():
        there = found.get(name)
        if there is None:
            added.append((name, link))
        elif there is link:
            continue
        elif link.kind in GIVEN:
            after = _given(there, link)
            if there != after:
                changed.append(LinkChange(name, there, after))
        elif there.kind != link.kind or there.tunnel != link.tunnel:
            removed.append(name)
            added.append((name, link))
        elif there != (link if link.mac else replace(link, mac=there.mac)):
            changed.append(LinkChange(name, there, link))
    # A VLAN device comes up on a trunk that is up.
    order = {"other": 0, "given bridge": 0, "bridge": 0, "vlan": 1, "vxlan": 1}
    added.sort(key=lambda item: order.get(item[1].kind, 2))
    changed.sort(key=lambda change: order.get(change.after.kind, 2))
    return removed, added, changed


def _given(there: Link, wanted: Link) -> Link:
    """What is not ours stays as it is, but for what we need of it."""
    if wanted.kind == "given bridge":
        return replace(there, up=wanted.up, filtered=wanted.filtered)
    return replace(there, up=wanted.up, master=wanted.master, addresses=there.addresses | wanted.addresses)


def _element_changes(
    found: Mapping[ElementKey, str], wanted: Mapping[ElementKey, str]
) -> tuple[list[tuple[ElementKey, str]], list[tuple[ElementKey, str]]]:
    removed = [(key, value) for key, value in found.items() if wanted.get(key) != value]
    added = [(key, value) for key, value in wanted.items() if found.get(key) != value]
    return removed, added


def nft_commands(changes: Changes) -> str:
    """One transaction for libnftables that does the nft part of `changes`; empty: nothing to do."""
    lines: list[str] = []
    tables = {key[:2] for key, _ in changes.added_sets} | {key[:2] for key, _ in changes.added_chains}
    lines += [f"add table {family} {table}" for family, table in sorted(tables)]
    for key, declaration in changes.added_sets:
        lines.append(f"add {_set_or_map(declaration)} {' '.join(key)} {{ {declaration} }}")
    for key, chain in changes.added_chains:
        lines.append(f"add chain {' '.join(key)}" + (f" {{ {chain.hook} }}" if chain.hook else ""))
    for key, before, after in changes.changed_chains:
        lines.append(f"flush chain {' '.join(key)}")
        if before.base.place != after.base.place:
            lines.append(f"delete chain {' '.join(key)}")
        if before.base != after.base:
            lines.append(f"add chain {' '.join(key)}" + (f" {{ {after.hook} }}" if after.hook else ""))
    lines += [f"flush chain {' '.join(key)}" for key in changes.removed_chains]
    lines += _element_lines("delete", changes.removed_elements)
    lines += _element_lines("add", changes.added_elements)
    for key, chain in [*changes.added_chains, *((key, after) for key, _, after in changes.changed_chains)]:
        for rule, digest in zip(chain.rules, chain.digests, strict=True):
            lines.append(f'add rule {" ".join(key)} {rule} comment "{digest}"')
    lines += [f"delete chain {' '.join(key)}" for key in changes.removed_chains]
    lines += [f"delete {_set_or_map(mark)} {' '.join(key)}" for key, mark in changes.removed_sets]
    return "\n".join(lines) + "\n" if lines else ""


def _set_or_map(declaration: str) -> str:
    return "map" if MAP_MARK in declaration else "set"


def _element_lines(verb: str, elements: Iterable[tuple[ElementKey, str]]) -> list[str]:
    by_set: dict[SetKey, list[str]] = {}
    for (key, text), value in elements:
        by_set.setdefault(key, []).append(f"{text} : {value}" if value and verb == "add" else text)
    return [f"{verb} element {' '.join(key)} {{ {', '.join(texts)} }}" for key, texts in by_set.items()]
