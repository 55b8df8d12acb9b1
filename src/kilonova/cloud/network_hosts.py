"""Which hosts' network agents a change concerns: exactly those are woken after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BindParameter, Connection, Select, bindparam, select, union

from kilonova.store.schema import networks, port_security_groups, ports, routers, security_group_rules, subnets


def of_network(tx: Connection, network_id: str) -> set[str]:
    """Its network host, the hosts with ports on it, the hosts of its ranges and of routers in it."""
    query = union(
        select(networks.c.host).where(networks.c.id == network_id),
        select(ports.c.host).where(ports.c.network_id == network_id),
        select(subnets.c.host).where(subnets.c.network_id == network_id),
        select(routers.c.host).join(ports, ports.c.device_id == routers.c.id).where(ports.c.network_id == network_id),
    )
    return {host for host in tx.execute(query).scalars() if host}


def of_groups(tx: Connection, group_ids: Sequence[str]) -> set[str]:
    """Hosts with ports in these groups, or in groups whose rules name one of them as the remote group."""
    if not group_ids:
        return set()
    return {host for host in tx.execute(_OF_GROUPS, {"groups": group_ids}).scalars() if host}


def _of_groups() -> Select[Any]:
    links = port_security_groups.c.security_group_id
    groups: BindParameter[Any] = bindparam("groups", expanding=True)
    naming = select(security_group_rules.c.security_group_id).where(security_group_rules.c.remote_group_id.in_(groups))
    return (
        select(ports.c.host)
        .join(port_security_groups, port_security_groups.c.port_id == ports.c.id)
        .where(links.in_(groups) | links.in_(naming))
        .distinct()
    )


_OF_GROUPS = _of_groups()
