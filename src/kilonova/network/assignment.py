"""The first run of a project, in one transaction: a network of the pool becomes its own, with all that belongs to it.

Concurrent first runs give one network: the pool row's project is unique, and a unit of work that lost is run again or
fails whole. Later runs only take an address (`make_port`).
"""

from __future__ import annotations

import logging
from ipaddress import ip_network

from sqlalchemy import Connection, RowMapping, func, insert, select, update

from kilonova.config import Config
from kilonova.context import Context
from kilonova.errors import NoMoreAddresses, NoMoreNetworks
from kilonova.ids import NetworkId, new_id
from kilonova.network.groups import ensure_default_group
from kilonova.network.ports import FixedIp, MadePort, make_port
from kilonova.network.routers import add_interface, external_network, insert_router, router_row, set_gateway
from kilonova.network.subnets import insert_subnet, network_row
from kilonova.scheduler.network_host import pick_network_host
from kilonova.store.schema import networks, now, pool_networks, routers, subnets

__all__ = [
    "FixedIp",
    "MadePort",
    "ensure_default_group",
    "ensure_project_network",
    "make_port",
    "project_network",
    "release_pool_network",
]

log = logging.getLogger(__name__)

# The names that clients know from the API's auto-allocated topology.
NETWORK_NAME = "auto_allocated_network"
SUBNET_NAME = "auto_allocated_subnet_v4"
ROUTER_NAME = "auto_allocated_router"


def project_network(tx: Connection, project_id: str) -> RowMapping | None:
    """The project's own network (a row of `networks`), if it has one."""
    query = select(networks).where(networks.c.project_id == project_id, networks.c.is_default.is_(True))
    return tx.execute(query.order_by(networks.c.created_at).limit(1)).mappings().one_or_none()


def ensure_project_network(tx: Connection, config: Config, project_id: str, context: Context) -> RowMapping:
    """The project's own network (a row of `networks`), made from the pool at the first run.

    With it come its subnet (gateway .1, services .2), the default router, connected outside when there is an external
    network with an address left, and the default group. Raises `NoMoreNetworks`.
    """
    found = project_network(tx, project_id)
    if found is not None:
        return found
    pool = _free_pool_network(tx)
    host = pick_network_host(tx)
    network_id = NetworkId(new_id())
    tx.execute(
        insert(networks).values(
            id=network_id,
            project_id=project_id,
            name=NETWORK_NAME,
            manager=pool["manager"],
            physical_network=pool["physical_network"],
            segmentation_id=pool["segmentation_id"],
            bridge=pool["bridge"],
            mtu=config.network.mtu,
            is_default=True,
            host=host,
        )
    )
    tx.execute(
        update(pool_networks)
        .where(pool_networks.c.id == pool["id"])
        .values(project_id=project_id, network_id=network_id)
    )
    network = network_row(tx, network_id)
    cidr = ip_network(pool["cidr"])
    subnet_id = insert_subnet(
        tx,
        network=network,
        project_id=project_id,
        cidr=cidr,
        gateway=cidr[1],
        name=SUBNET_NAME,
        dns_nameservers=[],
        host_routes=[],
    )
    _connect(tx, project_id, subnet_id, host)
    ensure_default_group(tx, project_id)
    log.info("project %s was given network %s (%s) on %s", project_id, network_id, cidr, host or "no host yet")
    return network


def release_pool_network(tx: Connection, network: RowMapping) -> None:
    """Give the pool network of a network that is being deleted back; its host must forget it before it is free.

    Without a network host nobody holds it and it is free at once.
    """
    released: dict[str, object] = {"project_id": None, "network_id": None}
    if network["host"]:
        released |= {"released_at": now(), "released_host": network["host"]}
    tx.execute(update(pool_networks).where(pool_networks.c.network_id == network["id"]).values(**released))


def _free_pool_network(tx: Connection) -> RowMapping:
    query = (
        select(pool_networks)
        .where(pool_networks.c.project_id.is_(None), pool_networks.c.released_at.is_(None))
        .order_by(pool_networks.c.position)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    row = tx.execute(query).mappings().one_or_none()
    if row is None:
        total = tx.execute(select(func.count()).select_from(pool_networks)).scalar_one()
        raise NoMoreNetworks(
            f"No more networks available: all {total} networks of the pool are assigned to projects or still held; "
            "an administrator adds some with `kilonova network create`."
        )
    return row


def _connect(tx: Connection, project_id: str, subnet_id: str, host: str | None) -> None:
    """Put the project's default router, made when it has none, at the subnet's gateway address."""
    query = select(routers.c.id).where(routers.c.project_id == project_id, routers.c.is_default.is_(True))
    router_id = tx.execute(query.order_by(routers.c.created_at).limit(1)).scalar_one_or_none()
    if router_id is None:
        router_id = insert_router(tx, project_id=project_id, name=ROUTER_NAME, host=host, is_default=True)
    router = router_row(tx, router_id)
    subnet = tx.execute(select(subnets).where(subnets.c.id == subnet_id)).mappings().one()
    add_interface(tx, router, subnet, subnet["gateway_ip"])
    outside = external_network(tx)
    if router["external_network_id"] is None and outside is not None:
        try:
            with tx.begin_nested():
                set_gateway(tx, router, outside)
        except NoMoreAddresses as error:
            # The project works inside; a later floating range gives the router its gateway.
            log.warning("router %s of project %s has no address outside: %s", router_id, project_id, error)
