"""Which established flows a change of the filters must cut, so that what is no longer allowed ends at once. Pure.

As little as possible is cut: a flow whose entry is gone is judged anew by its next packet, and when that comes from the
side that did not begin it, an allowed flow may stall. So a lost rule cuts only flows that began as the rule allows and
that no other rule allows. What was cut is remembered by the kernel's sets: else the next answer would begin a new flow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from typing import NamedTuple

from kilonova.network import rules
from kilonova.network.group_rules import ICMP, ICMPV6, WITH_PORTS, Match, chain_name, matches
from kilonova.network.layout import Chain, Changes, ElementKey
from kilonova.network.plan import HostPlan

_TCP = 6
_DHCP = frozenset({(17, 67), (17, 547)})
_CUT_TCP = (rules.CUT_TCP, rules.CUT_TCP6)
_CUT_PORTS = (rules.CUT_PORTS, rules.CUT_PORTS6)
_CUT_OTHER = (rules.CUT_OTHER, rules.CUT_OTHER6)
_TARGETS = frozenset({rules.INGRESS, rules.INGRESS6})
_SOURCES = frozenset({rules.EGRESS, rules.EGRESS6})


class Cut(NamedTuple):
    """Flows of a connection-tracking zone by how they began; what is empty is any."""

    zone: int
    version: int = 4
    source: str = ""
    target: str = ""
    rules: tuple[Match, ...] = ()
    """Only such as one of these let pass."""
    member: bool = False
    """The address only left a group that rules name: it may well be somebody's still, here or on another host."""


class Flow(NamedTuple):
    """An entry of connection tracking, as it began. Ports are 0 where the protocol has none."""

    zone: int
    version: int
    source: str
    target: str
    protocol: int
    source_port: int = 0
    target_port: int = 0
    original: bytes = b""
    """As the kernel wrote it: what names the entry."""


def cuts(plan: HostPlan, changes: Changes) -> set[Cut]:
    """Flows of addresses whose groups changed or went, of members that left a group, and those lost rules allowed."""
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
        elif key in _SOURCES:
            found.add(Cut(zone, _version(address), source=address))
        elif key[:2] == rules.ZONES[:2] and key.name.startswith("g_"):
            found |= {cut._replace(member=True) for cut in cuts_of_address(zone, address)}
    return found | set(_of_lost_rules(plan, zones, changes))


def cuts_of_address(zone: int, address: str) -> set[Cut]:
    """Every flow of an address."""
    version = _version(address)
    return {Cut(zone, version, source=address), Cut(zone, version, target=address)}


def doomed(plan: HostPlan, wanted: Iterable[Cut], flows: Iterable[Flow]) -> tuple[list[Flow], list[Flow]]:
    """Of these flows the ones to cut, and those of them that an answer must not begin anew: their address is alive."""
    guards = _Guards(plan)
    by_end: dict[tuple[int, str, str], list[Cut]] = {}
    for cut in wanted:
        by_end.setdefault((cut.zone, cut.source, cut.target), []).append(cut)
    ended: list[Flow] = []
    remembered: list[Flow] = []
    for flow in flows:
        of_source = [cut for cut in by_end.get((flow.zone, flow.source, ""), ()) if _hit(cut, flow)]
        of_target = [cut for cut in by_end.get((flow.zone, "", flow.target), ()) if _hit(cut, flow)]
        of_zone = (flow.zone, "", "") in by_end
        if not (of_source or of_target or of_zone):
            continue
        if not (guards.allow("egress", flow) and guards.allow("ingress", flow)):
            ended.append(flow)
            remembered.append(flow)
        elif of_zone or not (guards.answer_for(of_source, flow.source) and guards.answer_for(of_target, flow.target)):
            ended.append(flow)
    return ended, remembered


def not_resumed(plan: HostPlan, flows: Iterable[Flow]) -> list[tuple[ElementKey, str]]:
    """Set elements that keep the answers to flows from beginning them anew."""
    bridges = {bridge.zone: bridge.name for bridge in plan.bridges.values() if bridge.filtered}
    found: list[tuple[ElementKey, str]] = []
    for flow in flows:
        if flow.protocol in (ICMP, ICMPV6) or flow.zone not in bridges:
            continue  # an answer alone never begins a flow of these: it is invalid
        if (flow.protocol, flow.target_port) in _DHCP:
            continue  # groups do not rule it
        ends = f'"{bridges[flow.zone]}" . {flow.target} . {flow.source}'
        if flow.protocol in WITH_PORTS:
            sets = _CUT_TCP if flow.protocol == _TCP else _CUT_PORTS
            text = f"{ends} . {flow.target_port} . {flow.source_port}"
        else:
            sets, text = _CUT_OTHER, f"{ends} . {flow.protocol}"
        found.append((ElementKey(sets[flow.version == 6], text), ""))
    return found


class _Guards:
    """What the plan's groups allow, asked about single flows."""

    def __init__(self, plan: HostPlan) -> None:
        self._groups = plan.groups
        self._by_digits = {group.replace("-", ""): group for group in plan.groups}
        self._bridges = {bridge.zone: bridge.name for bridge in plan.bridges.values() if bridge.filtered}
        self._of_address = {(bridge, each.address): each.groups for bridge, each in plan.filtered_addresses()}
        self._members: dict[str, frozenset[tuple[str, str]]] = {}
        self._rules: dict[tuple[str, str], tuple[Match, ...]] = {}

    def answer_for(self, wanted: Iterable[Cut], address: str) -> bool:
        """Is what the groups say all there is to know, or has the address gone?"""
        return all(cut.member or (self._bridges.get(cut.zone, ""), address) in self._of_address for cut in wanted)

    def allow(self, direction: str, flow: Flow) -> bool:
        """Would the groups of its target (ingress) or of its source (egress) let the flow begin now?"""
        bridge = self._bridges.get(flow.zone, "")
        mine, other = (flow.target, flow.source) if direction == "ingress" else (flow.source, flow.target)
        groups = self._of_address.get((bridge, mine))
        if groups is None:  # not a port's of this host, or one without port security
            return True
        return any(
            self._allows(match, flow, bridge, other) for group in groups for match in self._rules_of(group, direction)
        )

    def _rules_of(self, group: str, direction: str) -> tuple[Match, ...]:
        found = self._rules.get((group, direction))
        if found is None:
            plan = self._groups.get(group)
            texts = () if plan is None else plan.ingress if direction == "ingress" else plan.egress
            found = self._rules[group, direction] = tuple(map(matches, texts))
        return found

    def _allows(self, match: Match, flow: Flow, bridge: str, other: str) -> bool:
        if match.icmp_type or not _passed(match, flow):  # of which type an entry was is not asked
            return False
        if not match.remote_group:
            return True
        members = self._members.get(match.remote_group)
        if members is None:
            plan = self._groups.get(self._by_digits.get(match.remote_group, ""))
            members = self._members[match.remote_group] = frozenset(plan.members if plan else ())
        return (bridge, other) in members


def _hit(cut: Cut, flow: Flow) -> bool:
    return not cut.rules or any(_passed(match, flow) for match in cut.rules)


def _passed(match: Match, flow: Flow) -> bool:
    """Whether the rule's words fit the flow, its remote group left out."""
    if match.version != flow.version or match.protocol not in (None, flow.protocol):
        return False
    if match.ports is not None and not match.ports[0] <= flow.target_port <= match.ports[1]:
        return False
    far = flow.source if match.direction == "ingress" else flow.target
    return not match.remote or ip_address(far) in ip_network(match.remote)


def _of_lost_rules(plan: HostPlan, zones: Mapping[str, int], changes: Changes) -> Iterator[Cut]:
    weaker = {
        key.name: (before, after)
        for key, before, after in changes.changed_chains
        if set(before.digests) - set(after.digests)
    }
    if not weaker:
        return
    chains = {
        chain_name(group, direction): (group, direction) for group in plan.groups for direction in ("ingress", "egress")
    }
    lost = {chains[name]: _lost(*pair) for name, pair in weaker.items() if name in chains}
    if not lost:
        return
    for bridge, (address, groups) in plan.filtered_addresses():
        zone = zones.get(bridge)
        for group in groups if zone else ():
            for direction in ("ingress", "egress"):
                matched = lost.get((group, direction))
                if zone and matched is not None:
                    yield from _of_chain(zone, direction, address, matched)


def _of_chain(zone: int, direction: str, address: str, lost: tuple[Match, ...]) -> Iterator[Cut]:
    version = _version(address)
    mine = tuple(match for match in lost if match.version == version)
    if lost and not mine:
        return
    if direction == "ingress":
        yield Cut(zone, version, target=address, rules=mine)
    else:
        yield Cut(zone, version, source=address, rules=mine)


def _lost(before: Chain, after: Chain) -> tuple[Match, ...]:
    """What went; nothing when it is not known, because the chain was found in the kernel."""
    return tuple(sorted(map(matches, set(before.rules) - set(after.rules)), key=str))


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def translations_gone(changes: Changes) -> set[str]:
    """Addresses of floating IPs that a router no longer translates so: public and fixed."""
    found: set[str] = set()
    for (key, text), value in changes.removed_elements:
        if key == rules.FLOATING:
            found |= {text, value}
    return found
