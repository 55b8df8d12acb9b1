"""The plans of a host's VPNs, made of the store's rows and the routers they stand in. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Interface, ip_address, ip_interface

from kilonova.network.plan import InterfacePlan, RouterPlan
from kilonova.network.rows import HostRows, PortRow, VpnClientRow
from kilonova.network.vpn_plan import OVERHEAD, VpnClientPlan, VpnPlan, device_name


def plan_vpns(
    rows: HostRows,
    routers: Mapping[str, RouterPlan],
    groups_of: Mapping[str, Iterable[str]],
    prefix: str,
    claimed: set[tuple[str, str]],
) -> Iterable[VpnPlan]:
    """The VPNs of routers that stand here and are connected outside.

    `claimed`: (network, address) that ports here have filters for, be it by an allowed address pair.
    """
    ports = {port.id: port for port in rows.ports}
    addresses = {row.port_id: row.address for row in rows.addresses if ":" not in row.address}
    clients: dict[str, list[VpnClientRow]] = defaultdict(list)
    for client in rows.vpn_clients:
        clients[client.vpn_id].append(client)
    taken = _taken(rows, set(ports) & {client.port_id for client in rows.vpn_clients}) | claimed
    for vpn in rows.vpns:
        router = routers.get(vpn.router_id)
        if router is None or router.external is None:
            continue
        found = (
            _client(row, ports.get(row.port_id), addresses.get(row.port_id), router, groups_of, taken)
            for row in clients[vpn.id]
        )
        yield VpnPlan(
            vpn_id=vpn.id,
            device=device_name(prefix, vpn.id),
            router_id=router.router_id,
            port=vpn.port,
            private_key=vpn.private_key,
            public_key=vpn.public_key,
            mtu=router.external.mtu - OVERHEAD,
            inside=router.inside,
            clients=tuple(client for client in found if client is not None),
        )


def _taken(rows: HostRows, without: set[str]) -> set[tuple[str, str]]:
    """(network, address) of every port but the clients': what stands on a bridge itself keeps its own filters."""
    networks = {port.id: port.network_id for port in rows.ports if port.id not in without}
    return {(networks[row.port_id], row.address) for row in rows.addresses if row.port_id in networks}


def _client(
    row: VpnClientRow,
    port: PortRow | None,
    address: str | None,
    router: RouterPlan,
    groups_of: Mapping[str, Iterable[str]],
    taken: set[tuple[str, str]],
) -> VpnClientPlan | None:
    """None: the router has no leg in the subnet of its address, or its port is down."""
    if port is None or address is None or not port.admin_state_up:
        return None
    beside = next((leg for leg in router.interfaces if _contains(leg, address)), None)
    if beside is None:
        return None
    return VpnClientPlan(
        client_id=row.id,
        port_id=port.id,
        public_key=row.public_key,
        address=address,
        beside=beside.port_id,
        bridges=tuple(dict.fromkeys(leg.bridge for leg in router.interfaces if (leg.network_id, address) not in taken)),
        groups=tuple(sorted(groups_of.get(port.id, ()))) if port.port_security_enabled else None,
    )


def _contains(leg: InterfacePlan, address: str) -> bool:
    return any(
        isinstance(found := ip_interface(own), IPv4Interface) and ip_address(address) in found.network
        for own in leg.addresses
    )
