"""Which other hosts have to look again because of what a pass changed on this one. Their agents are told by the bus.

The rows would tell them at their next timer anyway; this makes it at once: a member of a group that came or went here
is one that filters elsewhere name, and a MAC of a tunnelled network is one that forwarding tables elsewhere name.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, select

from kilonova.network.plan import HostPlan, PortPlan
from kilonova.store.schema import port_security_groups, ports, security_group_rules


def changed_groups(before: HostPlan, after: HostPlan) -> set[str]:
    """Groups that gained or lost an address of a port of this host."""
    found: set[str] = set()
    for port_id in before.ports.keys() | after.ports.keys():
        old, new = before.ports.get(port_id), after.ports.get(port_id)
        if old != new:
            found |= {group for group, _ in _memberships(old) ^ _memberships(new)}
    return found


def hosts_naming(tx: Connection, groups: Collection[str], *, but: str) -> set[str]:
    """Hosts with ports in a group that has a rule about one of these groups."""
    naming = select(security_group_rules.c.security_group_id).where(
        security_group_rules.c.remote_group_id.in_(sorted(groups))
    )
    query = (
        select(ports.c.host)
        .join(port_security_groups, port_security_groups.c.port_id == ports.c.id)
        .where(port_security_groups.c.security_group_id.in_(naming), ports.c.host.not_in(("", but)))
        .distinct()
    )
    return set(tx.execute(query).scalars())


def _memberships(port: PortPlan | None) -> set[tuple[str, str]]:
    return {(group, item.address) for item in port.filters for group in item.groups} if port is not None else set()
