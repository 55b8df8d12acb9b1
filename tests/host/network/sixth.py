"""IPv6 in the tests' world: rows of its subnets and addresses, and a guest that asks DHCPv6 or DNS."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert

from kilonova.ids import new_id
from kilonova.network.ipv6 import eui64
from kilonova.store import schema

from .world import Guest, Network, World, _port

CLIENT = Path(__file__).with_name("dhcp6.py")


@dataclass(frozen=True)
class Subnet6:
    id: str
    network: Network
    cidr: str

    def at(self, offset: int) -> str:
        return str(ip_network(self.cidr)[offset])


async def subnet6(
    world: World, network: Network, cidr: str, mode: str | None, *, router_id: str = "", **values: Any
) -> Subnet6:
    """A subnet of a network, its services at `::2`; with a router that has a leg of its own at `::1`."""
    subnet = Subnet6(new_id(), network, cidr)
    services = network.project_id != "admin"

    def rows(tx: Connection) -> None:
        tx.execute(
            insert(schema.subnets).values(
                id=subnet.id,
                network_id=network.id,
                project_id=network.project_id,
                ip_version=6,
                cidr=cidr,
                gateway_ip=subnet.at(1),
                enable_dhcp=services,
                service_address=subnet.at(2) if services else None,
                **{"ipv6_address_mode": mode, "ipv6_ra_mode": mode, **values},
            )
        )
        if services:
            ports = schema.ports
            query = ports.select().where(ports.c.network_id == network.id, ports.c.device_owner == "network:dhcp")
            _address(tx, subnet, tx.execute(query).mappings().one()["id"], subnet.at(2))
        if router_id:
            leg = _port(tx, network, owner="network:router_interface", device=router_id)
            _address(tx, subnet, leg, subnet.at(1))

    await world.store.write(rows)
    return subnet


async def give(world: World, guest: Guest, subnet: Subnet6, address: str = "") -> str:
    """An address of the guest's port; none named: the one that it makes of its MAC."""
    address = address or eui64(subnet.cidr, guest.mac)
    await world.store.write(_address, subnet, guest.port_id, address)
    return address


async def gateway6(world: World, network: Network, public: Subnet6, offset: int) -> str:
    """The router's address of the external network's IPv6 subnet."""

    def rows(tx: Connection) -> None:
        ports = schema.ports
        query = ports.select().where(
            ports.c.device_id == network.router_id, ports.c.device_owner == "network:router_gateway"
        )
        _address(tx, public, tx.execute(query).mappings().one()["id"], public.at(offset))

    await world.store.write(rows)
    return public.at(offset)


def ask_dhcp6(guest: Guest, kind: str) -> dict[str, Any]:
    """What `dhcp6.py` was given; empty when nobody answers."""
    done = guest.run(sys.executable, "-S", str(CLIENT), "eth0", guest.mac, kind)
    return json.loads(done.stdout) if done.returncode == 0 else {}


def addresses6(guest: Guest) -> set[str]:
    """Of global scope and past duplicate address detection."""
    found = json.loads(guest.run("ip", "-j", "-6", "addr", "show", "dev", "eth0").stdout)
    return {
        item["local"]
        for link in found
        for item in link.get("addr_info", ())
        if item["scope"] == "global" and not item.get("tentative")
    }


def default_routes6(guest: Guest) -> set[str]:
    found = json.loads(guest.run("ip", "-j", "-6", "route", "show", "default").stdout)
    hops = {hop["gateway"] for item in found for hop in item.get("nexthops", ())}
    return hops | {item["gateway"] for item in found if "gateway" in item}


def lookup(guest: Guest, name: str, server: str, kind: str = "A") -> str:
    """What a name server says of a name, or without a kind of an address; empty when it knows nothing."""
    done = guest.run("busybox", "nslookup", *([f"-type={kind}"] if kind else []), name, server)
    return done.stdout if done.returncode == 0 else ""


def _address(tx: Connection, subnet: Subnet6, port_id: str, address: str) -> None:
    row = {"subnet_id": subnet.id, "network_id": subnet.network.id, "address": address}
    tx.execute(insert(schema.addresses).values(port_id=port_id, **row))
