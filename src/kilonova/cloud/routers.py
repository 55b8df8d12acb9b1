"""Routers as clients of the network API see and change them: interfaces, gateway, static routes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, select, true, update

from kilonova.cloud import network_hosts
from kilonova.cloud.controller import Cloud
from kilonova.cloud.network_lists import (
    STANDARD_COLUMNS,
    Document,
    Resource,
    get,
    get_own,
    owner_of,
    show,
    standard,
)
from kilonova.cloud.ports import PORTS
from kilonova.cloud.subnets import SUBNETS, checked_route
from kilonova.context import Context
from kilonova.errors import BadRequest, Conflict, Forbidden
from kilonova.network import quota
from kilonova.network.errors import (
    NetworkNotFound,
    PortInUse,
    RouterExternalGatewayInUseByFloatingIp,
    RouterInterfaceInUseByFloatingIP,
    RouterInterfaceInUseByRoute,
    RouterInterfaceNotFound,
    RouterInterfaceNotFoundForSubnet,
    RouterInUse,
    RouterNotFound,
)
from kilonova.network.managers import SHARED
from kilonova.network.ports import ROUTER_GATEWAY, ROUTER_INTERFACE, FixedIp
from kilonova.network.routers import add_interface, clear_gateway, insert_router, set_gateway
from kilonova.scheduler.network_host import pick_network_host
from kilonova.store.ports import release_port
from kilonova.store.schema import (
    addresses,
    floating_ips,
    networks,
    pool_networks,
    ports,
    project_networks,
    routers,
    subnets,
    vpns,
)

_MOST_ROUTES = 30
_MOST_OUTSIDE_ADDRESSES = 5
_PLAIN = ("name", "description", "admin_state_up")


def documents(tx: Connection, rows: Sequence[RowMapping], context: Context) -> list[Document]:
    query = (
        select(ports.c.device_id, addresses.c.subnet_id, addresses.c.address)
        .join(addresses, addresses.c.port_id == ports.c.id)
        .where(ports.c.device_id.in_([row["id"] for row in rows]), ports.c.device_owner == ROUTER_GATEWAY)
    )
    outside: dict[str, list[dict[str, str]]] = defaultdict(list)
    for router_id, subnet_id, address in tx.execute(query):
        outside[router_id].append({"subnet_id": subnet_id, "ip_address": address})
    return [_document(row, outside[row["id"]]) for row in rows]


def _document(row: RowMapping, outside: list[dict[str, str]]) -> Document:
    gateway = None
    if row["external_network_id"] is not None:
        gateway = {
            "network_id": row["external_network_id"],
            "enable_snat": row["enable_snat"],
            "external_fixed_ips": outside,
        }
    return standard(row) | {
        "name": row["name"],
        "admin_state_up": row["admin_state_up"],
        "status": row["status"],
        "external_gateway_info": gateway,
        "routes": row["routes"],
        "availability_zone_hints": [],
        "availability_zones": ["nova"] if row["host"] else [],
    }


def _in_zone(values: Sequence[str]) -> ColumnElement[bool]:
    return true() if "nova" in values else ~true()


ROUTERS = Resource(
    noun="Router",
    table=routers,
    columns=STANDARD_COLUMNS | {"admin_state_up": "admin_state_up", "status": "status"},
    documents=documents,
    not_found=RouterNotFound,
    conditions={"availability_zones": _in_zone},
)


async def create(cloud: Cloud, context: Context, wanted: Sequence[Mapping[str, Any]]) -> list[Document]:
    """Make routers, all or none. Raises `QuotaExceeded`, `NotFound`, `BadRequest`, `NoMoreAddresses`, `Forbidden`."""

    def unit(tx: Connection) -> list[tuple[Document, str | None]]:
        return [_create(tx, context, fields) for fields in wanted]

    made = await cloud.store.write(unit)
    await cloud.wake_networks({host for _, host in made}, context)
    return [document for document, _ in made]


async def change(cloud: Cloud, context: Context, router_id: str, fields: Mapping[str, Any]) -> Document:
    """Change a router; `external_gateway_info` without a network disconnects it. Raises as `create`, and `InUse`."""
    document, host = await cloud.store.write(_change, context, router_id, fields)
    await cloud.wake_networks([host], context)
    return document


async def remove(cloud: Cloud, context: Context, router_id: str) -> None:
    """Delete a router. Raises `NotFound`, `Forbidden`, `InUse` while it has interfaces."""
    await cloud.wake_networks([await cloud.store.write(_remove, context, router_id)], context)


async def connect(cloud: Cloud, context: Context, router_id: str, fields: Mapping[str, Any]) -> Document:
    """Add an interface, by `subnet_id` (at its gateway address) or `port_id`. Raises `BadRequest`, `Conflict`, ..."""
    document, hosts = await cloud.store.write(_connect, context, router_id, fields)
    await cloud.wake_networks(hosts, context)
    return document


async def disconnect(cloud: Cloud, context: Context, router_id: str, fields: Mapping[str, Any]) -> Document:
    """Remove an interface, by `subnet_id` or `port_id`. Raises `NotFound`, `InUse` while a floating IP needs it."""
    document, hosts = await cloud.store.write(_disconnect, context, router_id, fields)
    await cloud.wake_networks(hosts, context)
    return document


def _create(tx: Connection, context: Context, fields: Mapping[str, Any]) -> tuple[Document, str | None]:
    owner = owner_of(context, fields.get("project_id"))
    quota.check(tx, owner, "router")
    host = pick_network_host(tx)
    router_id = insert_router(
        tx,
        project_id=owner,
        name=fields.get("name", ""),
        description=fields.get("description", ""),
        admin_state_up=fields.get("admin_state_up", True),
        host=host,
    )
    if fields.get("external_gateway_info"):
        _set_gateway(tx, context, get(tx, ROUTERS, context, router_id), fields["external_gateway_info"])
    return show(tx, ROUTERS, context, router_id), host


def _set_gateway(tx: Connection, context: Context, router: RowMapping, info: Mapping[str, Any] | None) -> None:
    network_id = (info or {}).get("network_id")
    if not info or network_id is None:
        _refuse_floating(tx, router, None)
        _refuse_routed(tx, router, _outer_subnets(tx, router["id"]))
        _refuse_vpn(tx, router["id"])
        clear_gateway(tx, router["id"])
        return
    network = tx.execute(select(networks).where(networks.c.id == network_id)).mappings().one_or_none()
    visible = network is not None and (
        context.is_admin or network["external"] or network["project_id"] == context.project_id
    )
    if network is None or not visible:
        raise NetworkNotFound(f"Network {network_id} could not be found.")
    if not network["external"]:
        raise BadRequest(f"Bad router request: Network {network_id} is not an external network.")
    fixed = info.get("external_fixed_ips") or None
    snat = info.get("enable_snat")
    if len(fixed or []) > _MOST_OUTSIDE_ADDRESSES:
        raise BadRequest(f"external_fixed_ips: more than {_MOST_OUTSIDE_ADDRESSES} addresses for one router.")
    if not context.is_admin:
        if fixed and (len(fixed) > 1 or any(item.get("ip_address") for item in fixed)):
            raise Forbidden("external_fixed_ips: only an administrator chooses the gateway's address, or several.")
        if snat is False:
            raise Forbidden("enable_snat: only an administrator turns it off.")
    wanted = None if fixed is None else [FixedIp(item.get("subnet_id"), item.get("ip_address")) for item in fixed]
    if router["external_network_id"] == network_id and wanted is None:
        values = {"enable_snat": router["enable_snat"] if snat is None else snat}
        tx.execute(update(routers).where(routers.c.id == router["id"]).values(**values))
        return
    if router["external_network_id"] != network_id:
        _refuse_floating(tx, router, network_id)
        _refuse_vpn(tx, router["id"])
    inner = [ip_network(cidr) for cidr in tx.execute(_inner_cidrs(router["id"])).scalars()]
    ranges = select(subnets.c.cidr).where(subnets.c.network_id == network_id)
    for cidr in tx.execute(ranges).scalars():
        if any(ip_network(cidr).overlaps(other) for other in inner if other.version == ip_network(cidr).version):
            raise BadRequest(f"Bad router request: the external subnet {cidr} overlaps a subnet of the router.")
    set_gateway(tx, router, network_id, fixed_ips=wanted, enable_snat=True if snat is None else snat)


def _refuse_floating(tx: Connection, router: RowMapping, network_id: str | None) -> None:
    """A gateway stays as long as floating IPs go through it."""
    query = select(floating_ips.c.address).where(floating_ips.c.router_id == router["id"])
    if network_id is not None:
        query = query.where(floating_ips.c.floating_network_id != network_id)
    used = tx.execute(query.limit(1)).scalar_one_or_none()
    if used is not None:
        raise RouterExternalGatewayInUseByFloatingIp(
            f"Gateway cannot be updated for router {router['id']}, since a gateway to external network "
            f"{router['external_network_id']} is required by one or more floating IPs: {used}."
        )


def _outer_subnets(tx: Connection, router_id: str) -> Sequence[str]:
    query = (
        select(addresses.c.subnet_id)
        .join(ports, ports.c.id == addresses.c.port_id)
        .where(ports.c.device_id == router_id, ports.c.device_owner == ROUTER_GATEWAY)
    )
    return tx.execute(query).scalars().all()


def _refuse_vpn(tx: Connection, router_id: str, network_id: str | None = None) -> None:
    """A router that clients of a VPN come in by keeps what they need: its gateway, and its leg in their network."""
    query = select(vpns.c.project_id).where(vpns.c.router_id == router_id)
    if network_id is not None:
        query = query.join(project_networks, project_networks.c.project_id == vpns.c.project_id).where(
            project_networks.c.network_id == network_id
        )
    project_id = tx.execute(query.limit(1)).scalar_one_or_none()
    if project_id is not None:
        raise RouterInUse(
            f"Router {router_id} serves the VPN of project {project_id}: end that first (`kilonova vpn stop "
            f"{project_id}`)."
        )


def _inner_cidrs(router_id: str) -> Any:
    return (
        select(subnets.c.cidr)
        .join(addresses, addresses.c.subnet_id == subnets.c.id)
        .join(ports, ports.c.id == addresses.c.port_id)
        .where(ports.c.device_id == router_id, ports.c.device_owner == ROUTER_INTERFACE)
    )


def _change(tx: Connection, context: Context, router_id: str, fields: Mapping[str, Any]) -> tuple[Document, str | None]:
    router = get_own(tx, ROUTERS, context, router_id)
    values = {name: fields[name] for name in _PLAIN if name in fields}
    if "external_gateway_info" in fields:
        _set_gateway(tx, context, router, fields["external_gateway_info"])
    if "routes" in fields:
        values["routes"] = _checked_routes(tx, router_id, fields["routes"] or [])
    if values or "external_gateway_info" in fields:
        tx.execute(update(routers).where(routers.c.id == router_id).values(**values, revision=routers.c.revision + 1))
    return show(tx, ROUTERS, context, router_id), router["host"]


def _checked_routes(tx: Connection, router_id: str, routes: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    if len(routes) > _MOST_ROUTES:
        raise BadRequest(f"routes: {len(routes)} are more than {_MOST_ROUTES}.")
    checked = [checked_route(route, "routes") for route in routes]
    if len({tuple(route.items()) for route in checked}) != len(checked):
        raise BadRequest("routes: a route is there twice.")
    of_router = (
        select(subnets.c.cidr)
        .join(addresses, addresses.c.subnet_id == subnets.c.id)
        .join(ports, ports.c.id == addresses.c.port_id)
        .where(ports.c.device_id == router_id)
    )
    near = [ip_network(cidr) for cidr in tx.execute(of_router).scalars()]
    own = set(
        tx.execute(
            select(addresses.c.address)
            .join(ports, ports.c.id == addresses.c.port_id)
            .where(ports.c.device_id == router_id)
        ).scalars()
    )
    for route in checked:
        hop = ip_address(route["nexthop"])
        if not any(hop in network for network in near if network.version == hop.version):
            raise BadRequest(f"routes: the nexthop {hop} is not connected with router {router_id}.")
        if str(hop) in own:
            raise BadRequest(f"routes: the nexthop {hop} is used by router {router_id} itself.")
        if any(hop in (network.network_address, network.broadcast_address) for network in near if _has_edges(network)):
            raise BadRequest(f"routes: the nexthop {hop} is no host's address.")
        if ip_network(route["destination"]) in near:
            raise BadRequest(f"routes: {route['destination']} is connected with router {router_id}: it needs no route.")
    return checked


def _has_edges(network: IPv4Network | IPv6Network) -> bool:
    """Whether its first and last address mean all of it, as in IPv4; /31 and /32 have none (RFC 3021)."""
    return network.version == 4 and network.prefixlen < 31


def _remove(tx: Connection, context: Context, router_id: str) -> str | None:
    router = get_own(tx, ROUTERS, context, router_id)
    inner = select(ports.c.id).where(ports.c.device_id == router_id, ports.c.device_owner == ROUTER_INTERFACE)
    used = tx.execute(inner.limit(5)).scalars().all()
    if used:
        raise RouterInUse(f"Router {router_id} still has ports: {', '.join(used)}. Remove these interfaces first.")
    _refuse_vpn(tx, router_id)
    clear_gateway(tx, router_id)
    tx.execute(delete(routers).where(routers.c.id == router_id))
    host: str | None = router["host"]
    return host


def _connect(tx: Connection, context: Context, router_id: str, fields: Mapping[str, Any]) -> tuple[Document, set[str]]:
    router = get_own(tx, ROUTERS, context, router_id)
    subnet_id, port_id = fields.get("subnet_id"), fields.get("port_id")
    if (subnet_id is None) == (port_id is None):
        raise BadRequest("Bad router request: name either subnet_id or port_id.")
    if subnet_id is not None:
        subnet = get(tx, SUBNETS, context, subnet_id)
        if subnet["project_id"] != router["project_id"] and not context.is_admin:
            raise Forbidden(f"Subnet {subnet_id} is of a network of another project: use a port of your own on it.")
        if subnet["gateway_ip"] is None:
            raise BadRequest(f"Bad router request: Subnet for router interface must have a gateway IP: {subnet_id}.")
        if ip_address(subnet["gateway_ip"]) not in ip_network(subnet["cidr"]):
            raise BadRequest(
                f"Bad router request: the gateway {subnet['gateway_ip']} of subnet {subnet_id} is a router of its own: "
                "connect by a port."
            )
        _refuse_foreign_gateway(tx, subnet)
        _refuse_overlap(tx, router_id, [subnet])
        router = _placed(tx, router, subnet["network_id"])
        port_id = add_interface(tx, router, subnet, subnet["gateway_ip"]).id
        ids, network_id = [subnet_id], subnet["network_id"]
    else:
        port = get_own(tx, PORTS, context, str(port_id))
        if port["device_id"] or port["device_owner"]:
            raise PortInUse(
                f"Unable to complete operation on port {port_id} for network {port['network_id']}. Port already has an "
                f"attached device {port['device_id']}."
            )
        of_port = select(subnets).join(addresses, addresses.c.subnet_id == subnets.c.id)
        rows = list(tx.execute(of_port.where(addresses.c.port_id == port_id)).mappings())
        if not rows:
            raise BadRequest("Bad router request: Router port must have at least one fixed IP.")
        _refuse_overlap(tx, router_id, rows)
        router = _placed(tx, router, port["network_id"])
        values = {"device_id": router_id, "device_owner": ROUTER_INTERFACE, "host": router["host"] or ""}
        tx.execute(update(ports).where(ports.c.id == port_id).values(**values))
        ids, network_id = [row["id"] for row in rows], port["network_id"]
    document = _interface(router, str(port_id), network_id, ids)
    return document, _hosts(tx, router, network_id)


def _refuse_foreign_gateway(tx: Connection, subnet: RowMapping) -> None:
    """The gateway of a flat network of the pool is a machine of the administrator's: two would answer for it."""
    flat = select(pool_networks.c.id).where(
        pool_networks.c.network_id == subnet["network_id"], pool_networks.c.manager.in_(SHARED)
    )
    if not subnet["project_id"] and tx.execute(flat).first() is not None:
        raise BadRequest(
            f"Bad router request: the gateway {subnet['gateway_ip']} of subnet {subnet['id']} is a router of its own: "
            "connect by a port."
        )


def _placed(tx: Connection, router: RowMapping, network_id: str) -> RowMapping:
    """A router that was made while no network host was alive goes where its network is."""
    if router["host"]:
        return router
    host = tx.execute(select(networks.c.host).where(networks.c.id == network_id)).scalar_one()
    tx.execute(update(routers).where(routers.c.id == router["id"]).values(host=host or pick_network_host(tx)))
    return tx.execute(select(routers).where(routers.c.id == router["id"])).mappings().one()


def _refuse_overlap(tx: Connection, router_id: str, wanted: Sequence[RowMapping]) -> None:
    query = (
        select(subnets.c.id, subnets.c.cidr)
        .join(addresses, addresses.c.subnet_id == subnets.c.id)
        .join(ports, ports.c.id == addresses.c.port_id)
        .where(ports.c.device_id == router_id)
    )
    for row in tx.execute(query).all():
        for subnet in wanted:
            if row.id == subnet["id"]:
                raise BadRequest(f"Bad router request: Router already has a port on subnet {row.id}.")
            one, other = ip_network(row.cidr), ip_network(subnet["cidr"])
            if one.version == other.version and one.overlaps(other):
                raise BadRequest(
                    f"Bad router request: Cidr {other} of subnet {subnet['id']} overlaps with cidr {one} of subnet "
                    f"{row.id}."
                )


def _interface(router: RowMapping, port_id: str, network_id: str, subnet_ids: list[str]) -> Document:
    return {
        "id": router["id"],
        "tenant_id": router["project_id"],
        "project_id": router["project_id"],
        "port_id": port_id,
        "network_id": network_id,
        "subnet_id": subnet_ids[0],
        "subnet_ids": subnet_ids,
        "tags": router["tags"],
    }


def _disconnect(
    tx: Connection, context: Context, router_id: str, fields: Mapping[str, Any]
) -> tuple[Document, set[str]]:
    router = get_own(tx, ROUTERS, context, router_id)
    subnet_id, port_id = fields.get("subnet_id"), fields.get("port_id")
    if subnet_id is None and port_id is None:
        raise BadRequest("Bad router request: Either subnet_id or port_id must be specified.")
    query = (
        select(ports.c.id, ports.c.network_id, addresses.c.subnet_id)
        .join(addresses, addresses.c.port_id == ports.c.id)
        .where(ports.c.device_id == router_id, ports.c.device_owner == ROUTER_INTERFACE)
    )
    rows = tx.execute(query).all()
    if port_id is not None:
        found = [row for row in rows if row.id == port_id]
        if not found:
            raise RouterInterfaceNotFound(f"Router {router_id} does not have an interface with id {port_id}")
        if subnet_id is not None and all(row.subnet_id != subnet_id for row in found):
            raise Conflict(f"Port {port_id} of router {router_id} is not on subnet {subnet_id}.")
    else:
        found = [row for row in rows if row.subnet_id == subnet_id]
        if not found:
            raise RouterInterfaceNotFoundForSubnet(f"Router {router_id} has no interface on subnet {subnet_id}")
    ids = [row.subnet_id for row in found]
    needed = (
        select(floating_ips.c.address)
        .join(addresses, addresses.c.port_id == floating_ips.c.fixed_port_id)
        .where(
            floating_ips.c.router_id == router_id,
            addresses.c.address == floating_ips.c.fixed_address,
            addresses.c.subnet_id.in_(ids),
        )
    )
    used = tx.execute(needed.limit(1)).scalar_one_or_none()
    if used is not None:
        raise RouterInterfaceInUseByFloatingIP(
            f"Router interface for subnet {ids[0]} on router {router_id} cannot be deleted, as it is required by "
            f"one or more floating IPs: {used}."
        )
    _refuse_routed(tx, router, ids)
    gone, network_id = found[0].id, found[0].network_id
    _refuse_vpn(tx, router_id, network_id)
    hosts = _hosts(tx, router, network_id)
    release_port(tx, gone)
    return _interface(router, gone, network_id, ids), hosts


def _refuse_routed(tx: Connection, router: RowMapping, subnet_ids: Sequence[str]) -> None:
    """An interface stays as long as a static route leads through it."""
    near = [
        ip_network(cidr) for cidr in tx.execute(select(subnets.c.cidr).where(subnets.c.id.in_(subnet_ids))).scalars()
    ]
    for route in router["routes"] or ():
        if any(ip_address(route["nexthop"]) in network for network in near):
            raise RouterInterfaceInUseByRoute(
                f"Router interface for subnet {subnet_ids[0]} on router {router['id']} cannot be deleted, as it is "
                f"required by the route to {route['destination']} via {route['nexthop']}."
            )


def _hosts(tx: Connection, router: RowMapping, network_id: str) -> set[str]:
    return network_hosts.of_network(tx, network_id) | ({router["host"]} if router["host"] else set())
