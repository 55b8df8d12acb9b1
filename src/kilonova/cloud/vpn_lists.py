"""What is said about VPNs and their clients; where a project's VPN is or would be. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, func, select

from kilonova.cloud.network_lists import moment
from kilonova.network.ports import ROUTER_GATEWAY, ROUTER_INTERFACE
from kilonova.store.schema import (
    addresses,
    networks,
    pool_networks,
    ports,
    project_networks,
    projects,
    routers,
    subnets,
    vpn_clients,
    vpns,
)


@dataclass(frozen=True)
class Place:
    """The router by which a project's network is reached."""

    network_id: str
    router_id: str
    host: str | None
    address: str | None
    """Outside, IPv4."""
    inside: tuple[RowMapping, ...]
    """The IPv4 subnets behind it (rows of `subnets`), oldest first."""


def places(tx: Connection, project_id: str | None = None) -> dict[str, Place]:
    """Network -> where its VPN is, or would be: of one project's network or of all; default routers come first."""
    own = select(project_networks.c.network_id)
    if project_id is not None:
        own = own.where(project_networks.c.project_id == project_id)
    legs = (
        select(ports.c.network_id, routers.c.id, routers.c.host)
        .join(routers, routers.c.id == ports.c.device_id)
        .where(ports.c.device_owner == ROUTER_INTERFACE, ports.c.network_id.in_(own))
        .order_by(routers.c.is_default, routers.c.external_network_id.is_not(None), routers.c.created_at.desc())
    )
    vpn_routers = (
        select(project_networks.c.network_id, vpns.c.router_id)
        .join(vpns, vpns.c.project_id == project_networks.c.project_id)
        .where(project_networks.c.network_id.in_(own))
    )
    serving = {row.network_id: row.router_id for row in tx.execute(vpn_routers)}
    chosen: dict[str, tuple[str, str | None]] = {}
    for network_id, router_id, host in tx.execute(legs):
        if serving.get(network_id, router_id) == router_id:
            chosen[network_id] = (router_id, host)
    router_ids = {router_id for router_id, _ in chosen.values()}
    outside = _outside(tx, router_ids)
    inside = _inside(tx, router_ids)
    return {
        network_id: Place(network_id, router_id, host, outside.get(router_id), tuple(inside.get(router_id, ())))
        for network_id, (router_id, host) in chosen.items()
    }


def documents(tx: Connection, project_id: str | None) -> list[dict[str, Any]]:
    """Every project with a network (or the one that is named), ordered by name."""
    given = project_networks.c
    query = (
        select(
            projects.c.id.label("project_id"),
            projects.c.name.label("project_name"),
            given.network_id,
            networks.c.manager,
            pool_networks.c.vpn_port,
            vpns.c.id,
            vpns.c.port,
            vpns.c.status,
            vpns.c.public_key,
            vpns.c.created_at,
            func.count(vpn_clients.c.id).label("clients"),
            func.max(vpn_clients.c.handshake_at).label("handshake_at"),
        )
        .select_from(project_networks)
        .join(projects, projects.c.id == given.project_id)
        .join(networks, networks.c.id == given.network_id)
        .outerjoin(pool_networks, pool_networks.c.network_id == given.network_id)
        .outerjoin(vpns, vpns.c.project_id == given.project_id)
        .outerjoin(vpn_clients, vpn_clients.c.vpn_id == vpns.c.id)
        .group_by(projects.c.id, given.network_id, networks.c.id, pool_networks.c.id, vpns.c.id)
        .order_by(projects.c.name, projects.c.id)
    )
    if project_id is not None:
        query = query.where(given.project_id == project_id)
    where = places(tx, project_id)
    return [_document(row, where.get(row["network_id"])) for row in tx.execute(query).mappings()]


def clients_of(tx: Connection, vpn_id: str | None, user_name: str | None = None) -> list[dict[str, Any]]:
    """A VPN's clients by name, or the one that is named."""
    query = (
        select(vpn_clients, addresses.c.address, addresses.c.subnet_id)
        .join(addresses, addresses.c.port_id == vpn_clients.c.port_id)
        .join(subnets, subnets.c.id == addresses.c.subnet_id)
        .where(vpn_clients.c.vpn_id == vpn_id, subnets.c.ip_version == 4)
        .order_by(vpn_clients.c.user_name)
    )
    if user_name is not None:
        query = query.where(vpn_clients.c.user_name == user_name)
    same = ("id", "user_name", "address", "subnet_id", "port_id", "public_key")
    return [
        {name: row[name] for name in same}
        | {"last_handshake_at": _moment(row["handshake_at"]), "created_at": _moment(row["created_at"])}
        for row in tx.execute(query).mappings()
    ]


def _document(row: RowMapping, place: Place | None) -> dict[str, Any]:
    same = ("id", "project_id", "project_name", "network_id", "public_key", "clients")
    port = row["port"] if row["id"] is not None else row["vpn_port"]
    return {name: row[name] for name in same} | {
        "status": row["status"] if row["id"] is not None else "NONE",
        "address": place.address if place else None,
        "port": port,
        "router_id": place.router_id if place else None,
        "host": place.host if place else None,
        "last_handshake_at": _moment(row["handshake_at"]),
        "created_at": _moment(row["created_at"]),
    }


def _moment(value: Any) -> str | None:
    return None if value is None else moment(value)


def _outside(tx: Connection, router_ids: set[str]) -> dict[str, str]:
    query = (
        select(ports.c.device_id, addresses.c.address)
        .join(addresses, addresses.c.port_id == ports.c.id)
        .join(subnets, subnets.c.id == addresses.c.subnet_id)
        .where(
            ports.c.device_owner == ROUTER_GATEWAY, ports.c.device_id.in_(sorted(router_ids)), subnets.c.ip_version == 4
        )
        .order_by(addresses.c.address.desc())
    )
    return {row.device_id: row.address for row in tx.execute(query)}


def _inside(tx: Connection, router_ids: set[str]) -> dict[str, list[RowMapping]]:
    query = (
        select(ports.c.device_id.label("router_id"), subnets)
        .join(addresses, addresses.c.port_id == ports.c.id)
        .join(subnets, subnets.c.id == addresses.c.subnet_id)
        .where(
            ports.c.device_owner == ROUTER_INTERFACE,
            ports.c.device_id.in_(sorted(router_ids)),
            subnets.c.ip_version == 4,
        )
        .order_by(subnets.c.created_at, subnets.c.id)
    )
    found: dict[str, list[RowMapping]] = {}
    for row in tx.execute(query).mappings():
        found.setdefault(row["router_id"], []).append(row)
    return found
