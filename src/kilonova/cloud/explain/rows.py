"""The rows that a packet's way depends on, read in one transaction: a frozen `Snapshot` that the walk works on.

What a member does not own is not in it: neither found by name nor by address.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from sqlalchemy import Connection, RowMapping, or_, select

from kilonova.context import Context
from kilonova.network.ports import ROUTER_GATEWAY, ROUTER_INTERFACE
from kilonova.scheduler.host_state import is_alive
from kilonova.store import schema
from kilonova.store.schema import now

ROUTER_OWNERS = (ROUTER_INTERFACE, ROUTER_GATEWAY)
_MOST_ROUTERS = 64


@dataclass(frozen=True)
class Address:
    subnet_id: str
    address: str


@dataclass(frozen=True)
class Port:
    id: str
    network_id: str
    project_id: str
    mac: str
    admin_state_up: bool
    status: str
    device_id: str
    device_owner: str
    host: str
    vif: str
    secured: bool
    pairs: tuple[str, ...] = ()
    """The networks of its allowed address pairs."""
    addresses: tuple[Address, ...] = ()
    groups: tuple[str, ...] = ()
    position: int = 0

    @property
    def is_cloud_own(self) -> bool:
        return self.device_owner.startswith("network:")


@dataclass(frozen=True)
class Instance:
    id: str
    name: str
    project_id: str
    vm_state: str
    power_state: int
    host: str | None


@dataclass(frozen=True)
class Network:
    id: str
    name: str
    project_id: str
    manager: str
    physical_network: str
    segmentation_id: int | None
    bridge: str
    admin_state_up: bool
    external: bool
    host: str | None


@dataclass(frozen=True)
class Subnet:
    id: str
    network_id: str
    cidr: str
    gateway_ip: str | None
    enable_dhcp: bool
    host_routes: tuple[tuple[str, str], ...]
    service_address: str | None
    host: str | None
    ipv6_address_mode: str | None = None

    @property
    def makes_addresses(self) -> bool:
        """Its guests make their addresses of its prefix and ask nobody for them."""
        return self.ipv6_address_mode in ("slaac", "dhcpv6-stateless")


@dataclass(frozen=True)
class Router:
    id: str
    name: str
    project_id: str
    admin_state_up: bool
    enable_snat: bool
    host: str | None
    routes: tuple[tuple[str, str], ...]
    legs: tuple[Port, ...] = ()

    @property
    def external(self) -> Port | None:
        return next((leg for leg in self.legs if leg.device_owner == ROUTER_GATEWAY), None)


@dataclass(frozen=True)
class Rule:
    id: str
    direction: str
    ethertype: str
    protocol: str | None
    port_min: int | None
    port_max: int | None
    remote_cidr: str | None
    remote_group_id: str | None


@dataclass(frozen=True)
class Group:
    id: str
    name: str
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Floating:
    id: str
    address: str
    fixed_port_id: str | None
    fixed_address: str | None
    router_id: str | None
    network_id: str


@dataclass(frozen=True)
class Service:
    kind: str
    host: str
    age_s: float
    alive: bool


@dataclass(frozen=True)
class Snapshot:
    """Everything is by id; `services` by (kind, host)."""

    project_id: str | None = None
    """Whose eyes these are; none: an administrator's."""
    ports: Mapping[str, Port] = field(default_factory=dict)
    instances: Mapping[str, Instance] = field(default_factory=dict)
    networks: Mapping[str, Network] = field(default_factory=dict)
    subnets: Mapping[str, Subnet] = field(default_factory=dict)
    routers: Mapping[str, Router] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    members: frozenset[tuple[str, str, str]] = frozenset()
    """(group, network, address) of the groups that rules name as remote ones."""
    floating: tuple[Floating, ...] = ()
    services: Mapping[tuple[str, str], Service] = field(default_factory=dict)

    def subnets_of(self, network_id: str) -> list[Subnet]:
        return [subnet for subnet in self.subnets.values() if subnet.network_id == network_id]

    def owner_of(self, network_id: str, address: str) -> Port | None:
        """The port that has an address on a network."""
        for port in self.ports.values():
            if port.network_id == network_id and any(item.address == address for item in port.addresses):
                return port
        return None

    def external_networks(self) -> list[Network]:
        return [network for network in self.networks.values() if network.external]

    def may_see(self, project_id: str) -> bool:
        return self.project_id is None or project_id == self.project_id


def load(tx: Connection, context: Context, port_ids: Collection[str], addresses: Collection[str]) -> Snapshot:
    """What packets between these ports, or to these addresses of the cloud, may pass."""
    rows = _Rows(tx)
    rows.add_ports(schema.ports.c.id.in_(port_ids))
    floating = _floating(tx, port_ids, addresses)
    rows.follow_routers({item.router_id for item in floating if item.router_id})
    rows.add_neighbours()
    return Snapshot(
        project_id=None if context.is_admin else context.project_id,
        ports=rows.ports,
        instances=_instances(tx, {port.device_id for port in rows.ports.values()}),
        networks=rows.networks(),
        subnets=rows.subnets(),
        routers=rows.routers(),
        floating=floating,
        services=_services(tx),
        **_groups(tx, {group for port_id in port_ids if port_id in rows.ports for group in rows.ports[port_id].groups}),
    )


class _Rows:
    """Ports, and from them routers and networks, as far as routers join them."""

    def __init__(self, tx: Connection) -> None:
        self.tx = tx
        self.ports: dict[str, Port] = {}

    def add_ports(self, *where: Any) -> None:
        table, links = schema.ports, schema.port_security_groups
        found = list(self.tx.execute(select(table).where(*where).order_by(table.c.position, table.c.id)).mappings())
        ids = [row["id"] for row in found if row["id"] not in self.ports]
        addresses: dict[str, list[Address]] = defaultdict(list)
        held = select(schema.addresses).where(schema.addresses.c.port_id.in_(ids))
        for row in self.tx.execute(held.order_by(schema.addresses.c.address)).mappings():
            addresses[row["port_id"]].append(Address(row["subnet_id"], row["address"]))
        groups: dict[str, list[str]] = defaultdict(list)
        for link in self.tx.execute(select(links).where(links.c.port_id.in_(ids))).mappings():
            groups[link["port_id"]].append(link["security_group_id"])
        for row in found:
            self.ports.setdefault(row["id"], _port(row, addresses[row["id"]], groups[row["id"]]))

    def follow_routers(self, router_ids: set[str]) -> None:
        """Every leg of every router that joins the networks of the ports, near or far."""
        table, seen, known = schema.ports, set[str](), set(router_ids)
        while True:
            networks = {port.network_id for port in self.ports.values()} - seen
            inner = set(self.tx.execute(_inner(networks)).scalars()) if networks else set()
            seen |= networks
            if inner:
                self.add_ports(table.c.network_id.in_(inner), table.c.device_owner.in_(ROUTER_OWNERS))
            known |= {port.device_id for port in self.ports.values() if port.device_owner in ROUTER_OWNERS}
            before = len(self.ports)
            if known:
                self.add_ports(table.c.device_id.in_(known), table.c.device_owner.in_(ROUTER_OWNERS))
            if (not networks and len(self.ports) == before) or len(known) > _MOST_ROUTERS:
                return

    def add_neighbours(self) -> None:
        """The cloud's own ports on these networks: services, VPN clients; and who has a gateway's address."""
        table, addresses, subnets = schema.ports, schema.addresses, schema.subnets
        networks = {port.network_id for port in self.ports.values()}
        inner = set(self.tx.execute(_inner(networks)).scalars()) if networks else set()
        if not inner:
            return
        self.add_ports(table.c.network_id.in_(inner), table.c.device_owner.like("network:%"))
        gateways = (
            select(addresses.c.port_id)
            .join(subnets, subnets.c.id == addresses.c.subnet_id)
            .where(subnets.c.network_id.in_(inner), subnets.c.gateway_ip == addresses.c.address)
        )
        self.add_ports(table.c.id.in_(gateways))

    def networks(self) -> dict[str, Network]:
        table = schema.networks
        mine = {port.network_id for port in self.ports.values()}
        query = select(table).where(or_(table.c.id.in_(mine), table.c.external)).order_by(table.c.created_at)
        return {row["id"]: _of(Network, row) for row in self.tx.execute(query).mappings()}

    def subnets(self) -> dict[str, Subnet]:
        table = schema.subnets
        query = select(table).where(table.c.network_id.in_(list(self.networks()))).order_by(table.c.created_at)
        return {
            row["id"]: _of(Subnet, row, host_routes=_routes(row["host_routes"]))
            for row in self.tx.execute(query).mappings()
        }

    def routers(self) -> dict[str, Router]:
        legs: dict[str, list[Port]] = defaultdict(list)
        for port in self.ports.values():
            if port.device_owner in ROUTER_OWNERS:
                legs[port.device_id].append(port)
        table = schema.routers
        query = select(table).where(table.c.id.in_(list(legs)))
        return {
            row["id"]: _of(Router, row, routes=_routes(row["routes"]), legs=tuple(legs[row["id"]]))
            for row in self.tx.execute(query).mappings()
        }


def _inner(networks: Collection[str]) -> Any:
    """Those of the networks that are not external: everybody's routers are on these."""
    table = schema.networks
    return select(table.c.id).where(table.c.id.in_(networks), table.c.external.is_(False))


def _of(kind: type[Any], row: RowMapping, **more: Any) -> Any:
    return kind(**{name: row[name] for name in kind.__dataclass_fields__ if name in row and name not in more}, **more)


def _port(row: RowMapping, addresses: Iterable[Address], groups: Iterable[str]) -> Port:
    pairs = tuple(str(item["ip_address"]) for item in row["allowed_address_pairs"] or ())
    values = {"pairs": pairs, "addresses": tuple(addresses), "groups": tuple(sorted(groups))}
    port: Port = _of(Port, row, secured=row["port_security_enabled"], **values)
    return port


def _routes(routes: Iterable[Mapping[str, str]] | None) -> tuple[tuple[str, str], ...]:
    return tuple((str(ip_network(item["destination"], strict=False)), item["nexthop"]) for item in routes or ())


def _floating(tx: Connection, port_ids: Collection[str], addresses: Collection[str]) -> tuple[Floating, ...]:
    table = schema.floating_ips
    query = select(table).where(or_(table.c.fixed_port_id.in_(port_ids), table.c.address.in_(addresses)))
    return tuple(
        _of(Floating, row, network_id=row["floating_network_id"])
        for row in tx.execute(query.order_by(table.c.address)).mappings()
    )


def _instances(tx: Connection, ids: Collection[str]) -> dict[str, Instance]:
    table = schema.instances
    return {row["id"]: _of(Instance, row) for row in tx.execute(select(table).where(table.c.id.in_(ids))).mappings()}


def _services(tx: Connection) -> dict[tuple[str, str], Service]:
    table, moment = schema.services, now()
    return {
        (row["kind"], row["host"]): Service(
            row["kind"],
            row["host"],
            (moment - row["seen_at"]).total_seconds(),
            is_alive(row["seen_at"], row["forced_down"], moment),
        )
        for row in tx.execute(select(table).where(table.c.kind.in_(["network", "compute"]))).mappings()
    }


def _groups(tx: Connection, ids: Collection[str]) -> dict[str, Any]:
    groups, rules, links = schema.security_groups, schema.security_group_rules, schema.port_security_groups
    by_group: dict[str, list[Rule]] = defaultdict(list)
    query = select(rules).where(rules.c.security_group_id.in_(ids)).order_by(rules.c.created_at, rules.c.id)
    for row in tx.execute(query).mappings():
        values = {name: row[f"port_range_{name.removeprefix('port_')}"] for name in ("port_min", "port_max")}
        by_group[row["security_group_id"]].append(_of(Rule, row, remote_cidr=row["remote_ip_prefix"], **values))
    remote = {rule.remote_group_id for items in by_group.values() for rule in items if rule.remote_group_id}
    members = (
        select(links.c.security_group_id, schema.addresses.c.network_id, schema.addresses.c.address)
        .join(schema.addresses, schema.addresses.c.port_id == links.c.port_id)
        .where(links.c.security_group_id.in_(remote))
    )
    found = tx.execute(select(groups).where(groups.c.id.in_(ids))).mappings()
    return {
        "groups": {row["id"]: Group(row["id"], row["name"], tuple(by_group[row["id"]])) for row in found},
        "members": frozenset((row[0], row[1], row[2]) for row in tx.execute(members)),
    }
