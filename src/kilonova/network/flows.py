"""Which established flows a change of the filters must cut, so that what is no longer allowed ends at once. Pure.

As little as possible is cut: a flow whose entry is gone is judged anew by its next packet, and when that comes from the
side that did not begin it, an allowed flow may stall. So a lost rule cuts only flows that began as the rule allows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from kilonova.network import rules
from kilonova.network.group_rules import chain_name
from kilonova.network.layout import Chain, Changes
from kilonova.network.plan import HostPlan, Member

MANY = 4
"""From so many addresses of one zone on, flows are cut whatever their address."""
_PROTOCOL = re.compile(r"meta l4proto (\d+)")
_PORT = re.compile(r"th dport (\d+)(?!\d*-)")
_SOURCES = frozenset({rules.EGRESS, rules.EGRESS6})
_TARGETS = frozenset({rules.INGRESS, rules.INGRESS6})


class Cut(NamedTuple):
    """Flows of a connection-tracking zone by how they began; what is empty or none is any."""

    zone: int
    version: int = 4
    source: str = ""
    target: str = ""
    protocol: int | None = None
    port: int | None = None


def cuts(plan: HostPlan, changes: Changes) -> set[Cut]:
    """Flows of addresses whose groups changed or went, of members that left a group, and those lost rules allowed."""
    return fewer(_cuts(plan, changes))


def not_resumed(plan: HostPlan, changes: Changes) -> set[Member]:
    """Addresses whose answers to flows now cut must not begin these flows anew. One that no port has sends nothing."""
    bridges = {bridge.zone: bridge.name for bridge in plan.bridges.values() if bridge.filtered}
    found = {
        Member(bridges[cut.zone], cut.target)
        for cut in _cuts(plan, changes)
        if cut.target and cut.version == 4 and cut.zone in bridges
    }
    return found and found & {
        Member(port.bridge, each.address) for port in plan.ports.values() for each in port.filters
    }


def _cuts(plan: HostPlan, changes: Changes) -> set[Cut]:
    zones = {bridge.name: bridge.zone for bridge in plan.bridges.values() if bridge.filtered}
    found: set[Cut] = set()
    for (key, text), value in changes.removed_elements:
        if key == rules.ZONES:
            found |= {Cut(int(value), 4), Cut(int(value), 6)}
            continue
        bridge, _, address = text.partition(" . ")
        zone = zones.get(bridge.strip('"'))
        if not zone:
            continue
        if key in _TARGETS:
            found.add(Cut(zone, _version(address), target=address))
        elif key in _SOURCES or (key[:2] == rules.ZONES[:2] and key.name.startswith("g_")):
            found.add(Cut(zone, _version(address), source=address))
    return found | set(_of_lost_rules(plan, zones, changes))


def cuts_of_address(zone: int, address: str) -> set[Cut]:
    """Every flow of an address."""
    version = _version(address)
    return {Cut(zone, version, source=address), Cut(zone, version, target=address)}


def fewer(wanted: Iterable[Cut]) -> set[Cut]:
    """The same cuts, those that differ only by address put together when they are many."""
    alike: dict[Cut, set[Cut]] = {}
    for cut in wanted:
        alike.setdefault(cut._replace(source="", target=""), set()).add(cut)
    found: set[Cut] = set()
    for general, cases in alike.items():
        found |= {general} if len(cases) > 2 * MANY or general in cases else cases
    return found


def _of_lost_rules(plan: HostPlan, zones: Mapping[str, int], changes: Changes) -> Iterator[Cut]:
    weaker = {
        key.name: (before, after)
        for key, before, after in changes.changed_chains
        if set(before.digests) - set(after.digests)
    }
    if not weaker:
        return
    for group in plan.groups:
        for direction in ("ingress", "egress"):
            if (chains := weaker.get(chain_name(group, direction))) is None:
                continue
            for port in plan.ports.values():
                zone = zones.get(port.bridge)
                for address, groups in port.filters:
                    if zone and group in groups:
                        yield from _of_chain(zone, direction, address, *chains)


def _of_chain(zone: int, direction: str, address: str, before: Chain, after: Chain) -> Iterator[Cut]:
    version = _version(address)
    base = Cut(zone, version, target=address) if direction == "ingress" else Cut(zone, version, source=address)
    if not before.rules:  # found in the kernel: what the lost rules said is not known
        yield base
        return
    for rule in set(before.rules) - set(after.rules):
        if f"ipv{version}" not in rule:
            continue
        protocol, port = _PROTOCOL.search(rule), _PORT.search(rule)
        yield base._replace(
            protocol=int(protocol[1]) if protocol else None,
            port=int(port[1]) if port else None,
        )


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def translations_gone(changes: Changes) -> set[str]:
    """Addresses of floating IPs that a router no longer translates so: public and fixed."""
    found: set[str] = set()
    for (key, text), value in changes.removed_elements:
        if key == rules.FLOATING:
            found |= {text, value}
    return found
