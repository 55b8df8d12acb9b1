"""What a pass of the network agent writes back: which states changed and what was forgotten.

`results_of` compares with the rows the plan was made of, so that a pass that changed nothing writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, update

from kilonova.network.host.interface import Outcome
from kilonova.network.plan import HostPlan
from kilonova.network.rows import (
    FLOATING_OWNER,
    GATEWAY_OWNER,
    INTERFACE_OWNER,
    SERVICE_OWNER,
    HostRows,
    PortRow,
    ReleasedRow,
    VpnRow,
)
from kilonova.store import schema, statements
from kilonova.store.addresses import confirm_forgotten, confirm_pool_network_forgotten


@dataclass(frozen=True)
class Results:
    """Row id -> its new status, and what this host has forgotten."""

    ports: tuple[tuple[str, str], ...] = ()
    routers: tuple[tuple[str, str], ...] = ()
    floating_ips: tuple[tuple[str, str], ...] = ()
    vpns: tuple[tuple[str, str], ...] = ()
    forgotten: tuple[ReleasedRow, ...] = ()
    freed_pool_networks: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != Results()


def results_of(rows: HostRows, plan: HostPlan, outcome: Outcome) -> Results:
    """The rows whose state is not what the host now has."""
    failures = outcome.failures
    if "" in failures:
        return Results()
    return Results(
        ports=tuple(_ports(rows, plan, failures)),
        routers=tuple(
            (router.id, wanted)
            for router in rows.routers
            if (wanted := _router_status(router.id, plan, failures)) != router.status
        ),
        floating_ips=tuple(
            (row.id, wanted)
            for row in rows.floating_ips
            if (wanted := _floating_status(row.address, row.router_id, plan, failures)) != row.status
        ),
        vpns=tuple((row.id, wanted) for row in rows.vpns if (wanted := _vpn_status(row, plan, failures)) != row.status),
        forgotten=outcome.forgotten,
        freed_pool_networks=() if failures else plan.released_pool_networks,
    )


def record(tx: Connection, results: Results) -> None:
    """Write it down. Doing it twice changes nothing."""
    for table, states in (
        (schema.ports, results.ports),
        (schema.routers, results.routers),
        (schema.floating_ips, results.floating_ips),
        (schema.vpns, results.vpns),
    ):
        for row_id, status in states:
            statements.change(tx, table, {"id": row_id}, status=status)
    confirm_forgotten(tx, [(row.subnet_id, row.address) for row in results.forgotten if row.next_host is None])
    addresses = schema.addresses
    for row in results.forgotten:
        if row.next_host is not None:
            mine = (addresses.c.subnet_id == row.subnet_id, addresses.c.address == row.address)
            handed_on = update(addresses).where(*mine, addresses.c.port_id.is_(None))
            tx.execute(handed_on.values(released_host=row.next_host))
    for pool_network_id in results.freed_pool_networks:
        confirm_pool_network_forgotten(tx, pool_network_id)


def _ports(rows: HostRows, plan: HostPlan, failures: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    realised = {interface.port_id for router in plan.routers.values() for interface in router.interfaces}
    realised |= {router.external.port_id for router in plan.routers.values() if router.external}
    for row in rows.ports:
        wanted = _port_status(row, rows, plan, realised, failures)
        if wanted is not None and wanted != row.status:
            yield row.id, wanted


def _port_status(
    row: PortRow, rows: HostRows, plan: HostPlan, realised: set[str], failures: Mapping[str, str]
) -> str | None:
    """None: it is not this host's to say."""
    if row.device_owner in (INTERFACE_OWNER, GATEWAY_OWNER):
        if row.id not in realised:
            return None
        return "DOWN" if row.device_id in failures else "ACTIVE"
    if row.device_owner == SERVICE_OWNER:
        if row.network_id not in plan.services:
            return None
        return "DOWN" if row.network_id in failures else "ACTIVE"
    if row.device_owner == FLOATING_OWNER or row.id in failures or row.network_id in failures:
        return None
    port = plan.ports.get(row.id)
    if port is not None:
        return "ACTIVE" if port.up else "DOWN"
    if row.host == rows.host and row.vif == "none":
        return "ACTIVE" if row.admin_state_up else "DOWN"
    return None


def _router_status(router_id: str, plan: HostPlan, failures: Mapping[str, str]) -> str:
    if router_id in failures:
        return "ERROR"
    return "ACTIVE" if router_id in plan.routers else "DOWN"


def _floating_status(address: str, router_id: str | None, plan: HostPlan, failures: Mapping[str, str]) -> str:
    router = plan.routers.get(router_id or "")
    if router is None or not any(public == address for public, _ in router.floating):
        return "DOWN"
    return "ERROR" if router.router_id in failures else "ACTIVE"


def _vpn_status(row: VpnRow, plan: HostPlan, failures: Mapping[str, str]) -> str:
    if row.id in failures or row.router_id in failures:
        return "ERROR"
    return "ACTIVE" if row.id in plan.vpns else "DOWN"
