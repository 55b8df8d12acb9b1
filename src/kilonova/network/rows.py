"""The rows of the store that concern one host, read in one transaction as plain tuples. Deciding is `plan`'s.

A host's part: the ports bound to it, the networks whose services it runs, the routers placed on it, external networks
with a floating range here, what the groups of its ports say, and what it still has to forget.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cache
from ipaddress import ip_address
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, Connection, Select, bindparam, case, or_, select, union

from kilonova.store import schema

INTERFACE_OWNER = "network:router_interface"
GATEWAY_OWNER = "network:router_gateway"
SERVICE_OWNER = "network:dhcp"
FLOATING_OWNER = "network:floatingip"


class NetworkRow(NamedTuple):
    id: str
    manager: str
    physical_network: str
    segmentation_id: int | None
    bridge: str
    mtu: int
    admin_state_up: bool
    external: bool
    dns_domain: str
    host: str | None


class SubnetRow(NamedTuple):
    id: str
    network_id: str
    cidr: str
    gateway_ip: str | None
    enable_dhcp: bool
    dns_nameservers: Sequence[str]
    host_routes: Sequence[dict[str, str]]
    service_address: str | None
    host: str | None
    ipv6_address_mode: str | None = None
    ipv6_ra_mode: str | None = None


class PortRow(NamedTuple):
    id: str
    network_id: str
    mac: str
    admin_state_up: bool
    status: str
    device_id: str
    device_owner: str
    host: str
    vif: str
    port_security_enabled: bool
    allowed_address_pairs: Sequence[dict[str, str]]
    dns_name: str
    hostname: str | None
    """Of the instance it belongs to."""
    extra_dhcp_opts: Sequence[dict[str, Any]] = ()


class AddressRow(NamedTuple):
    port_id: str
    subnet_id: str
    address: str


class RouterRow(NamedTuple):
    id: str
    admin_state_up: bool
    status: str
    external_network_id: str | None
    enable_snat: bool
    routes: Sequence[dict[str, str]]


class FloatingRow(NamedTuple):
    id: str
    address: str
    fixed_address: str | None
    router_id: str | None
    status: str


class RuleRow(NamedTuple):
    group_id: str
    direction: str
    ethertype: str
    protocol: str | None
    port_range_min: int | None
    port_range_max: int | None
    remote_ip_prefix: str | None
    remote_group_id: str | None


class MemberRow(NamedTuple):
    group_id: str
    network_id: str
    address: str


class ReleasedRow(NamedTuple):
    """An address that its port gave back and this host has to forget."""

    subnet_id: str
    network_id: str
    address: str
    mac: str
    next_host: str | None
    """Another host that has to forget it afterwards: the network host, when this one only had the port."""


class TunnelPortRow(NamedTuple):
    """A MAC of a VXLAN network, and the host that has it."""

    network_id: str
    mac: str
    host: str


class UnderlayRow(NamedTuple):
    """What a host's agent said about its way to the others: address and MTU of its tunnel's NIC."""

    host: str
    address: str
    mtu: int


@dataclass(frozen=True)
class VpnRow:
    id: str
    router_id: str
    port: int
    private_key: str = field(repr=False)
    public_key: str
    status: str


class VpnClientRow(NamedTuple):
    id: str
    vpn_id: str
    port_id: str
    public_key: str
    handshake_at: datetime | None


class HostRows(NamedTuple):
    host: str
    networks: Sequence[NetworkRow]
    subnets: Sequence[SubnetRow]
    ports: Sequence[PortRow]
    addresses: Sequence[AddressRow]
    routers: Sequence[RouterRow]
    floating_ips: Sequence[FloatingRow]
    port_groups: Sequence[tuple[str, str]]
    """(port, group) of the ports bound to this host, and of its routers' VPN clients."""
    rules: Sequence[RuleRow]
    members: Sequence[MemberRow]
    """Of every group that a rule in `rules` names as remote, wherever their hosts are."""
    routed: Sequence[tuple[str, str]]
    """(router, network) of every router interface, so far as this host's networks are concerned."""
    released: Sequence[ReleasedRow]
    released_pool_networks: Sequence[str]
    tunnel_ports: Sequence[TunnelPortRow] = ()
    """Of this host's VXLAN networks, wherever they are."""
    underlays: Sequence[UnderlayRow] = ()
    vpns: Sequence[VpnRow] = ()
    """Of the routers that are placed here."""
    vpn_clients: Sequence[VpnClientRow] = ()


def load(tx: Connection, host: str) -> HostRows:
    """What concerns `host`, in one snapshot; the number of queries does not grow with the rows."""
    queries, here = _queries(), {"host": host}
    networks = [NetworkRow._make(row) for row in tx.execute(queries.networks, here).all()]
    tunnelled = any(network.manager == "vxlan" for network in networks)
    return HostRows(
        host=host,
        networks=networks,
        subnets=[SubnetRow._make(row) for row in tx.execute(queries.subnets, here).all()],
        ports=[PortRow._make(row) for row in tx.execute(queries.ports, here).all()],
        addresses=[AddressRow._make(row) for row in tx.execute(queries.addresses, here).all()],
        routers=[RouterRow._make(row) for row in tx.execute(queries.routers, here).all()],
        floating_ips=[FloatingRow._make(row) for row in tx.execute(queries.floating_ips, here).all()],
        port_groups=[(row[0], row[1]) for row in tx.execute(queries.port_groups, here).all()],
        rules=[RuleRow._make(row) for row in tx.execute(queries.rules, here).all()],
        members=[MemberRow._make(row) for row in tx.execute(queries.members, here).all()],
        routed=[(row[0], row[1]) for row in tx.execute(queries.routed, here).all()],
        released=_released(tx, host),
        released_pool_networks=list(tx.execute(queries.released_pool_networks, here).scalars()),
        tunnel_ports=[
            TunnelPortRow(network_id, mac, owner)
            for network_id, mac, owner in (tx.execute(queries.tunnel_ports, here) if tunnelled else ())
            if owner
        ],
        underlays=_underlays(tx) if tunnelled else (),
        vpns=[VpnRow(*row) for row in tx.execute(queries.vpns, here).all()],
        vpn_clients=[VpnClientRow._make(row) for row in tx.execute(queries.vpn_clients, here).all()],
    )


@dataclass(frozen=True)
class _Queries:
    """The statements of `load`, each about the host that is bound as `host`."""

    networks: Select[Any]
    subnets: Select[Any]
    ports: Select[Any]
    addresses: Select[Any]
    routers: Select[Any]
    floating_ips: Select[Any]
    port_groups: Select[Any]
    rules: Select[Any]
    members: Select[Any]
    routed: Select[Any]
    released_pool_networks: Select[Any]
    tunnel_ports: Select[Any]
    vpns: Select[Any]
    vpn_clients: Select[Any]


@cache
def _queries() -> _Queries:
    """Built once: to build them takes as long as to read a hundred ports."""
    host: BindParameter[str] = bindparam("host")
    networks, subnets, ports, routers = schema.networks, schema.subnets, schema.ports, schema.routers
    links, rules, pool = schema.port_security_groups, schema.security_group_rules, schema.pool_networks
    vpns, vpn_clients = schema.vpns, schema.vpn_clients
    router_ids = select(routers.c.id).where(routers.c.host == host)
    vpn_ids = select(vpns.c.id).where(vpns.c.router_id.in_(router_ids))
    client_ports = select(vpn_clients.c.port_id).where(vpn_clients.c.vpn_id.in_(vpn_ids))
    router_ports = or_(ports.c.device_owner == INTERFACE_OWNER, ports.c.device_owner == GATEWAY_OWNER)
    concerned = union(
        select(networks.c.id).where(networks.c.host == host),
        select(ports.c.network_id).where(ports.c.host == host, ports.c.vif != "none"),
        select(ports.c.network_id).where(router_ports, ports.c.device_id.in_(router_ids)),
        select(subnets.c.network_id).where(subnets.c.host == host),
    )
    network_ids = select(concerned.subquery().c[0])
    served = select(networks.c.id).where(networks.c.host == host, networks.c.external.is_(False))
    wanted_ports = or_(
        ports.c.host == host,
        ports.c.network_id.in_(served),
        ports.c.id.in_(client_ports),
        router_ports & ports.c.device_id.in_(router_ids),
    )
    bound = (
        select(links.c.port_id, links.c.security_group_id)
        .join(ports, ports.c.id == links.c.port_id)
        .where(or_(ports.c.host == host, ports.c.id.in_(client_ports)))
    )
    of_used = rules.c.security_group_id.in_(select(bound.subquery().c.security_group_id))
    remote_ids = select(rules.c.remote_group_id).where(of_used, rules.c.remote_group_id.is_not(None))
    member_columns = (links.c.security_group_id, schema.addresses.c.network_id, schema.addresses.c.address)
    rule_columns = (rules.c.security_group_id, *(rules.c[name] for name in RuleRow._fields[1:]))
    interfaces = select(ports.c.device_id, ports.c.network_id).where(ports.c.device_owner == INTERFACE_OWNER)
    near = select(ports.c.device_id).where(ports.c.device_owner == INTERFACE_OWNER, ports.c.network_id.in_(network_ids))
    return _Queries(
        networks=_columns(networks, NetworkRow)
        .where(networks.c.id.in_(network_ids))
        .order_by(networks.c.created_at, networks.c.id),
        subnets=_columns(subnets, SubnetRow)
        .where(subnets.c.network_id.in_(network_ids))
        .order_by(subnets.c.created_at, subnets.c.id),
        ports=_columns(ports, PortRow, omit=("hostname", "extra_dhcp_opts"))
        .add_columns(schema.instances.c.hostname, ports.c.extra_dhcp_opts)
        .outerjoin(schema.instances, schema.instances.c.id == ports.c.device_id)
        .where(wanted_ports)
        .order_by(ports.c.id),
        addresses=_columns(schema.addresses, AddressRow)
        .join(ports, ports.c.id == schema.addresses.c.port_id)
        .where(wanted_ports)
        .order_by(schema.addresses.c.address),
        routers=_columns(routers, RouterRow).where(routers.c.host == host).order_by(routers.c.id),
        floating_ips=_columns(schema.floating_ips, FloatingRow)
        .where(schema.floating_ips.c.router_id.in_(router_ids))
        .order_by(schema.floating_ips.c.id),
        port_groups=bound,
        rules=select(*rule_columns).where(of_used),
        members=select(*member_columns)
        .join(schema.addresses, schema.addresses.c.port_id == links.c.port_id)
        .where(links.c.security_group_id.in_(remote_ids)),
        routed=interfaces.where(ports.c.device_id.in_(near)).distinct(),
        released_pool_networks=select(pool.c.id).where(
            pool.c.released_at.is_not(None), or_(pool.c.released_host == host, pool.c.released_host.is_(None))
        ),
        tunnel_ports=select(
            ports.c.network_id,
            ports.c.mac,
            case(
                (router_ports, routers.c.host),
                (ports.c.device_owner == SERVICE_OWNER, networks.c.host),
                else_=ports.c.host,
            ),
        )
        .join(networks, networks.c.id == ports.c.network_id)
        .outerjoin(routers, routers.c.id == ports.c.device_id)
        .where(
            networks.c.manager == "vxlan",
            ports.c.network_id.in_(network_ids),
            or_(router_ports, ports.c.device_owner == SERVICE_OWNER, ports.c.vif != "none"),
        ),
        vpns=select(*(vpns.c[item.name] for item in fields(VpnRow)))
        .where(vpns.c.router_id.in_(router_ids))
        .order_by(vpns.c.id),
        vpn_clients=_columns(vpn_clients, VpnClientRow)
        .where(vpn_clients.c.vpn_id.in_(vpn_ids))
        .order_by(vpn_clients.c.id),
    )


def _columns(table: Any, row: type[Any], omit: Iterable[str] = ()) -> Select[Any]:
    names: tuple[str, ...] = row._fields
    return select(*(table.c[name] for name in names if name not in omit))


def _released(tx: Connection, host: str) -> list[ReleasedRow]:
    """Released addresses that this host holds. One whose holder nobody wrote down is its network's host's."""
    addresses, networks, subnets = schema.addresses, schema.networks, schema.subnets
    query = (
        select(
            addresses.c.subnet_id,
            addresses.c.network_id,
            addresses.c.address,
            addresses.c.released_mac,
            addresses.c.released_host,
            networks.c.host,
            subnets.c.host,
        )
        .outerjoin(networks, networks.c.id == addresses.c.network_id)
        .outerjoin(subnets, subnets.c.id == addresses.c.subnet_id)
        .where(addresses.c.port_id.is_(None), addresses.c.released_at.is_not(None))
    )
    found: list[ReleasedRow] = []
    for subnet_id, network_id, address, mac, holder, network_host, range_host in tx.execute(query):
        server = network_host or range_host
        if (holder or server or host) == host:
            next_host = server if server not in (None, host) else None
            found.append(ReleasedRow(subnet_id, network_id, address, mac or "", next_host))
    return found


def _underlays(tx: Connection) -> list[UnderlayRow]:
    """Of every host whose agent ever told of a tunnel."""
    services = schema.services
    query = select(services.c.host, services.c.capacity).where(services.c.kind == "network")
    found: list[UnderlayRow] = []
    for host, capacity in tx.execute(query):
        tunnel = capacity.get("tunnel")
        if tunnel:
            found.append(UnderlayRow(host, str(ip_address(tunnel["address"])), int(tunnel["mtu"])))
    return found
