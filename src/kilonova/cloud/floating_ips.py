"""Floating IPs as clients of the network API see and change them: taken from a range, given to a fixed address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

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
from kilonova.cloud.networks import NETWORKS
from kilonova.cloud.ports import PORTS
from kilonova.context import Context
from kilonova.errors import BadRequest, Forbidden, NoMoreAddresses
from kilonova.ids import new_id
from kilonova.network import quota
from kilonova.network.errors import (
    ExternalNetworkNotReachable,
    FloatingIPNotFound,
    FloatingIPPortAlreadyAssociated,
)
from kilonova.network.ports import FLOATING_IP, ROUTER_INTERFACE, VPN_CLIENT, FixedIp, MadePort, make_port
from kilonova.store.ports import release_port
from kilonova.store.schema import addresses, floating_ips, ports, routers, subnets


def documents(tx: Connection, rows: Sequence[RowMapping], context: Context) -> list[Document]:
    ids = [row["fixed_port_id"] for row in rows if row["fixed_port_id"] is not None]
    details = {}
    if ids:
        for port in tx.execute(select(ports).where(ports.c.id.in_(ids))).mappings():
            details[port["id"]] = {
                "name": port["name"],
                "network_id": port["network_id"],
                "mac_address": port["mac"],
                "admin_state_up": port["admin_state_up"],
                "status": port["status"],
                "device_id": port["device_id"],
                "device_owner": port["device_owner"],
            }
    return [_document(row, details.get(row["fixed_port_id"])) for row in rows]


def _document(row: RowMapping, details: Document | None) -> Document:
    return standard(row) | {
        "floating_network_id": row["floating_network_id"],
        "floating_ip_address": row["address"],
        "fixed_ip_address": row["fixed_address"],
        "port_id": row["fixed_port_id"],
        "router_id": row["router_id"],
        "status": row["status"],
        "port_details": details,
    }


FLOATING_IPS = Resource(
    noun="Floating IP",
    table=floating_ips,
    columns={field: column for field, column in STANDARD_COLUMNS.items() if field != "name"}
    | {
        "floating_network_id": "floating_network_id",
        "floating_ip_address": "address",
        "fixed_ip_address": "fixed_address",
        "port_id": "fixed_port_id",
        "router_id": "router_id",
        "status": "status",
    },
    documents=documents,
    not_found=FloatingIPNotFound,
)


async def create(cloud: Cloud, context: Context, wanted: Sequence[Mapping[str, Any]]) -> list[Document]:
    """Take addresses, all or none. Raises `NotFound`, `QuotaExceeded`, `NoMoreAddresses`, `BadRequest`, `Conflict`."""

    def unit(tx: Connection) -> tuple[list[Document], set[str]]:
        made = [_create(tx, context, fields) for fields in wanted]
        return made, {host for item in made for host in _hosts(tx, item["id"])}

    made, hosts = await cloud.store.write(unit)
    await cloud.wake_networks(hosts, context)
    return made


async def change(cloud: Cloud, context: Context, floating_id: str, fields: Mapping[str, Any]) -> Document:
    """Associate with `port_id` (none: nothing) or describe. Raises `NotFound`, `BadRequest`, `Conflict`."""
    document, hosts = await cloud.store.write(_change, context, floating_id, fields)
    await cloud.wake_networks(hosts, context)
    return document


async def remove(cloud: Cloud, context: Context, floating_id: str) -> None:
    """Give an address back; it is handed out again once every host has forgotten it. Raises `NotFound`."""
    await cloud.wake_networks(await cloud.store.write(_remove, context, floating_id), context)


def _create(tx: Connection, context: Context, fields: Mapping[str, Any]) -> Document:
    owner = owner_of(context, fields.get("project_id"))
    network = get(tx, NETWORKS, context, fields["floating_network_id"])
    if not network["external"]:
        raise BadRequest(f"Bad floatingip request: Network {network['id']} is not a valid external network.")
    quota.check(tx, owner, "floatingip")
    address = fields.get("floating_ip_address")
    if address is not None and not context.is_admin:
        raise Forbidden("floating_ip_address: only an administrator chooses the address.")
    fixed = _fixed(tx, context, fields, network["id"])
    subnet_id = fields.get("subnet_id")
    wanted = [FixedIp(subnet_id, address)] if subnet_id is not None or address is not None else None
    floating_id = new_id()
    port = _take(tx, network["id"], floating_id, wanted, _router_hosts(tx, owner, network["id"], fixed["router_id"]))
    tx.execute(
        insert(floating_ips).values(
            id=floating_id,
            project_id=owner,
            floating_network_id=network["id"],
            floating_port_id=port.id,
            address=port.fixed_ips[0].address,
            description=fields.get("description", ""),
        )
    )
    _associate(tx, floating_id, fixed)
    return show(tx, FLOATING_IPS, context, floating_id)


def _take(
    tx: Connection, network_id: str, floating_id: str, wanted: Sequence[FixedIp] | None, hosts: set[str]
) -> MadePort:
    """The port that holds the address: as wanted, else of a range of these hosts; of any range if they have none.

    A range is reached by way of its network host, so an address of another one would not always arrive at the router.
    Raises `NoMoreAddresses`.
    """

    def port(fixed_ips: Sequence[FixedIp]) -> MadePort:
        return make_port(
            tx,
            network_id=network_id,
            project_id="",
            device_id=floating_id,
            device_owner=FLOATING_IP,
            fixed_ips=fixed_ips,
            status="ACTIVE",
        )

    if wanted is not None:
        return port(wanted)
    query = select(subnets.c.id, subnets.c.host).where(subnets.c.network_id == network_id, subnets.c.ip_version == 4)
    ranges = tx.execute(query.order_by(subnets.c.created_at, subnets.c.id)).all()
    near = [item for item in ranges if item.host in hosts]
    for item in near or ranges:
        try:
            with tx.begin_nested():
                return port([FixedIp(item.id)])
        except NoMoreAddresses:
            continue
    if not ranges:
        raise BadRequest(f"Bad floatingip request: External network {network_id} has no subnet to take one from.")
    where = f" in the ranges of {', '.join(sorted(hosts))}, where the project's router is" if near else ""
    raise NoMoreAddresses(
        f"No more IP addresses available on network {network_id}{where}: delete floating IPs, or an administrator adds "
        "a range (`kilonova floating create HOST RANGE`)."
    )


def _router_hosts(tx: Connection, project_id: str, network_id: str, router_id: str | None) -> set[str]:
    """The host of the router that will translate; while none is known, those of the project's routers."""
    query = select(routers.c.host)
    if router_id is not None:
        query = query.where(routers.c.id == router_id)
    else:
        query = query.where(routers.c.project_id == project_id, routers.c.external_network_id == network_id)
    return {host for host in tx.execute(query).scalars() if host}


def _host_of(tx: Connection, router_id: str | None) -> str | None:
    host: str | None = tx.execute(select(routers.c.host).where(routers.c.id == router_id)).scalar_one_or_none()
    return host


def _fixed(tx: Connection, context: Context, fields: Mapping[str, Any], network_id: str) -> dict[str, str | None]:
    """The columns of an association: port, its address, and the router between it and the external network."""
    port_id, address = fields.get("port_id"), fields.get("fixed_ip_address")
    if port_id is None:
        if address is not None:
            raise BadRequest("Bad floatingip request: fixed_ip_address cannot be specified without a port_id.")
        return {"fixed_port_id": None, "fixed_address": None, "router_id": None}
    port = get_own(tx, PORTS, context, port_id)
    if port["device_owner"] == VPN_CLIENT:
        raise BadRequest(f"Bad floatingip request: Port {port_id} is a VPN client's, which nobody outside reaches.")
    held = (
        select(addresses.c.address, addresses.c.subnet_id)
        .join(subnets, subnets.c.id == addresses.c.subnet_id)
        .where(addresses.c.port_id == port_id, subnets.c.ip_version == 4)
    )
    rows = tx.execute(held).all()
    if address is not None:
        rows = [row for row in rows if row.address == address]
        if not rows:
            raise BadRequest(f"Bad floatingip request: Port {port_id} does not have fixed ip {address}.")
    if not rows:
        raise BadRequest(
            f"Bad floatingip request: Cannot add floating IP to port {port_id} that has no fixed IPv4 address."
        )
    if len(rows) > 1:
        raise BadRequest(
            f"Bad floatingip request: Port {port_id} has multiple fixed IPv4 addresses. Must provide a specific IPv4 "
            "address when assigning a floating IP."
        )
    query = (
        select(routers.c.id)
        .join(ports, ports.c.device_id == routers.c.id)
        .join(addresses, addresses.c.port_id == ports.c.id)
        .where(
            ports.c.device_owner == ROUTER_INTERFACE,
            addresses.c.subnet_id == rows[0].subnet_id,
            routers.c.external_network_id == network_id,
        )
        .order_by(routers.c.created_at, routers.c.id)
    )
    router_id = tx.execute(query.limit(1)).scalar_one_or_none()
    if router_id is None:
        raise ExternalNetworkNotReachable(
            f"External network {network_id} is not reachable from subnet {rows[0].subnet_id}. Therefore, cannot "
            f"associate Port {port['id']} with a Floating IP: connect them with a router first."
        )
    return {"fixed_port_id": port_id, "fixed_address": rows[0].address, "router_id": router_id}


def _associate(tx: Connection, floating_id: str, fixed: Mapping[str, str | None]) -> None:
    if fixed["fixed_port_id"] is not None:
        query = select(floating_ips.c.id, floating_ips.c.address).where(
            floating_ips.c.fixed_port_id == fixed["fixed_port_id"],
            floating_ips.c.fixed_address == fixed["fixed_address"],
            floating_ips.c.id != floating_id,
        )
        other = tx.execute(query).one_or_none()
        if other is not None:
            raise FloatingIPPortAlreadyAssociated(
                f"Cannot associate floating IP {floating_id} with port {fixed['fixed_port_id']} using fixed IP "
                f"{fixed['fixed_address']}, as that fixed IP already has a floating IP {other.address} ({other.id})."
            )
    # The agent of the router's host says ACTIVE once the translation is in place.
    values = {**fixed, "status": "DOWN"}
    try:
        tx.execute(update(floating_ips).where(floating_ips.c.id == floating_id).values(**values))
    except IntegrityError as error:
        raise FloatingIPPortAlreadyAssociated(
            f"Fixed IP {fixed['fixed_address']} of port {fixed['fixed_port_id']} already has a floating IP."
        ) from error


def _change(tx: Connection, context: Context, floating_id: str, fields: Mapping[str, Any]) -> tuple[Document, set[str]]:
    row = get_own(tx, FLOATING_IPS, context, floating_id)
    hosts = _hosts(tx, floating_id)
    if "port_id" in fields or "fixed_ip_address" in fields:
        port_id = fields["port_id"] if "port_id" in fields else row["fixed_port_id"]
        fixed = _fixed(tx, context, {**fields, "port_id": port_id}, row["floating_network_id"])
        same = all(row[column] == value for column, value in fixed.items())
        if not same:
            _associate(tx, floating_id, fixed)
    elif row["fixed_port_id"] is not None and "description" not in fields:
        # Neutron: an update that names no port takes the floating IP away from its port.
        _associate(tx, floating_id, {"fixed_port_id": None, "fixed_address": None, "router_id": None})
    values: dict[str, Any] = {"description": fields["description"]} if "description" in fields else {}
    tx.execute(
        update(floating_ips)
        .where(floating_ips.c.id == floating_id)
        .values(**values, revision=floating_ips.c.revision + 1)
    )
    return show(tx, FLOATING_IPS, context, floating_id), hosts | _hosts(tx, floating_id)


def _remove(tx: Connection, context: Context, floating_id: str) -> set[str]:
    row = get_own(tx, FLOATING_IPS, context, floating_id)
    hosts = _hosts(tx, floating_id)
    tx.execute(delete(floating_ips).where(floating_ips.c.id == floating_id))
    router_host = _host_of(tx, row["router_id"])
    if router_host is not None:
        # The host that translated must have forgotten the address before another project gets it.
        tx.execute(update(ports).where(ports.c.id == row["floating_port_id"]).values(host=router_host))
    return hosts | set(release_port(tx, row["floating_port_id"]))


def _hosts(tx: Connection, floating_id: str) -> set[str]:
    """The host of the router that translates, and that of the range."""
    query = (
        select(routers.c.host, subnets.c.host)
        .select_from(floating_ips)
        .outerjoin(routers, routers.c.id == floating_ips.c.router_id)
        .outerjoin(addresses, addresses.c.port_id == floating_ips.c.floating_port_id)
        .outerjoin(subnets, subnets.c.id == addresses.c.subnet_id)
        .where(floating_ips.c.id == floating_id)
    )
    return {host for row in tx.execute(query) for host in row if host}
