"""The bodies of the network API. An unknown attribute is refused; one that is left out stays as it is."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from kilonova.errors import BadRequest

Text = Annotated[str, Meta(max_length=255)]
Number = int | Annotated[str, Meta(max_length=10, pattern="^-?[0-9]+$")]
"""Clients send some numbers as text."""
Maybe = UnsetType

_NUMBERS = ("mtu", "provider:segmentation_id", "port_range_min", "port_range_max", "ip_version")


class _Body(Struct, forbid_unknown_fields=True):
    pass


class Described(_Body):
    name: Text | Maybe = UNSET
    description: Text | Maybe = UNSET


class Owned(Described):
    tenant_id: Text | Maybe = UNSET
    project_id: Text | Maybe = UNSET


class NetworkChange(Described):
    admin_state_up: bool | Maybe = UNSET
    shared: bool | Maybe = UNSET
    external: bool | Maybe = field(default=UNSET, name="router:external")
    port_security_enabled: bool | Maybe = UNSET
    mtu: Number | Maybe = UNSET
    dns_domain: Text | Maybe = UNSET


class NewNetwork(NetworkChange):
    tenant_id: Text | Maybe = UNSET
    project_id: Text | Maybe = UNSET
    network_type: Text | Maybe | None = field(default=UNSET, name="provider:network_type")
    physical_network: Annotated[str, Meta(max_length=64)] | Maybe | None = field(
        default=UNSET, name="provider:physical_network"
    )
    segmentation_id: Number | Maybe | None = field(default=UNSET, name="provider:segmentation_id")


class HostRoute(_Body):
    destination: Text
    nexthop: Text


class AllocationPool(_Body):
    start: Text
    end: Text


class SubnetChange(Described):
    gateway_ip: Text | Maybe | None = UNSET
    enable_dhcp: bool | Maybe = UNSET
    dns_nameservers: list[Text] | Maybe | None = UNSET
    host_routes: list[HostRoute] | Maybe | None = UNSET
    allocation_pools: list[AllocationPool] | Maybe | None = UNSET


class NewSubnet(SubnetChange, kw_only=True):
    network_id: Text
    cidr: Text | Maybe | None = UNSET
    ip_version: Number | Maybe = UNSET
    ipv6_address_mode: Text | Maybe | None = UNSET
    ipv6_ra_mode: Text | Maybe | None = UNSET
    tenant_id: Text | Maybe = UNSET
    project_id: Text | Maybe = UNSET


class FixedIpWanted(_Body):
    subnet_id: Text | Maybe | None = UNSET
    ip_address: Text | Maybe | None = UNSET


class AddressPair(_Body):
    ip_address: Text
    mac_address: Text | Maybe | None = UNSET


class DhcpOption(_Body):
    opt_name: Annotated[str, Meta(min_length=1, max_length=64)]
    opt_value: Text | None = None
    ip_version: int = 4


class PortChange(Described):
    admin_state_up: bool | Maybe = UNSET
    mac_address: Text | Maybe | None = UNSET
    fixed_ips: list[FixedIpWanted] | Maybe | None = UNSET
    device_id: Text | Maybe | None = UNSET
    device_owner: Text | Maybe | None = UNSET
    security_groups: list[Text] | Maybe | None = UNSET
    allowed_address_pairs: list[AddressPair] | Maybe | None = UNSET
    extra_dhcp_opts: list[DhcpOption] | Maybe | None = UNSET
    port_security_enabled: bool | Maybe = UNSET
    dns_name: Text | Maybe = UNSET
    host_id: Text | Maybe | None = field(default=UNSET, name="binding:host_id")
    vnic_type: Text | Maybe = field(default=UNSET, name="binding:vnic_type")
    profile: dict[str, Any] | Maybe | None = field(default=UNSET, name="binding:profile")


class NewPort(PortChange, kw_only=True):
    network_id: Text
    tenant_id: Text | Maybe = UNSET
    project_id: Text | Maybe = UNSET


class Gateway(_Body):
    network_id: Text | Maybe | None = UNSET
    enable_snat: bool | Maybe = UNSET
    external_fixed_ips: list[FixedIpWanted] | Maybe | None = UNSET


class NewRouter(Owned):
    admin_state_up: bool | Maybe = UNSET
    external_gateway_info: Gateway | Maybe | None = UNSET


class RouterChange(Described):
    admin_state_up: bool | Maybe = UNSET
    external_gateway_info: Gateway | Maybe | None = UNSET
    routes: list[HostRoute] | Maybe | None = UNSET


class NewGroup(Owned):
    stateful: bool | Maybe = UNSET


class GroupChange(Described):
    stateful: bool | Maybe = UNSET


class NewRule(_Body, kw_only=True):
    security_group_id: Text
    direction: Text
    ethertype: Text | Maybe | None = UNSET
    protocol: int | Annotated[str, Meta(max_length=40)] | Maybe | None = UNSET
    port_range_min: Number | Maybe | None = UNSET
    port_range_max: Number | Maybe | None = UNSET
    remote_ip_prefix: Text | Maybe | None = UNSET
    remote_group_id: Text | Maybe | None = UNSET
    description: Text | Maybe | None = UNSET
    tenant_id: Text | Maybe = UNSET
    project_id: Text | Maybe = UNSET


class NewFloatingIp(_Body, kw_only=True):
    floating_network_id: Text
    subnet_id: Text | Maybe | None = UNSET
    floating_ip_address: Text | Maybe | None = UNSET
    port_id: Text | Maybe | None = UNSET
    fixed_ip_address: Text | Maybe | None = UNSET
    description: Text | Maybe = UNSET
    tenant_id: Text | Maybe = UNSET
    project_id: Text | Maybe = UNSET


class FloatingIpChange(_Body):
    port_id: Text | Maybe | None = UNSET
    fixed_ip_address: Text | Maybe | None = UNSET
    description: Text | Maybe = UNSET


def fields_of(body: Struct) -> dict[str, Any]:
    """What a body sets, by the API's names; project_id for both its names, numbers as numbers.

    Raises `BadRequest` when the two names of the project contradict each other.
    """
    fields: dict[str, Any] = msgspec.to_builtins(body)
    tenant = fields.pop("tenant_id", None)
    if tenant is not None and fields.setdefault("project_id", tenant) != tenant:
        raise BadRequest("'project_id' and 'tenant_id' are different.")
    for name in _NUMBERS:
        if fields.get(name) is not None:
            fields[name] = int(fields[name])
            if fields[name].bit_length() > 31:
                raise BadRequest(f"{name}: {fields[name]} is out of range.")
    for name, empty in _EMPTY.items():
        if name in fields and fields[name] is None:
            fields[name] = empty
    for name in _NONE_IS_UNSET:
        if name in fields and fields[name] is None:
            del fields[name]
    return fields


_EMPTY: dict[str, Any] = {
    "dns_nameservers": [],
    "host_routes": [],
    "allowed_address_pairs": [],
    "extra_dhcp_opts": [],
    "device_id": "",
    "device_owner": "",
    "binding:profile": {},
    "binding:host_id": "",
    "routes": [],
}
"""What null means."""

_NONE_IS_UNSET = (
    "allocation_pools",
    "mac_address",
    "security_groups",
    "provider:network_type",
    "provider:physical_network",
    "provider:segmentation_id",
)
