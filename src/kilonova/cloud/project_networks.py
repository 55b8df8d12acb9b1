"""Which network a project has and of which type it shall be: `kilonova network assign|release`, `kilonova project`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, delete, or_, select, update

from kilonova.cloud.controller import Cloud
from kilonova.cloud.network_lists import Query, moment
from kilonova.cloud.networks import delete_network
from kilonova.context import Context
from kilonova.errors import BadRequest, Conflict, NotFound
from kilonova.network.assignment import ensure_project_network, project_network
from kilonova.network.errors import NetworkInUse
from kilonova.network.managers import SHARED, manager_named
from kilonova.network.offers import pool_network
from kilonova.network.ports import DHCP, ROUTER_INTERFACE, VPN_CLIENT
from kilonova.network.routers import clear_gateway
from kilonova.store.paging import Page, SortKey, paged
from kilonova.store.ports import release_port
from kilonova.store.schema import (
    instances,
    networks,
    pool_networks,
    ports,
    project_networks,
    projects,
    routers,
    vpns,
)

_MOST_NAMED = 5


async def find(cloud: Cloud, context: Context, query: Query) -> list[dict[str, Any]]:
    """A page of the projects with their network types and networks. Raises `BadRequest` naming what it cannot do."""
    return await cloud.store.read(_find, query)


async def show(cloud: Cloud, context: Context, project_id: str) -> dict[str, Any]:
    """One project. Raises `NotFound`."""
    return await cloud.store.read(_show, project_id)


async def prefer(cloud: Cloud, context: Context, project_id: str, network_type: str | None) -> dict[str, Any]:
    """Say of which type the project's network shall be (none: it is chosen). The network it has stays as it is.

    Raises `NotFound`, or `BadRequest` for a type that is none.
    """
    if network_type is not None:
        manager_named(network_type)

    def unit(tx: Connection) -> dict[str, Any]:
        tx.execute(update(projects).where(projects.c.id == project_id).values(network_type=network_type))
        return _show(tx, project_id)

    return await cloud.store.write(unit)


async def assign(
    cloud: Cloud, context: Context, project_id: str, *, named: str | None = None, manager: str | None = None
) -> dict[str, Any]:
    """Give a project its network before its first server does: the pool network `named`, one of `manager`, or any.

    A project that has a network keeps it. Raises `NotFound`, `NoMoreNetworks`, `InUse`, and `Conflict` when it has
    another network than the one asked for.
    """

    def unit(tx: Connection) -> dict[str, Any]:
        _show(tx, project_id)
        has = project_network(tx, project_id)
        if has is not None:
            _refuse_other(tx, project_id, has, named, manager)
        else:
            ensure_project_network(tx, cloud.config, project_id, context, requested=manager, named=named)
        return _show(tx, project_id)

    made = await cloud.store.write(unit)
    await cloud.wake_networks([made["network"]["host"]], context)
    return made


async def release(cloud: Cloud, context: Context, project_id: str) -> None:
    """Take its network away from a project that does not use it any more.

    Raises `NotFound`, or `InUse` that names the servers, ports and routers which use it.
    """
    await cloud.wake_networks(await cloud.store.write(release_network, project_id), context)


def release_network(tx: Connection, project_id: str) -> set[str]:
    """As `release`; the hosts that have something to forget. A network of the project's own goes with its router."""
    network = project_network(tx, project_id)
    if network is None:
        raise NotFound(f"Project {project_id} has no network: see `kilonova project list`.")
    is_shared = network["manager"] in SHARED
    users = _users(tx, network["id"], ports.c.project_id == project_id if is_shared else None)
    if users:
        more = f" and {len(users) - _MOST_NAMED} more" if len(users) > _MOST_NAMED else ""
        raise NetworkInUse(
            f"Network {network['id']} of project {project_id} is in use by {', '.join(users[:_MOST_NAMED])}{more}: "
            "delete those first."
        )
    tx.execute(delete(project_networks).where(project_networks.c.project_id == project_id))
    if is_shared:
        return set()
    # Its port is the pool network's and goes to whom gets that next.
    tx.execute(delete(vpns).where(vpns.c.project_id == project_id))
    return _disconnect(tx, network["id"]) | delete_network(tx, network)


def _refuse_other(tx: Connection, project_id: str, network: RowMapping, named: str | None, manager: str | None) -> None:
    wanted = None if named is None else pool_network(tx, named)
    if named is not None and wanted is None:
        raise NotFound(f"The pool has no network {named}: see `kilonova network list`.")
    other = wanted is not None and wanted["network_id"] != network["id"]
    if other or manager not in (None, network["manager"]):
        raise Conflict(
            f"Project {project_id} has network {network['id']} ({network['manager']}, bridge {network['bridge']}) "
            f"already: take it away first (`kilonova network release {project_id}`)."
        )


def _users(tx: Connection, network_id: str, only: ColumnElement[bool] | None) -> list[str]:
    """What uses a network, in words; not the cloud's own services, nor what goes with it: default router and VPN."""
    query = (
        select(
            ports.c.id,
            ports.c.device_owner,
            ports.c.device_id,
            instances.c.name.label("server"),
            routers.c.name.label("router"),
        )
        .outerjoin(instances, instances.c.id == ports.c.device_id)
        .outerjoin(routers, routers.c.id == ports.c.device_id)
        .where(ports.c.network_id == network_id, ports.c.device_owner.not_in([DHCP, VPN_CLIENT]))
        .where(or_(routers.c.id.is_(None), routers.c.is_default.is_(False)))
        .order_by(ports.c.created_at, ports.c.id)
    )
    if only is not None:
        query = query.where(only)
    return [_user(row) for row in tx.execute(query).mappings()]


def _user(row: RowMapping) -> str:
    if row["server"] is not None:
        return f"server {row['server']} ({row['device_id']})"
    if row["router"] is not None:
        return f"router {row['router']} ({row['device_id']})"
    return f"port {row['id']} ({row['device_owner'] or 'no device'})"


def _disconnect(tx: Connection, network_id: str) -> set[str]:
    """Take default routers out of the network; one that is in no other goes."""
    hosts: set[str] = set()
    interfaces = select(ports.c.id, ports.c.device_id).where(ports.c.device_owner == ROUTER_INTERFACE)
    for port in tx.execute(interfaces.where(ports.c.network_id == network_id)).all():
        router = tx.execute(select(routers).where(routers.c.id == port.device_id)).mappings().one()
        hosts.add(router["host"] or "")
        release_port(tx, port.id)
        others = tx.execute(interfaces.where(ports.c.device_id == router["id"]).limit(1)).first()
        if others is None:
            clear_gateway(tx, router["id"])
            tx.execute(delete(routers).where(routers.c.id == router["id"]))
    return hosts


def _find(tx: Connection, query: Query) -> list[dict[str, Any]]:
    statement = _rows()
    for name, values in query.filters.items():
        if name in {"id", "name", "network_type"}:
            statement = statement.where(projects.c[name].in_(values))
        elif name == "manager":
            statement = statement.where(project_networks.c.manager.in_(values))
        else:
            raise BadRequest(f"filter: '{name}' is not a field of projects that this works with.")
    keys = query.sort or (("name", False),)
    sort = tuple(SortKey(name, down != query.reverse) for name, down in keys)
    rows = list(paged(tx, statement, projects, Page(query.limit, query.marker, sort)))
    if query.reverse:
        rows.reverse()
    return [_document(row._mapping) for row in rows]


def _show(tx: Connection, project_id: str) -> dict[str, Any]:
    row = tx.execute(_rows().where(projects.c.id == project_id)).mappings().one_or_none()
    if row is None:
        raise NotFound(f"Could not find project: {project_id}.")
    return _document(row)


def _rows() -> Select[Any]:
    given = project_networks.c
    return (
        select(
            projects.c.id,
            projects.c.name,
            projects.c.enabled,
            projects.c.description,
            projects.c.network_type,
            given.network_id,
            given.requested,
            given.decision,
            given.created_at.label("given_at"),
            networks.c.manager,
            networks.c.physical_network,
            networks.c.segmentation_id,
            networks.c.bridge,
            networks.c.mtu,
            networks.c.host,
            pool_networks.c.cidr,
            pool_networks.c.vpn_port,
        )
        .select_from(projects)
        .outerjoin(project_networks, given.project_id == projects.c.id)
        .outerjoin(networks, networks.c.id == given.network_id)
        .outerjoin(pool_networks, pool_networks.c.network_id == given.network_id)
    )


def _document(row: RowMapping) -> dict[str, Any]:
    network = None
    if row["network_id"] is not None:
        same = ("manager", "segmentation_id", "bridge", "cidr", "mtu", "host", "vpn_port", "requested", "decision")
        network = {"id": row["network_id"]} | {name: row[name] for name in same}
        network["physical_network"] = None if row["manager"] == "vxlan" else row["physical_network"]
        network["created_at"] = moment(row["given_at"])
    plain = ("id", "name", "enabled", "description", "network_type")
    return {name: row[name] for name in plain} | {"network": network}
