"""Rows of projects' networks and of guests on several hosts, as a store has them, and what each host reads of them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from sqlalchemy import Engine, create_engine, delete, insert

from kilonova.ids import new_id
from kilonova.network.rows import HostRows, load
from kilonova.store import schema

PROJECT = "project"


@dataclass(frozen=True)
class Network:
    id: str
    subnet_id: str
    segment: int
    """VLAN id or VNI."""
    cidr: str
    manager: str = "vlan"
    is_served: bool = False
    """With DHCP."""

    @property
    def bridge(self) -> str:
        return f"br{self.segment}" if self.manager == "vlan" else f"bv{self.segment}"

    @property
    def mtu(self) -> int:
        return 1500 if self.manager == "vlan" else 1450


@dataclass(frozen=True)
class Port:
    id: str
    network: Network
    host: str
    address: str
    mac: str


class Rows:
    def __init__(self) -> None:
        self._engine: Engine = create_engine("sqlite://")
        schema.metadata.create_all(self._engine)
        self._open_group = new_id()
        self._insert(schema.security_groups, id=self._open_group, project_id=PROJECT, name="everything")
        for direction in ("ingress", "egress"):
            rule = {"security_group_id": self._open_group, "direction": direction, "ethertype": "IPv4"}
            self._insert(schema.security_group_rules, id=new_id(), project_id=PROJECT, **rule)

    def close(self) -> None:
        self._engine.dispose()

    def underlay(self, host: str, address: str) -> None:
        """A host's agent says where its tunnels end."""
        capacity = {"tunnel": {"address": address, "mtu": 1500}}
        self._insert(schema.services, id=new_id(), kind="network", host=host, capacity=capacity)

    def network(self, segment: int, cidr: str, *, manager: str = "vlan", served_by: str = "") -> Network:
        """A network; served by a host's DHCP, or by none."""
        network = Network(new_id(), new_id(), segment, cidr, manager, bool(served_by))
        physical = "physnet1" if manager == "vlan" else "vxlan"
        values = {"manager": manager, "physical_network": physical, "segmentation_id": segment, "mtu": network.mtu}
        values |= {"bridge": network.bridge, "host": served_by or None}
        self._insert(schema.networks, id=network.id, project_id=PROJECT, **values)
        gateway, service = (str(ip_network(cidr)[offset]) for offset in (1, 2))
        subnet = {"network_id": network.id, "cidr": cidr, "gateway_ip": gateway, "enable_dhcp": network.is_served}
        subnet["service_address"] = service if served_by else None
        self._insert(schema.subnets, id=network.subnet_id, project_id=PROJECT, **subnet)
        return network

    def port(self, network: Network, host: str, offset: int) -> Port:
        """A guest's port, bound to a host. Its group lets everything through: only the wires keep guests apart."""
        port_id = new_id()
        mac = "fa:16:3e:" + ":".join(port_id[place : place + 2] for place in (0, 2, 4))
        port = Port(port_id, network, host, str(ip_network(network.cidr)[offset]), mac)
        values = {"network_id": network.id, "project_id": PROJECT, "mac": mac, "host": host, "vif": "veth"}
        self._insert(schema.ports, id=port_id, device_owner="compute:nova", device_id=new_id(), **values)
        address = {"subnet_id": network.subnet_id, "network_id": network.id, "address": port.address}
        self._insert(schema.addresses, port_id=port_id, **address)
        self._insert(schema.port_security_groups, port_id=port_id, security_group_id=self._open_group)
        return port

    def remove(self, port: Port) -> None:
        with self._engine.begin() as tx:
            tx.execute(delete(schema.addresses).where(schema.addresses.c.port_id == port.id))
            tx.execute(delete(schema.ports).where(schema.ports.c.id == port.id))

    def of_host(self, host: str) -> HostRows:
        """What the host's agent would read."""
        with self._engine.connect() as tx:
            return load(tx, host)

    def _insert(self, table: Any, **values: Any) -> None:
        with self._engine.begin() as tx:
            tx.execute(insert(table).values(**values))
