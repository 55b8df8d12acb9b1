"""Reads the rows of one instance that its metadata documents are made of.

Rendering is `kilonova.metadata`'s; who asks, and from which port, is known to the network agent.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections import defaultdict
from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from kilonova.errors import NotFound
from kilonova.metadata import InstanceMetadata, Interface, InterfaceAddress, Route
from kilonova.store import schema


def load_instance_metadata(tx: Connection, instance_id: str) -> InstanceMetadata:
    """What the documents of `instance_id` are made of. Raises `NotFound`.

    The random seed is fresh at each call, as the guest's entropy must not repeat.
    """
    instances = schema.instances
    instance = tx.execute(select(instances).where(instances.c.id == instance_id)).mappings().one_or_none()
    if instance is None:
        raise NotFound(f"Instance {instance_id} does not exist.")
    ports = _ports(tx, instance_id)
    port_ids = [port["id"] for port in ports]
    return InstanceMetadata(
        instance_id=instance_id,
        name=instance["name"],
        hostname=instance["hostname"],
        project_id=instance["project_id"],
        availability_zone=instance["availability_zone"] or "nova",
        flavor_name=str((instance["flavor"] or {}).get("name") or instance["flavor_id"]),
        image_id=instance["image_id"],
        reservation_id=instance["reservation_id"],
        launch_index=instance["launch_index"],
        key_name=instance["key_name"],
        public_key=instance["public_key"],
        user_data=_decoded(instance["user_data"]),
        metadata=dict(instance["metadata"] or {}),
        security_groups=_group_names(tx, port_ids),
        interfaces=_interfaces(tx, ports),
        public_ipv4=_floating_address(tx, port_ids),
        random_seed=os.urandom(512),
    )


def _ports(tx: Connection, instance_id: str) -> Sequence[RowMapping]:
    ports, networks = schema.ports, schema.networks
    statement = (
        select(ports.c.id, ports.c.mac, ports.c.network_id, networks.c.mtu)
        .join(networks, networks.c.id == ports.c.network_id)
        .where(ports.c.device_id == instance_id)
        .order_by(ports.c.position, ports.c.created_at, ports.c.id)
    )
    return tx.execute(statement).mappings().all()


def _interfaces(tx: Connection, ports: Sequence[RowMapping]) -> tuple[Interface, ...]:
    addresses, subnets = schema.addresses, schema.subnets
    statement = (
        select(
            addresses.c.port_id,
            addresses.c.address,
            subnets.c.id.label("subnet_id"),
            subnets.c.cidr,
            subnets.c.enable_dhcp,
            subnets.c.ipv6_address_mode,
            subnets.c.gateway_ip,
            subnets.c.dns_nameservers,
            subnets.c.host_routes,
            subnets.c.service_address,
        )
        .join(subnets, subnets.c.id == addresses.c.subnet_id)
        .where(addresses.c.port_id.in_([port["id"] for port in ports]))
        .order_by(subnets.c.ip_version, addresses.c.address)
    )
    by_port: defaultdict[str, list[InterfaceAddress]] = defaultdict(list)
    for row in tx.execute(statement).mappings():
        by_port[row["port_id"]].append(_address(row))
    return tuple(
        Interface(
            port_id=port["id"],
            device=f"tap{port['id'][:11]}",
            mac=port["mac"],
            mtu=port["mtu"],
            network_id=port["network_id"],
            addresses=tuple(by_port[port["id"]]),
        )
        for port in ports
    )


def _address(row: RowMapping) -> InterfaceAddress:
    servers: list[str] = list(row["dns_nameservers"] or [])
    if not servers and row["service_address"]:
        servers = [row["service_address"]]
    routes: list[dict[str, Any]] = row["host_routes"] or []
    return InterfaceAddress(
        address=row["address"],
        prefix_length=ip_network(row["cidr"]).prefixlen,
        subnet_id=row["subnet_id"],
        dhcp=bool(row["enable_dhcp"]),
        ipv6_mode=row["ipv6_address_mode"],
        gateway=row["gateway_ip"],
        nameservers=tuple(servers),
        routes=tuple(Route(route["destination"], route["nexthop"]) for route in routes),
    )


def _group_names(tx: Connection, port_ids: list[str]) -> tuple[str, ...]:
    links, groups = schema.port_security_groups, schema.security_groups
    statement = (
        select(groups.c.name)
        .join(links, links.c.security_group_id == groups.c.id)
        .where(links.c.port_id.in_(port_ids))
        .distinct()
        .order_by(groups.c.name)
    )
    return tuple(tx.execute(statement).scalars())


def _floating_address(tx: Connection, port_ids: list[str]) -> str | None:
    floating = schema.floating_ips
    statement = (
        select(floating.c.address)
        .where(floating.c.fixed_port_id.in_(port_ids))
        .order_by(floating.c.created_at)
        .limit(1)
    )
    return tx.execute(statement).scalars().first()


def _decoded(user_data: str | None) -> bytes | None:
    if not user_data:
        return None
    try:
        return base64.b64decode(user_data)
    except (binascii.Error, ValueError):
        return user_data.encode()
