"""Which established flows a change of the filters must cut, so that what is no longer allowed ends at once. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from kilonova.network import rules
from kilonova.network.group_rules import chain_name
from kilonova.network.layout import Changes
from kilonova.network.plan import HostPlan

_DISPATCH = frozenset({rules.EGRESS, rules.INGRESS, rules.EGRESS6, rules.INGRESS6})


def cuts(plan: HostPlan, changes: Changes) -> set[tuple[int, str]]:
    """(zone, address) pairs; an empty address is all of the zone.

    Of addresses whose groups changed or went, of members that left a group, and of every address of a group that lost a
    rule. A rule that is only added cuts nothing.
    """
    zones = {bridge.name: bridge.zone for bridge in plan.bridges.values() if bridge.filtered}
    found: set[tuple[int, str]] = set()
    for (key, text), value in changes.removed_elements:
        if key == rules.ZONES:
            found.add((int(value), ""))
        elif key in _DISPATCH or (key[:2] == rules.ZONES[:2] and key.name.startswith("g_")):
            bridge, _, address = text.partition(" . ")
            zone = zones.get(bridge.strip('"'))
            if zone:
                found.add((zone, address))
    weaker = {key.name for key, before, after in changes.changed_chains if set(before.digests) - set(after.digests)}
    if weaker:
        found |= _of_groups(plan, zones, weaker)
    return found


def _of_groups(plan: HostPlan, zones: Mapping[str, int], chains: set[str]) -> set[tuple[int, str]]:
    groups = {
        group
        for group in plan.groups
        if chain_name(group, "ingress") in chains or chain_name(group, "egress") in chains
    }
    return {
        (zones[port.bridge], item.address)
        for port in plan.ports.values()
        for item in port.filters
        if port.bridge in zones and groups & set(item.groups)
    }


def translations_gone(changes: Changes) -> set[str]:
    """Addresses of floating IPs that a router no longer translates so: public and fixed."""
    found: set[str] = set()
    for (key, text), value in changes.removed_elements:
        if key == rules.FLOATING:
            found |= {text, value}
    return found
