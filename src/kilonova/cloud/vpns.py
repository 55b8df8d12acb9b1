"""The projects' VPNs: `kilonova vpn`. One per project, in the router of the project's own network, WireGuard.

A client is a port of the project: it counts for the quota, has an address of the project's network and the default
group. Its private key is made here, shown once in its file, and kept nowhere.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, select

from kilonova.cloud import network_hosts
from kilonova.cloud.controller import Cloud
from kilonova.cloud.vpn_lists import Place, clients_of, documents, places
from kilonova.config import Config
from kilonova.context import Context
from kilonova.errors import BadRequest, Conflict, Forbidden, KilonovaError, NoMoreAddresses, NotFound
from kilonova.ids import new_id
from kilonova.network.assignment import project_network
from kilonova.network.managers import SHARED
from kilonova.network.ports import VPN_CLIENT, FixedIp, make_port
from kilonova.network.vpn_files import ClientFile, new_keys
from kilonova.network.vpn_plan import OVERHEAD
from kilonova.store import statements
from kilonova.store.ports import release_port
from kilonova.store.schema import (
    networks,
    pool_networks,
    port_security_groups,
    projects,
    routers,
    vpn_clients,
    vpns,
)

Document = dict[str, Any]
_USER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._+-]{0,63}")


async def find(cloud: Cloud, context: Context) -> list[Document]:
    """Every project that has a network, with its VPN or the port that is set aside for it; changes nothing.

    An administrator sees all of them, others their own.
    """
    found = await cloud.store.read(documents, None if context.is_admin else context.project_id or "")
    return [_seen_by(context, item) for item in found]


async def show(cloud: Cloud, context: Context, project_id: str) -> Document:
    """One of them, with its clients. Raises `NotFound`, `Forbidden`."""
    _check(context, project_id)
    return _seen_by(context, await cloud.store.read(_show, project_id))


async def run(cloud: Cloud, context: Context, project_id: str) -> Document:
    """Start the VPN of a project; one that runs stays as it is.

    Raises `NotFound`, `Forbidden`, and `Conflict` when the project has no network of its own, or no router with an
    address outside.
    """
    _check(context, project_id)
    made = await cloud.store.write(_run, cloud.config, project_id)
    await cloud.wake_networks([made["host"]], context)
    return _seen_by(context, made)


async def spawn(cloud: Cloud, context: Context) -> Document:
    """Start the VPN of every project that has a network and lacks one: what was started, and what could not and why."""
    started: list[Document] = []
    failed: list[Document] = []
    for item in await cloud.store.read(documents, None):
        if item["id"] is not None:
            continue
        try:
            started.append(await run(cloud, context, item["project_id"]))
        except KilonovaError as error:
            named = {name: item[name] for name in ("project_id", "project_name")}
            failed.append(named | {"reason": error.message})
    return {"started": started, "failed": failed}


async def stop(cloud: Cloud, context: Context, project_id: str) -> None:
    """End the VPN of a project and revoke its clients. Raises `NotFound`, `Forbidden`."""
    _check(context, project_id)

    def unit(tx: Connection) -> set[str]:
        vpn = _get(tx, project_id)
        _, hosts = _revoke(tx, vpn, None)
        tx.execute(delete(vpns).where(vpns.c.id == vpn["id"]))
        return hosts

    await cloud.wake_networks(await cloud.store.write(unit), context)


async def config(cloud: Cloud, context: Context, project_id: str, user_name: str) -> Document:
    """Make a client, or give one new keys: its document with `config`, the text of its file for wg-quick(8).

    Raises `NotFound`, `Forbidden`, `BadRequest`, `QuotaExceeded`, `NoMoreAddresses`, `Conflict`.
    """
    _check(context, project_id)
    if not _USER_NAME.fullmatch(user_name):
        raise BadRequest(f"user_name: {user_name!r} is not 1 to 64 letters, digits and any of @ . _ + - ")
    made, hosts = await cloud.store.write(_config, cloud.config, project_id, user_name)
    await cloud.wake_networks(hosts, context)
    return made


async def revoke(cloud: Cloud, context: Context, project_id: str, user_name: str | None) -> list[str]:
    """Take the access of one client, or of all of them, away at once: their names. Raises `NotFound`, `Forbidden`."""
    _check(context, project_id)

    def unit(tx: Connection) -> tuple[list[str], set[str]]:
        return _revoke(tx, _get(tx, project_id), user_name)

    names, hosts = await cloud.store.write(unit)
    await cloud.wake_networks(hosts, context)
    return names


def _seen_by(context: Context, item: Document) -> Document:
    """On which host a router is, only an administrator is told."""
    return item if context.is_admin else item | {"host": None}


def _check(context: Context, project_id: str) -> None:
    if project_id != context.project_id and not context.is_admin:
        raise Forbidden(f"The VPN of project {project_id} is another project's.")


def _show(tx: Connection, project_id: str) -> Document:
    found = documents(tx, project_id)
    if not found:
        _named(tx, project_id)
        raise NotFound(f"Project {project_id} has no network, so no VPN: see `kilonova network assign`.")
    return found[0] | {"clients": clients_of(tx, found[0]["id"])}


def _named(tx: Connection, project_id: str) -> str:
    name: str | None = tx.execute(select(projects.c.name).where(projects.c.id == project_id)).scalar_one_or_none()
    if name is None:
        raise NotFound(f"Could not find project: {project_id}.")
    return name


def _get(tx: Connection, project_id: str) -> RowMapping:
    row = statements.rows(tx, vpns, project_id=project_id).mappings().one_or_none()
    if row is None:
        raise NotFound(f"Project {project_id} has no VPN: `kilonova vpn run {project_id}` starts one.")
    return row


def _run(tx: Connection, config: Config, project_id: str) -> Document:
    name = _named(tx, project_id)
    if statements.rows(tx, vpns, project_id=project_id).one_or_none() is None:
        network = project_network(tx, project_id)
        if network is None:
            raise Conflict(
                f"Project {name} has no network yet, so no router to reach it by: start a server in it, or give it one "
                f"(`kilonova network assign {name}`)."
            )
        if network["manager"] in SHARED:
            raise Conflict(
                f"Network {network['id']} of project {name} is {network['manager']}: its router is the "
                "administrator's, and a VPN is in a router of this cloud."
            )
        place = places(tx, project_id).get(network["id"])
        if place is None or place.address is None:
            what = "no router" if place is None else f"no address outside at its router {place.router_id}"
            raise Conflict(
                f"Network {network['id']} of project {name} has {what}: a VPN is reached by one (`openstack router set "
                "--external-gateway`; `kilonova floating list` shows which addresses there are)."
            )
        keys = new_keys()
        tx.execute(
            insert(vpns).values(
                id=new_id(),
                project_id=project_id,
                router_id=place.router_id,
                port=_free_port(tx, config, network["id"]),
                private_key=keys.private,
                public_key=keys.public,
            )
        )
    return _show(tx, project_id)


def _free_port(tx: Connection, config: Config, network_id: str) -> int:
    """The port that the pool set aside for the network; for another one the first that nobody has."""
    taken = set(tx.execute(select(vpns.c.port)).scalars())
    own = statements.rows(tx, pool_networks, network_id=network_id).one_or_none()
    if own is not None and own.vpn_port and own.vpn_port not in taken:
        return int(own.vpn_port)
    taken |= set(tx.execute(select(pool_networks.c.vpn_port)).scalars())
    first, last = config.network.vpn_port_first, config.network.vpn_port_last
    port = next((port for port in range(first, last + 1) if port not in taken), None)
    if port is None:
        raise Conflict(f"No more VPN ports: all from {first} to {last} are taken (`vpn_port_last` widens the range).")
    return port


def _config(tx: Connection, config: Config, project_id: str, user_name: str) -> tuple[Document, set[str]]:
    project = _named(tx, project_id)
    vpn = _get(tx, project_id)
    router = tx.execute(select(routers).where(routers.c.id == vpn["router_id"])).mappings().one()
    place = next((each for each in places(tx, project_id).values() if each.router_id == router["id"]), None)
    if place is None or place.address is None:
        raise Conflict(
            f"The VPN of project {project} has no address outside: its router {router['id']} lost its gateway."
        )
    keys = new_keys()
    known = statements.rows(tx, vpn_clients, vpn_id=vpn["id"], user_name=user_name).one_or_none()
    if known is None:
        port_id = _make_client_port(tx, place, router, project_id, user_name)
        values = {"id": new_id(), "vpn_id": vpn["id"], "user_name": user_name, "port_id": port_id}
        tx.execute(insert(vpn_clients).values(**values, public_key=keys.public))
    else:
        port_id = known.port_id
        statements.change(tx, vpn_clients, {"id": known.id}, public_key=keys.public, handshake_at=None)
    [client] = clients_of(tx, vpn["id"], user_name)
    outside = statements.rows(tx, networks, id=router["external_network_id"]).mappings().one()
    subnet = next(row for row in place.inside if row["id"] == client["subnet_id"])
    servers = tuple(str(ip_address(server)) for server in subnet["dns_nameservers"] or ())
    if not servers and config.network.dns_nameservers and subnet["service_address"]:
        servers = (subnet["service_address"],)
    file = ClientFile(
        project=project,
        user=user_name,
        private_key=keys.private,
        address=client["address"],
        mtu=outside["mtu"] - OVERHEAD,
        server_key=vpn["public_key"],
        endpoint=f"{place.address}:{vpn['port']}",
        networks=tuple(row["cidr"] for row in place.inside),
        dns=servers,
        local_dns=subnet["service_address"] or "",
    )
    return client | {"config": file.text()}, _hosts(tx, router, [port_id])


def _make_client_port(tx: Connection, place: Place, router: RowMapping, project_id: str, user_name: str) -> str:
    """A port in the first of the network's subnets behind the router that has an address left."""
    failure: NoMoreAddresses | None = None
    for subnet in place.inside:
        if subnet["network_id"] != place.network_id:
            continue
        try:
            with tx.begin_nested():
                made = make_port(
                    tx,
                    network_id=place.network_id,
                    project_id=project_id,
                    name=f"vpn-{user_name}",
                    device_id=router["id"],
                    device_owner=VPN_CLIENT,
                    host=router["host"] or "",
                    fixed_ips=[FixedIp(subnet["id"])],
                    port_security_enabled=True,
                )
        except NoMoreAddresses as error:
            failure = error
        else:
            return made.id
    raise failure or Conflict(f"Router {router['id']} is in no IPv4 subnet of network {place.network_id} any more.")


def _revoke(tx: Connection, vpn: RowMapping, user_name: str | None) -> tuple[list[str], set[str]]:
    query = select(vpn_clients).where(vpn_clients.c.vpn_id == vpn["id"]).order_by(vpn_clients.c.user_name)
    if user_name is not None:
        query = query.where(vpn_clients.c.user_name == user_name)
    rows = tx.execute(query).all()
    if user_name is not None and not rows:
        raise NotFound(f"The VPN of project {vpn['project_id']} has no client {user_name}.")
    router = tx.execute(select(routers).where(routers.c.id == vpn["router_id"])).mappings().one()
    hosts = _hosts(tx, router, [row.port_id for row in rows])
    for row in rows:
        tx.execute(delete(vpn_clients).where(vpn_clients.c.id == row.id))
        hosts |= set(release_port(tx, row.port_id))
    return [row.user_name for row in rows], hosts


def _hosts(tx: Connection, router: RowMapping, port_ids: list[str]) -> set[str]:
    """Who acts on clients: the router's host, and those whose rules name a group that they are in."""
    links = port_security_groups.c
    groups = tx.execute(select(links.security_group_id).where(links.port_id.in_(port_ids)).distinct()).scalars().all()
    return network_hosts.of_groups(tx, groups) | ({router["host"]} if router["host"] else set())
