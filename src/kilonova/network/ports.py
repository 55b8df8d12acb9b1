"""The rows of a new port: MAC, addresses, groups. Every used address belongs to a port, the cloud's own included."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from sqlalchemy import Connection, RowMapping, insert, select

from kilonova.errors import BadRequest, NoMoreAddresses
from kilonova.ids import PortId, new_id
from kilonova.network import quota
from kilonova.network.addresses import allocate, allocate_specific
from kilonova.network.errors import AllocationOnAutoAddressSubnet, InvalidIpForSubnet, NetworkNotFound
from kilonova.network.groups import ensure_default_group
from kilonova.network.ipv6 import eui64, is_automatic
from kilonova.network.macs import chosen_mac, new_mac
from kilonova.store import statements
from kilonova.store.schema import addresses, networks, port_security_groups, ports, subnets

DHCP = "network:dhcp"
ROUTER_INTERFACE = "network:router_interface"
ROUTER_GATEWAY = "network:router_gateway"
FLOATING_IP = "network:floatingip"
VPN_CLIENT = "network:vpn_client"
"""Owner of a VPN client's port: `device_id` is the router it comes in by. It has groups and counts for the quota."""
SERVICE_OWNERS = (DHCP, ROUTER_INTERFACE, ROUTER_GATEWAY, FLOATING_IP)
"""Owners of the cloud's own ports: they have no groups, no filters and no quota."""
_WITHOUT_AUTOMATIC = (*SERVICE_OWNERS, VPN_CLIENT)
"""Behind these is no guest that makes itself addresses."""


@dataclass(frozen=True)
class FixedIp:
    """An address as asked for (either part may be left out) or as given (both are there)."""

    subnet_id: str | None = None
    address: str | None = None


@dataclass(frozen=True)
class MadePort:
    id: PortId
    network_id: str
    project_id: str
    mac: str
    host: str
    fixed_ips: tuple[FixedIp, ...]


def make_port(
    tx: Connection,
    *,
    network_id: str,
    project_id: str,
    name: str = "",
    device_id: str = "",
    device_owner: str = "",
    host: str = "",
    vif: str = "none",
    mac: str | None = None,
    fixed_ips: Sequence[FixedIp] | None = None,
    security_groups: Sequence[str] | None = None,
    port_security_enabled: bool | None = None,
    position: int = 0,
    made_with_server: bool = False,
    prefer_host: str | None = None,
    **columns: Any,
) -> MadePort:
    """Insert a port of a network, with its addresses and groups, within the project's quota.

    `fixed_ips` none: one address of each IP version that the network has subnets of, from the oldest that has one;
    empty: no address. An instance's port also gets the address of every subnet with automatic addresses.
    `security_groups` none: the project's default group. `prefer_host` tries subnets of that host first. `columns` are
    further columns of `ports`. Raises `NetworkNotFound`, `NoMoreAddresses`, `QuotaExceeded`, `AlreadyExists` or
    `BadRequest` for an address, `InUse` for a MAC. Whether the groups may be used by the project is
    checked by the caller.
    """
    network = statements.rows(tx, networks, id=network_id).mappings().one_or_none()
    if network is None:
        raise NetworkNotFound(f"Network {network_id} could not be found.")
    is_service = device_owner in SERVICE_OWNERS
    if not is_service:
        quota.check(tx, project_id, "port")
    secured = network["port_security_enabled"] if port_security_enabled is None else port_security_enabled
    secured = secured and not is_service
    port_id = PortId(new_id())
    made_mac = new_mac(tx) if mac is None else chosen_mac(tx, mac)
    statements.add(
        tx,
        ports,
        id=port_id,
        network_id=network_id,
        project_id=project_id,
        name=name,
        mac=made_mac,
        device_id=device_id,
        device_owner=device_owner,
        host=host,
        vif=vif,
        position=position,
        made_with_server=made_with_server,
        port_security_enabled=secured,
        **columns,
    )
    given = give_addresses(
        tx,
        port_id,
        network_id,
        fixed_ips,
        mac=made_mac,
        device_owner=device_owner,
        prefer_host=prefer_host,
    )
    if secured:
        groups = [ensure_default_group(tx, project_id)] if security_groups is None else security_groups
        set_groups(tx, port_id, groups)
    return MadePort(port_id, network_id, project_id, made_mac, host, given)


def set_groups(tx: Connection, port_id: str, groups: Sequence[str]) -> None:
    """Add a port to groups."""
    rows = [{"port_id": port_id, "security_group_id": group} for group in dict.fromkeys(groups)]
    if rows:
        tx.execute(insert(port_security_groups), rows)


def give_addresses(
    tx: Connection,
    port_id: str,
    network_id: str,
    wanted: Sequence[FixedIp] | None,
    *,
    mac: str,
    device_owner: str = "",
    prefer_host: str | None = None,
    automatic: bool = True,
) -> tuple[FixedIp, ...]:
    """Allocate what is wanted; none: one address of each IP version, from the oldest subnet that has one.

    With `automatic`, an instance's port also gets the address that its guest makes of its `mac` in every subnet with
    automatic addresses. The cloud's own ports get theirs from the pools.
    """
    if wanted is not None and not wanted:
        return ()
    rows = subnets_of(tx, network_id, prefer_host)
    if device_owner == FLOATING_IP:  # a translation of IPv4; nothing is translated in IPv6
        rows = [row for row in rows if row["ip_version"] == 4]
    self_made = [] if device_owner in _WITHOUT_AUTOMATIC else [row for row in rows if has_automatic_addresses(row)]
    given: list[FixedIp] = []
    if wanted is None:
        for version in (4, 6):
            given += _any_address(tx, port_id, [r for r in rows if r["ip_version"] == version and r not in self_made])
    # Addresses that are asked for by name come first: an automatic one must not take them away.
    for item in sorted(wanted or (), key=lambda item: item.address is None):
        subnet = _subnet_for(item, rows, network_id)
        if subnet in self_made:
            _refuse_chosen(item, subnet, mac)
        elif item.address is None:
            given.append(FixedIp(subnet["id"], allocate(tx, subnet, port_id)))
        else:
            is_gateway = device_owner == ROUTER_INTERFACE
            address = allocate_specific(tx, subnet, port_id, item.address, is_gateway=is_gateway)
            given.append(FixedIp(subnet["id"], address))
    if automatic:
        given += give_automatic_addresses(tx, port_id, self_made, mac=mac)
    return tuple(given)


def give_automatic_addresses(
    tx: Connection, port_id: str, rows: Sequence[RowMapping], *, mac: str, held_in: Collection[str] = ()
) -> list[FixedIp]:
    """The address that a guest makes of its MAC, in each of the subnets that have automatic ones and is not held in."""
    return [
        FixedIp(subnet["id"], allocate_specific(tx, subnet, port_id, eui64(subnet["cidr"], mac)))
        for subnet in rows
        if has_automatic_addresses(subnet) and subnet["id"] not in held_in
    ]


def give_addresses_of_subnet(tx: Connection, subnet: RowMapping) -> int:
    """Give the instances' ports of a network the addresses that their guests will make of a new subnet; how many."""
    query = select(ports.c.id, ports.c.mac).where(
        ports.c.network_id == subnet["network_id"], ports.c.device_owner.not_in(_WITHOUT_AUTOMATIC)
    )
    held = {"subnet_id": subnet["id"], "network_id": subnet["network_id"]}
    rows = [{**held, "port_id": port.id, "address": eui64(subnet["cidr"], port.mac)} for port in tx.execute(query)]
    for row in rows:
        if row["address"] == subnet["gateway_ip"]:
            raise BadRequest(f"gateway_ip: {row['address']} is the automatic address of port {row['port_id']}.")
    if rows:
        tx.execute(insert(addresses), rows)
    return len(rows)


def has_automatic_addresses(subnet: RowMapping) -> bool:
    return is_automatic(subnet["ipv6_address_mode"], subnet["ipv6_ra_mode"])


def subnets_of(tx: Connection, network_id: str, prefer_host: str | None = None) -> list[RowMapping]:
    """The subnets of a network, oldest first, those of `prefer_host` before the others."""
    rows = statements.rows(tx, subnets, network_id=network_id).mappings()
    return sorted(
        rows, key=lambda row: (bool(prefer_host) and row["host"] != prefer_host, row["created_at"], row["id"])
    )


def _any_address(tx: Connection, port_id: str, rows: Sequence[RowMapping]) -> list[FixedIp]:
    failure: NoMoreAddresses | None = None
    for subnet in rows:
        try:
            return [FixedIp(subnet["id"], allocate(tx, subnet, port_id))]
        except NoMoreAddresses as error:
            failure = error
    if failure is not None:
        raise failure
    return []


def _refuse_chosen(item: FixedIp, subnet: RowMapping, mac: str) -> None:
    """A guest makes its address itself: it can only be the one of its MAC."""
    own = eui64(subnet["cidr"], mac)
    if item.address is not None and ip_address(item.address) != ip_address(own):
        raise AllocationOnAutoAddressSubnet(
            f"fixed_ips: IPv6 address {item.address} cannot be directly assigned to a port on subnet {subnet['id']} as "
            f"the subnet is configured for automatic addresses: with MAC {mac} it is {own}."
        )


def _subnet_for(item: FixedIp, rows: Sequence[RowMapping], network_id: str) -> RowMapping:
    if item.subnet_id is not None:
        for row in rows:
            if row["id"] == item.subnet_id:
                return row
        raise BadRequest(f"fixed_ips: subnet {item.subnet_id} is not a subnet of network {network_id}.")
    if item.address is None:
        raise BadRequest("fixed_ips: an entry needs subnet_id or ip_address.")
    try:
        address = ip_address(item.address)
    except ValueError:
        raise BadRequest(f"fixed_ips: '{item.address}' is not a valid IP address.") from None
    for row in rows:
        network = ip_network(row["cidr"])
        if address.version == network.version and address in network:
            return row
    raise InvalidIpForSubnet(f"fixed_ips: IP address {address} is not in any subnet of network {network_id}.")
