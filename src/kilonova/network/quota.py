"""How many network resources a project may have; counted in the transaction that makes more, never kept as counters."""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import ColumnElement, Connection, Table, func, select

from kilonova.errors import QuotaExceeded
from kilonova.store import statements
from kilonova.store.schema import (
    floating_ips,
    networks,
    ports,
    quotas,
    routers,
    security_group_rules,
    security_groups,
    subnets,
)

UNLIMITED = -1
_VPN_CLIENT = "network:vpn_client"

DEFAULTS: dict[str, int] = {
    "network": 100,
    "subnet": 100,
    "port": 500,
    "router": 10,
    "floatingip": 50,
    "security_group": 10,
    "security_group_rule": 100,
}
"""Of a project for which nothing else was set; the names of the network API."""

_COUNTED: dict[str, Table] = {
    "network": networks,
    "subnet": subnets,
    "port": ports,
    "router": routers,
    "floatingip": floating_ips,
    "security_group": security_groups,
    "security_group_rule": security_group_rules,
}


def _counts(resource: str, project_id: str) -> ColumnElement[bool]:
    """The cloud's own ports (DHCP, router interfaces) count for nobody, those of VPN clients do."""
    table = _COUNTED[resource]
    if resource == "port":
        # Compared exactly: LIKE of SQLite does not tell capitals from small letters.
        own = func.substr(table.c.device_owner, 1, 8) != "network:"
        return (table.c.project_id == project_id) & (own | (table.c.device_owner == _VPN_CLIENT))
    return table.c.project_id == project_id


def limits_of(tx: Connection, project_id: str) -> dict[str, int]:
    """Every network limit of a project."""
    query = select(quotas.c.resource, quotas.c.hard_limit).where(
        quotas.c.project_id == project_id, quotas.c.resource.in_(DEFAULTS)
    )
    return DEFAULTS | {row.resource: row.hard_limit for row in tx.execute(query)}


def usage_of(tx: Connection, project_id: str, resources: Iterable[str] = tuple(DEFAULTS)) -> dict[str, int]:
    """What counts towards the limits now."""
    columns = [
        select(func.count())
        .select_from(_COUNTED[resource])
        .where(_counts(resource, project_id))
        .scalar_subquery()
        .label(resource)
        for resource in resources
    ]
    return dict(tx.execute(select(*columns)).mappings().one())


def check(tx: Connection, project_id: str, resource: str, adding: int = 1) -> None:
    """Whether the project may have `adding` more. Raises `QuotaExceeded`; the cloud itself has no limits."""
    if not project_id or adding <= 0:
        return
    own = statements.rows(tx, quotas, project_id=project_id, resource=resource).one_or_none()
    limit = DEFAULTS[resource] if own is None else own.hard_limit
    if limit == UNLIMITED:
        return
    used = usage_of(tx, project_id, [resource])[resource]
    if used + adding > limit:
        raise QuotaExceeded(
            f"Quota exceeded for resources: ['{resource}'] ({used} of {limit} used, {adding} asked for)."
        )
