"""Rows of projects' networks and of guests on several hosts, as a store has them, and what each host reads of them."""

from __future__ import annotations

import base64
import pickle
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from sqlalchemy import Engine, create_engine, delete, insert

from kilonova.ids import new_id
from kilonova.network.rows import load
from kilonova.store import schema

PROJECT = "project"


@dataclass(frozen=True)
class Network:
    id: str
    subnet_id: str
    vlan: int
    cidr: str

    @property
    def bridge(self) -> str:
        return f"br{self.vlan}"


@dataclass(frozen=True)
class Port:
    id: str
    network: Network
    host: str
    address: str
    mac: str

    @property
    def name(self) -> str:
        """Of the namespace of its guest."""
        return f"g-{self.id[:8]}"


class Rows:
    def __init__(self) -> None:
        self._engine: Engine = create_engine("sqlite://")
        schema.metadata.create_all(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    def network(self, vlan: int, cidr: str) -> Network:
        network = Network(new_id(), new_id(), vlan, cidr)
        values = {"project_id": PROJECT, "manager": "vlan", "physical_network": "physnet1", "segmentation_id": vlan}
        self._insert(schema.networks, id=network.id, bridge=network.bridge, **values)
        gateway = str(ip_network(cidr)[1])
        subnet = {"network_id": network.id, "cidr": cidr, "gateway_ip": gateway, "enable_dhcp": False}
        self._insert(schema.subnets, id=network.subnet_id, project_id=PROJECT, **subnet)
        return network

    def port(self, network: Network, host: str, offset: int) -> Port:
        """A guest's port, bound to a host."""
        port_id = new_id()
        mac = "fa:16:3e:" + ":".join(port_id[place : place + 2] for place in (0, 2, 4))
        port = Port(port_id, network, host, str(ip_network(network.cidr)[offset]), mac)
        values = {"network_id": network.id, "project_id": PROJECT, "mac": mac, "host": host, "vif": "veth"}
        self._insert(schema.ports, id=port_id, device_owner="compute:nova", device_id=new_id(), **values)
        address = {"subnet_id": network.subnet_id, "network_id": network.id, "address": port.address}
        self._insert(schema.addresses, port_id=port_id, **address)
        return port

    def remove(self, port: Port) -> None:
        with self._engine.begin() as tx:
            tx.execute(delete(schema.addresses).where(schema.addresses.c.port_id == port.id))
            tx.execute(delete(schema.ports).where(schema.ports.c.id == port.id))

    def of_host(self, host: str) -> str:
        """Pickled, in base64: what the host's agent would read."""
        with self._engine.connect() as tx:
            return base64.b64encode(pickle.dumps(load(tx, host))).decode()

    def _insert(self, table: Any, **values: Any) -> None:
        with self._engine.begin() as tx:
            tx.execute(insert(table).values(**values))
