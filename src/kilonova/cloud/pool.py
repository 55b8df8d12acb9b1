"""The pool of project networks: `kilonova network create|list|show|delete`, with the meaning it had in 2010.

A network of the pool is only a row until a project's first run makes it that project's own
(`kilonova.network.assignment`). A flat one is a network at once, shared by the projects that are given it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, exists, func, insert, or_, select
from sqlalchemy.exc import IntegrityError

from kilonova.cloud.controller import Cloud
from kilonova.cloud.network_lists import Query, moment
from kilonova.cloud.networks import delete_network
from kilonova.cloud.pool_requests import Plan, PoolRequest, plan_of
from kilonova.config import Config
from kilonova.context import Context
from kilonova.errors import AlreadyExists, BadRequest, NotFound
from kilonova.ids import NetworkId, new_id
from kilonova.network.errors import NetworkInUse
from kilonova.network.managers import SHARED
from kilonova.network.offers import is_named, pool_network
from kilonova.network.ports import DHCP
from kilonova.network.subnets import insert_subnet, network_row
from kilonova.scheduler.network_host import live_hosts
from kilonova.store.paging import Page, SortKey, paged
from kilonova.store.schema import networks, now, pool_networks, ports, project_networks

__all__ = ["PoolRequest", "create", "find", "remove", "show"]

_FILTERS = ("network_id", "manager", "physical_network", "cidr", "bridge")
_COLUMNS = (
    "id",
    "cidr",
    "manager",
    "physical_network",
    "segmentation_id",
    "bridge",
    "vpn_port",
    "project_id",
    "network_id",
)


async def create(cloud: Cloud, context: Context, request: PoolRequest) -> list[dict[str, Any]]:
    """Add networks to the pool, all or none. Raises `BadRequest`, or `Conflict` naming what is in the way."""
    made, hosts = await cloud.store.write(_create, cloud.config, request)
    await cloud.wake_networks(hosts, context)
    return made


async def find(cloud: Cloud, context: Context, query: Query, *, assigned: bool | None) -> list[dict[str, Any]]:
    """A page of the pool, in the order in which it is handed out unless another is asked for.

    Raises `BadRequest` naming an unknown filter, sort key or marker.
    """
    return await cloud.store.read(_find, query, assigned)


async def show(cloud: Cloud, context: Context, name: str) -> dict[str, Any]:
    """One network of the pool, by id, network's id, CIDR or bridge, with its projects. Raises `NotFound`."""
    return await cloud.store.read(_show, name)


async def remove(cloud: Cloud, context: Context, name: str) -> None:
    """Take a network out of the pool. Raises `NotFound`, or `InUse` saying by what."""
    await cloud.wake_networks(await cloud.store.write(_remove, name), context)


def _create(tx: Connection, config: Config, request: PoolRequest) -> tuple[list[dict[str, Any]], set[str]]:
    plan = plan_of(tx, config, request, live_hosts(tx))
    position = (tx.execute(select(func.max(pool_networks.c.position))).scalar_one() or 0) + 1
    created_at = now()
    rows = [
        {
            "id": new_id(),
            "manager": plan.manager,
            "physical_network": plan.physical_network,
            "segmentation_id": item.segmentation_id,
            "bridge": item.bridge,
            "cidr": str(item.cidr),
            "vpn_port": item.vpn_port,
            "network_id": _make_shared(tx, config, plan) if plan.is_shared else None,
            "position": position + i,
            "created_at": created_at,
        }
        for i, item in enumerate(plan.networks)
    ]
    try:
        tx.execute(insert(pool_networks), rows)
    except IntegrityError as error:
        raise AlreadyExists(
            "Another administrator added some of these networks at the same time: try again."
        ) from error
    free = {"project_id": None, "released_at": None, "released_host": None}
    return [_document({**row, **free}) for row in rows], {plan.host or ""}


def _make_shared(tx: Connection, config: Config, plan: Plan) -> str:
    """The one network of a flat manager's physical network; it belongs to nobody's project."""
    item = plan.networks[0]
    network_id = NetworkId(new_id())
    tx.execute(
        insert(networks).values(
            id=network_id,
            project_id="",
            name=f"{plan.manager}-{plan.physical_network}",
            manager=plan.manager,
            physical_network=plan.physical_network,
            segmentation_id=None,
            bridge=item.bridge,
            mtu=config.network.mtu,
            shared=True,
            host=plan.host,
        )
    )
    insert_subnet(
        tx,
        network=network_row(tx, network_id),
        project_id="",
        cidr=item.cidr,
        gateway=plan.gateway,
        enable_dhcp=plan.has_dhcp,
        ranges=plan.ranges,
        name=f"{plan.physical_network}-{item.cidr}",
        dns_nameservers=[],
        host_routes=[],
    )
    return network_id


def _find(tx: Connection, query: Query, assigned: bool | None) -> list[dict[str, Any]]:
    pool = pool_networks.c
    statement = select(pool_networks)
    for name, values in query.filters.items():
        if name == "project_id":
            given = select(project_networks.c.network_id).where(project_networks.c.project_id.in_(values))
            statement = statement.where(pool.network_id.in_(given))
        elif name == "name":
            statement = statement.where(or_(*(is_named(value) for value in values)))
        elif name in _FILTERS:
            statement = statement.where(pool[name].in_(values))
        else:
            raise BadRequest(f"filter: '{name}' is not a field of the pool to filter by.")
    if assigned is not None:
        given_away = exists().where(project_networks.c.network_id == pool.network_id)
        taken = given_away | pool.project_id.is_not(None)
        statement = statement.where(taken if assigned else ~taken)
    keys = query.sort or (("position", False),)
    sort = tuple(SortKey(name, down != query.reverse) for name, down in keys)
    rows = list(paged(tx, statement, pool_networks, Page(query.limit, query.marker, sort)))
    if query.reverse:
        rows.reverse()
    return [_document(row._mapping) for row in rows]


def _get(tx: Connection, name: str) -> RowMapping:
    row = pool_network(tx, name)
    if row is None:
        raise NotFound(f"The pool has no network {name}: see `kilonova network list`.")
    return row


def _show(tx: Connection, name: str) -> dict[str, Any]:
    row = _get(tx, name)
    network: RowMapping | dict[str, Any] = {}
    projects: Sequence[RowMapping] = ()
    if row["network_id"] is not None:
        network = network_row(tx, row["network_id"])
        given = select(project_networks).where(project_networks.c.network_id == row["network_id"])
        projects = tx.execute(given.order_by(project_networks.c.created_at)).mappings().all()
    return _document(row) | {
        "host": network.get("host"),
        "mtu": network.get("mtu"),
        "projects": [
            {
                "project_id": given["project_id"],
                "requested": given["requested"],
                "decision": given["decision"],
                "created_at": moment(given["created_at"]),
            }
            for given in projects
        ],
    }


def _remove(tx: Connection, name: str) -> set[str]:
    row = _get(tx, name)
    what = f"Pool network {row['cidr']} ({row['bridge']})"
    if row["project_id"] is not None:
        raise NetworkInUse(
            f"{what} is in use by project {row['project_id']} as network {row['network_id']}: take it away first "
            f"(`kilonova network release {row['project_id']}`)."
        )
    if row["released_at"] is not None:
        raise NetworkInUse(
            f"{what} was given back but host {row['released_host']} still holds it: try again once its network agent "
            "runs."
        )
    if row["manager"] not in SHARED or row["network_id"] is None:
        tx.execute(delete(pool_networks).where(pool_networks.c.id == row["id"]))
        return set()
    refuse_shared_in_use(tx, row["network_id"], what)
    return delete_network(tx, network_row(tx, row["network_id"]))


def refuse_shared_in_use(tx: Connection, network_id: str, what: str) -> None:
    """Raises `InUse` that names projects that were given the network, or ports in it."""
    given = select(project_networks.c.project_id).where(project_networks.c.network_id == network_id)
    projects = tx.execute(given.order_by(project_networks.c.created_at).limit(5)).scalars().all()
    if projects:
        raise NetworkInUse(
            f"{what} is in use by the projects {', '.join(projects)}: take it away from them first "
            "(`kilonova network release PROJECT`)."
        )
    users = select(ports.c.id, ports.c.device_owner).where(
        ports.c.network_id == network_id, ports.c.device_owner != DHCP
    )
    found = tx.execute(users.limit(5)).all()
    if found:
        named = ", ".join(f"{port.id} ({port.device_owner or 'no device'})" for port in found)
        raise NetworkInUse(f"{what} is in use by the ports {named}: delete them first.")


def _document(row: RowMapping | dict[str, Any]) -> dict[str, Any]:
    if row["manager"] in SHARED:
        state = "shared"
    else:
        state = "assigned" if row["project_id"] else "held" if row["released_at"] else "free"
    return {name: row[name] for name in _COLUMNS} | {
        "physical_network": None if row["manager"] == "vxlan" else row["physical_network"],
        "state": state,
        "held_by_host": row["released_host"],
        "created_at": moment(row["created_at"]),
    }
