"""The first run of a project, in one transaction: it is given a network of the pool, with all that belongs to it.

Which type it is `kilonova.scheduler.network_type` decides; the decision is kept in `project_networks`, whose key is the
project: concurrent first runs give one network. Later runs only take an address (`make_port`).
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from ipaddress import ip_network

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from kilonova.config import Config
from kilonova.context import Context
from kilonova.errors import Conflict, InUse, NoMoreAddresses, NoMoreNetworks, NotFound
from kilonova.ids import NetworkId, new_id
from kilonova.network.groups import ensure_default_group
from kilonova.network.managers import SHARED, manager_named
from kilonova.network.managers.wires import HostWires
from kilonova.network.offers import load_offers, next_network, pool_network
from kilonova.network.ports import FixedIp, MadePort, make_port
from kilonova.network.routers import add_interface, external_network, insert_router, router_row, set_gateway
from kilonova.network.subnets import insert_subnet, network_row
from kilonova.scheduler.network_host import live_hosts
from kilonova.scheduler.network_type import Decision, Offer, choose
from kilonova.store.schema import networks, now, pool_networks, project_networks, projects, routers, subnets

__all__ = [
    "FixedIp",
    "MadePort",
    "decide",
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
    """The network the project was given (a row of `networks`), if it was given one."""
    given = project_networks.c
    query = select(networks).join(project_networks, given.network_id == networks.c.id)
    return tx.execute(query.where(given.project_id == project_id)).mappings().one_or_none()


def ensure_project_network(
    tx: Connection,
    config: Config,
    project_id: str,
    context: Context,
    *,
    requested: str | None = None,
    named: str | None = None,
) -> RowMapping:
    """The project's network (a row of `networks`), given to it from the pool at the first run.

    `requested` is a manager, `named` a pool network (id, CIDR or bridge). With a network of the project's own come its
    subnet (gateway .1, services .2), the default router, connected outside when there is an external network with an
    address left; always the default group. Raises `NoMoreNetworks`, and for a name `NotFound` and `InUse`.
    """
    found = project_network(tx, project_id)
    if found is not None:
        return found
    hosts = live_hosts(tx)
    if named is not None:
        pool, decision = _named(tx, config, named, hosts, requested)
    else:
        decision = decide(tx, config, project_id, hosts=hosts, requested=requested)
        row = next_network(tx, decision.offer.manager, decision.offer.physical_network)
        if row is None:
            raise NoMoreNetworks("No more networks available: another project was faster, try again.")
        pool = row
    if decision.offer.manager in SHARED:
        network = network_row(tx, pool["network_id"])
    else:
        network = _make_own(tx, config, project_id, pool, hosts, decision.hosts)
    tx.execute(
        insert(project_networks).values(
            project_id=project_id,
            network_id=network["id"],
            manager=decision.offer.manager,
            requested=decision.requested,
            decision=decision.documents(),
        )
    )
    ensure_default_group(tx, project_id)
    log.info("project %s was given network %s: %s", project_id, network["id"], decision.verdicts[0].reason)
    return network


def decide(
    tx: Connection,
    config: Config,
    project_id: str,
    *,
    hosts: Collection[HostWires] | None = None,
    requested: str | None = None,
) -> Decision:
    """Which type the project's network would be, and why; changes nothing. Raises `NoMoreNetworks`."""
    live = live_hosts(tx) if hosts is None else list(hosts)
    by = "the request"
    if requested is None:
        requested, by = _preference(tx, project_id), f"project {project_id}"
    return choose(load_offers(tx), live, config.network.type_weights, requested=requested, requested_by=by)


def release_pool_network(tx: Connection, network: RowMapping) -> None:
    """Give the pool network of a network that is being deleted back; its host must forget it before it is free.

    Without a network host nobody holds it and it is free at once. A shared one goes with its network.
    """
    if network["manager"] in SHARED:
        tx.execute(delete(pool_networks).where(pool_networks.c.network_id == network["id"]))
        return
    released: dict[str, object] = {"project_id": None, "network_id": None}
    if network["host"]:
        released |= {"released_at": now(), "released_host": network["host"]}
    tx.execute(update(pool_networks).where(pool_networks.c.network_id == network["id"]).values(**released))


def _preference(tx: Connection, project_id: str) -> str | None:
    query = select(projects.c.network_type).where(projects.c.id == project_id)
    wanted: str | None = tx.execute(query).scalar_one_or_none()
    return wanted


def _named(
    tx: Connection, config: Config, name: str, hosts: list[HostWires], requested: str | None
) -> tuple[RowMapping, Decision]:
    """A pool network that an administrator names, as the only offer there is."""
    pool = pool_network(tx, name)
    if pool is None:
        raise NotFound(f"The pool has no network {name}: see `kilonova network list`.")
    what = f"Pool network {pool['cidr']} ({pool['bridge']})"
    if requested not in (None, pool["manager"]):
        raise Conflict(f"{what} is of manager {pool['manager']}, not {requested}: name one of the two.")
    if pool["project_id"] is not None:
        raise InUse(f"{what} is project {pool['project_id']}'s: choose a free one (`kilonova network list --free`).")
    if pool["released_at"] is not None:
        raise InUse(f"{what} was given back but host {pool['released_host'] or 'none'} still holds it: try again.")
    manager = pool["manager"]
    others = [offer for offer in load_offers(tx) if offer.manager != manager]
    offers = [Offer(manager, pool["physical_network"], 1, 1, pool["position"]), *others]
    return pool, choose(
        offers, hosts, config.network.type_weights, requested=manager, requested_by=f"the request for {pool['cidr']}"
    )


def _make_own(
    tx: Connection, config: Config, project_id: str, pool: RowMapping, hosts: list[HostWires], able: Collection[str]
) -> RowMapping:
    """The project's own network of a pool network, with subnet and router.

    Its host is the least loaded one that is able; that of the project's router, if it has kept one.
    """
    manager = manager_named(pool["manager"])
    router = _default_router(tx, project_id)
    host = next((wires.host for wires in hosts if wires.host in able), None)
    if router is not None and router["host"] in able:
        host = router["host"]
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
            mtu=manager.mtu(config, hosts),
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
    _connect(tx, project_id, subnet_id, host, router)
    return network


def _default_router(tx: Connection, project_id: str) -> RowMapping | None:
    query = select(routers).where(routers.c.project_id == project_id, routers.c.is_default.is_(True))
    return tx.execute(query.order_by(routers.c.created_at).limit(1)).mappings().one_or_none()


def _connect(tx: Connection, project_id: str, subnet_id: str, host: str | None, router: RowMapping | None) -> None:
    """Put the project's default router, made when it has none, at the subnet's gateway address."""
    if router is None:
        router = router_row(tx, insert_router(tx, project_id=project_id, name=ROUTER_NAME, host=host, is_default=True))
    subnet = tx.execute(select(subnets).where(subnets.c.id == subnet_id)).mappings().one()
    add_interface(tx, router, subnet, subnet["gateway_ip"])
    outside = external_network(tx)
    if router["external_network_id"] is None and outside is not None:
        try:
            with tx.begin_nested():
                set_gateway(tx, router, outside)
        except NoMoreAddresses as error:
            # The project works inside; a later floating range gives the router its gateway.
            log.warning("router %s of project %s has no address outside: %s", router["id"], project_id, error)
