"""Networks as clients of the network API see and change them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, insert, or_, select, true, update
from sqlalchemy.exc import IntegrityError

from kilonova.cloud import network_hosts
from kilonova.cloud.controller import Cloud
from kilonova.cloud.network_lists import (
    STANDARD_COLUMNS,
    Document,
    Resource,
    as_bool,
    get_own,
    owner_of,
    show,
    standard,
)
from kilonova.config import Config
from kilonova.context import Context
from kilonova.errors import BadRequest, Conflict, Forbidden
from kilonova.ids import new_id
from kilonova.network import quota
from kilonova.network.assignment import release_pool_network
from kilonova.network.errors import NetworkInUse, NetworkNotFound, VlanIdInUse
from kilonova.network.ipv6 import LEAST_MTU
from kilonova.network.managers import NAMES, Segment, able_hosts, manager_named, new_segment
from kilonova.network.managers.wires import HostWires
from kilonova.network.ports import DHCP
from kilonova.network.texts import is_domain_name
from kilonova.scheduler.network_host import live_hosts
from kilonova.store import statements
from kilonova.store.ports import release_port
from kilonova.store.schema import addresses, networks, pool_networks, ports, project_networks, subnets

TYPES = {name: manager_named(name).network_type for name in NAMES}
"""Network manager -> the API's provider:network_type."""

_MANAGERS = {"flat": "flat-dhcp", "vlan": "vlan", "vxlan": "vxlan"}
"""The manager of a network that is made by the API; whether a flat one has DHCP, its subnets say."""

_LEAST_MTU, _LARGEST_MTU = 68, 9216

_FIELDS = {
    "name": "name",
    "description": "description",
    "admin_state_up": "admin_state_up",
    "shared": "shared",
    "router:external": "external",
    "port_security_enabled": "port_security_enabled",
    "mtu": "mtu",
    "dns_domain": "dns_domain",
}
"""Field -> column of what may be set directly."""


def documents(tx: Connection, rows: Sequence[RowMapping], context: Context) -> list[Document]:
    query = select(subnets.c.network_id, subnets.c.id).where(subnets.c.network_id.in_([row["id"] for row in rows]))
    subnet_ids: dict[str, list[str]] = defaultdict(list)
    for network_id, subnet_id in tx.execute(query.order_by(subnets.c.created_at, subnets.c.id)):
        subnet_ids[network_id].append(subnet_id)
    return [_document(row, subnet_ids[row["id"]], context) for row in rows]


def _document(row: RowMapping, subnet_ids: list[str], context: Context) -> Document:
    document = standard(row) | {
        "name": row["name"],
        "admin_state_up": row["admin_state_up"],
        "status": row["status"] if row["admin_state_up"] else "DOWN",
        "subnets": subnet_ids,
        "shared": row["shared"],
        "router:external": row["external"],
        "mtu": row["mtu"],
        "port_security_enabled": row["port_security_enabled"],
        "dns_domain": row["dns_domain"],
        "availability_zone_hints": [],
        "availability_zones": ["nova"] if row["host"] else [],
    }
    if context.is_admin:
        document["provider:network_type"] = TYPES[row["manager"]]
        document["provider:physical_network"] = None if row["manager"] == "vxlan" else row["physical_network"]
        document["provider:segmentation_id"] = row["segmentation_id"]
    return document


def _others(_context: Context) -> ColumnElement[bool]:
    return networks.c.shared.is_(True) | networks.c.external.is_(True)


def _of_type(values: Sequence[str]) -> ColumnElement[bool]:
    return networks.c.manager.in_([manager for manager, name in TYPES.items() if name in values])


def _with_subnets(values: Sequence[str]) -> ColumnElement[bool]:
    return networks.c.id.in_(select(subnets.c.network_id).where(subnets.c.id.in_(values)))


def _in_zone(values: Sequence[str]) -> ColumnElement[bool]:
    return true() if "nova" in values else ~true()


def _is_default(values: Sequence[str]) -> ColumnElement[bool]:
    return or_(*(networks.c.is_default.is_(as_bool("is_default", value)) for value in values))


NETWORKS = Resource(
    noun="Network",
    table=networks,
    columns=STANDARD_COLUMNS
    | _FIELDS
    | {
        "status": "status",
        "provider:physical_network": "physical_network",
        "provider:segmentation_id": "segmentation_id",
    },
    documents=documents,
    not_found=NetworkNotFound,
    conditions={
        "provider:network_type": _of_type,
        "subnets": _with_subnets,
        "availability_zones": _in_zone,
        "is_default": _is_default,
    },
    also_visible=_others,
)


async def create(cloud: Cloud, context: Context, wanted: Sequence[Mapping[str, Any]]) -> list[Document]:
    """Make networks, all or none. Raises `QuotaExceeded`, `BadRequest`, `Conflict`, `Forbidden`.

    `wanted` has the fields of the API, without those that are not set; only an administrator may share a network, make
    it external or choose its segment.
    """

    def unit(tx: Connection) -> list[Document]:
        return [_create(tx, cloud.config, context, fields) for fields in wanted]

    return await cloud.store.write(unit)


async def change(cloud: Cloud, context: Context, network_id: str, fields: Mapping[str, Any]) -> Document:
    """Change a network. Raises `NotFound`, `Forbidden`, `BadRequest`, `InUse`."""
    document, hosts = await cloud.store.write(_change, context, network_id, fields)
    await cloud.wake_networks(hosts, context)
    return document


async def remove(cloud: Cloud, context: Context, network_id: str) -> None:
    """Delete a network with its subnets. Raises `NotFound`, `Forbidden`, `InUse` saying by what."""
    await cloud.wake_networks(await cloud.store.write(_remove, context, network_id), context)


def _create(tx: Connection, config: Config, context: Context, fields: Mapping[str, Any]) -> Document:
    owner = owner_of(context, fields.get("project_id"))
    _check(fields, context)
    quota.check(tx, owner, "network")
    kind = fields.get("provider:network_type")
    if kind is None and {"provider:physical_network", "provider:segmentation_id"} & fields.keys():
        raise BadRequest("provider:network_type: is needed with the other provider attributes.")
    hosts = live_hosts(tx)
    segment, able = _segment(tx, config, hosts, fields)
    _refuse_segment_of_pool(tx, segment)
    network_id = new_id()
    values = {column: fields[name] for name, column in _FIELDS.items() if name in fields}
    try:
        tx.execute(
            insert(networks).values(
                **({"mtu": _mtu(config, hosts, segment.manager, fields.get("mtu"))} | values),
                id=network_id,
                project_id=owner,
                manager=segment.manager,
                physical_network=segment.physical_network,
                segmentation_id=segment.segmentation_id,
                bridge=segment.bridge,
                host=next((host.host for host in hosts if host.host in able), None),
            )
        )
    except IntegrityError as error:
        raise VlanIdInUse(f"Unable to create the network. {_in_words(segment)} is in use.") from error
    return show(tx, NETWORKS, context, network_id)


def _segment(
    tx: Connection, config: Config, hosts: Sequence[HostWires], fields: Mapping[str, Any]
) -> tuple[Segment, Collection[str]]:
    """The segment that is asked for, else one of the default manager; and the hosts that can carry it."""
    kind = fields.get("provider:network_type")
    name = config.network.default_manager if kind is None else _MANAGERS[kind]
    segment = new_segment(
        tx,
        config,
        hosts,
        manager=name,
        physical_network=fields.get("provider:physical_network") or "",
        segmentation_id=fields.get("provider:segmentation_id"),
    )
    able, why_not = able_hosts(manager_named(name), segment.physical_network, hosts)
    if fields.get("router:external"):
        # Its frames are on the public wire of every host.
        return segment, {host.host for host in hosts}
    if why_not:
        raise Conflict(f"Unable to create the network: no host can carry {_in_words(segment)}: {why_not}.")
    return segment, able


def _mtu(config: Config, hosts: Sequence[HostWires], manager: str, asked: int | None) -> int:
    largest = manager_named(manager).mtu(config, hosts)
    if asked is not None and asked > largest and manager == "vxlan":
        raise BadRequest(f"mtu: {asked} is more than the {largest} that the hosts' tunnels leave to a VXLAN network.")
    return largest


def _in_words(segment: Segment) -> str:
    """As in Neutron's messages."""
    if segment.manager == "vxlan":
        return f"The VNI {segment.segmentation_id}"
    if segment.segmentation_id is None:
        return f"The flat network on physical network {segment.physical_network}"
    return f"The VLAN {segment.segmentation_id} on physical network {segment.physical_network}"


def _refuse_segment_of_pool(tx: Connection, segment: Segment) -> None:
    taken = statements.rows(
        tx,
        pool_networks,
        physical_network=segment.physical_network,
        segmentation_id=segment.segmentation_id,
    )
    if segment.segmentation_id is not None and taken.first() is not None:
        raise VlanIdInUse(
            f"Unable to create the network. {_in_words(segment)} belongs to the pool of project networks."
        )


def _check(fields: Mapping[str, Any], context: Context) -> None:
    for name in ("shared", "router:external"):
        if fields.get(name) and not context.is_admin:
            raise Forbidden(f"{name}: only an administrator sets it.")
    for name in fields:
        if name.startswith("provider:") and not context.is_admin:
            raise Forbidden(f"{name}: only an administrator sets it.")
    kind = fields.get("provider:network_type")
    if kind is not None and kind not in _MANAGERS:
        raise BadRequest(f"provider:network_type: '{kind}' is not one of {', '.join(_MANAGERS)}.")
    domain = fields.get("dns_domain")
    if domain and not is_domain_name(domain):
        raise BadRequest(f"dns_domain: {domain!r} is not the name of a domain.")
    mtu = fields.get("mtu")
    if mtu is not None and not _LEAST_MTU <= mtu <= _LARGEST_MTU:
        raise BadRequest(f"mtu: {mtu} is not between {_LEAST_MTU} and {_LARGEST_MTU}.")


def _change(tx: Connection, context: Context, network_id: str, fields: Mapping[str, Any]) -> tuple[Document, set[str]]:
    row = get_own(tx, NETWORKS, context, network_id)
    _check(fields, context)
    for name in fields:
        if name.startswith("provider:"):
            raise BadRequest(f"{name}: cannot be changed once the network is made.")
    if fields.get("shared") is False and row["shared"]:
        foreign = select(ports.c.id).where(
            ports.c.network_id == network_id,
            ports.c.project_id.not_in([row["project_id"], ""]),
            ports.c.device_owner != DHCP,
        )
        if tx.execute(foreign.limit(1)).first() is not None:
            raise NetworkInUse(
                f"Unable to reconfigure sharing settings for network {network_id}: other projects use it."
            )
    if fields.get("mtu", LEAST_MTU) < LEAST_MTU:
        sixth = select(subnets.c.id).where(subnets.c.network_id == network_id, subnets.c.ip_version == 6)
        found = tx.execute(sixth.limit(1)).scalar_one_or_none()
        if found is not None:
            raise BadRequest(f"mtu: IPv6 subnet {found} needs {LEAST_MTU} bytes or more, not {fields['mtu']}.")
    if fields.get("router:external") is False and row["external"]:
        users = select(ports.c.id).where(ports.c.network_id == network_id)
        if tx.execute(users.limit(1)).first() is not None:
            raise NetworkInUse(
                f"External network {network_id} cannot be made internal: it has gateways or floating IPs."
            )
    values = {column: fields[name] for name, column in _FIELDS.items() if name in fields}
    if values:
        tx.execute(
            update(networks).where(networks.c.id == network_id).values(**values, revision=networks.c.revision + 1)
        )
    return show(tx, NETWORKS, context, network_id), network_hosts.of_network(tx, network_id)


def _remove(tx: Connection, context: Context, network_id: str) -> set[str]:
    network = get_own(tx, NETWORKS, context, network_id)
    given = select(project_networks.c.project_id).where(project_networks.c.network_id == network_id)
    others = tx.execute(given.where(project_networks.c.project_id != network["project_id"]).limit(5)).scalars().all()
    if others:
        raise NetworkInUse(
            f"Unable to complete operation on network {network_id}. It was given to the projects {', '.join(others)}: "
            "release it first (`kilonova network release PROJECT`)."
        )
    users = tx.execute(
        select(ports.c.id, ports.c.device_owner)
        .where(ports.c.network_id == network_id, ports.c.device_owner != DHCP)
        .limit(5)
    ).all()
    if users:
        named = ", ".join(f"{row.id} ({row.device_owner or 'no device'})" for row in users)
        raise NetworkInUse(
            f"Unable to complete operation on network {network_id}. There are one or more ports still in use on the "
            f"network, delete these first: {named}."
        )
    return delete_network(tx, network)


def delete_network(tx: Connection, network: RowMapping) -> set[str]:
    """Remove a network that nobody uses, with its subnets; the hosts that have something to forget."""
    network_id = network["id"]
    hosts = network_hosts.of_network(tx, network_id)
    services = select(ports.c.id).where(ports.c.network_id == network_id)
    for port_id in tx.execute(services).scalars().all():
        release_port(tx, port_id)
    release_pool_network(tx, network)
    # Nobody can hold an address of a network that is gone: its host takes all of it away at once.
    tx.execute(delete(addresses).where(addresses.c.network_id == network_id))
    tx.execute(delete(subnets).where(subnets.c.network_id == network_id))
    tx.execute(delete(networks).where(networks.c.id == network_id))
    return hosts
