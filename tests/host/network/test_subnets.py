"""What users say of their subnets, ports and routers reaches guests, also when they change it while they run."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from sqlalchemy import Connection, insert

from kilonova.ids import new_id
from kilonova.store import schema

from .world import Guest, Network, World, _address, _port, pings, until


async def test_options_of_a_port_are_its_alone_and_change(world: World) -> None:
    network = await world.network()
    options = [{"opt_name": "mtu", "opt_value": "1300", "ip_version": 4}]
    first, second = await world.port(network, 3, extra_dhcp_opts=options), await world.port(network, 4)
    for guest in (first, second):
        await world.wire(guest)

    assert [await world.dhcp(first), await world.dhcp(second)] == ["10.0.0.3", "10.0.0.4"]
    assert [_mtu(first), _mtu(second)] == [1300, 1500]
    await world.update(schema.ports, first.port_id, extra_dhcp_opts=[])
    await world.update(schema.ports, second.port_id, extra_dhcp_opts=[{**options[0], "opt_value": "1200"}])
    await world.look()
    assert [await world.dhcp(first), await world.dhcp(second)] == ["10.0.0.3", "10.0.0.4"]
    assert [_mtu(first), _mtu(second)] == [1500, 1200]


async def test_a_subnet_changes_under_its_guests(world: World) -> None:
    network = await world.network()
    guest = await world.port(network, 3)
    await world.wire(guest)
    assert await world.dhcp(guest) == "10.0.0.3"
    assert "default via 10.0.0.1" in _routes(guest)

    routes = [{"destination": "192.0.2.0/24", "nexthop": "10.0.0.9"}]
    await world.update(schema.subnets, network.subnet_id, gateway_ip="10.0.0.254", host_routes=routes)
    await world.look()
    assert await world.dhcp(guest) == "10.0.0.3"
    assert "default via 10.0.0.254" in _routes(guest)
    assert "192.0.2.0/24 via 10.0.0.9" in _routes(guest)

    await world.update(schema.subnets, network.subnet_id, gateway_ip=None, host_routes=[])
    await world.look()
    for route in ("default", "192.0.2.0/24"):
        guest.run("ip", "route", "del", route)
    assert await world.dhcp(guest) == "10.0.0.3"
    assert "default" not in _routes(guest)
    assert "192.0.2.0" not in _routes(guest)


async def test_two_subnets_of_a_network_and_several_addresses_of_a_port(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    second = await _more(world, network, "10.7.0.0/24")
    group = await world.default_group(network.project_id)
    one, other = await world.guest(network, 3, [group]), await world.port(network, 4, [group])

    def rows(tx: Connection) -> None:
        for address in ("10.7.0.8", "10.7.0.9"):
            _address(tx, second, other.port_id, address)
        leg = _port(tx, second, owner="network:router_interface", device=network.router_id)
        _address(tx, second, leg, "10.7.0.1")

    await world.store.write(rows)
    await world.wire(other)
    for address in ("10.7.0.8/24", "10.7.0.9/24"):
        other.run("ip", "addr", "add", address, "dev", "eth0")
    other.run("ip", "route", "add", "default", "via", "10.7.0.1")

    for address in ("10.7.0.8", "10.7.0.9"):
        until(partial(pings, one.namespace, address), f"{address} through the router", 5)
    other.run("ip", "addr", "add", "10.7.0.10/24", "dev", "eth0")
    assert not pings(one.namespace, "10.7.0.10")


async def test_static_route_of_a_router_leads_through_another_one(world: World) -> None:
    public = await world.public_network()
    left = await world.network("10.1.0.0/24", public=public)
    middle = await world.network("10.2.0.0/24", project=left.project_id)
    right = await world.network("10.3.0.0/24", project=left.project_id, public=public)
    group = await world.default_group(left.project_id)
    await world.rule(group, protocol="icmp")

    def rows(tx: Connection) -> None:
        for router_id, address in ((left.router_id, "10.2.0.1"), (right.router_id, "10.2.0.9")):
            _address(tx, middle, _port(tx, middle, owner="network:router_interface", device=router_id), address)

    await world.store.write(rows)
    first, second = await world.guest(left, 3, [group]), await world.guest(right, 3, [group])
    assert not pings(first.namespace, "10.3.0.3")

    await world.update(schema.routers, left.router_id, routes=[{"destination": "10.3.0.0/24", "nexthop": "10.2.0.9"}])
    await world.update(schema.routers, right.router_id, routes=[{"destination": "10.1.0.0/24", "nexthop": "10.2.0.1"}])
    await world.look()
    assert pings(first.namespace, "10.3.0.3")
    assert pings(second.namespace, "10.1.0.3")

    await world.update(schema.routers, left.router_id, routes=[])
    await world.look()
    assert not pings(first.namespace, "10.3.0.3")


async def test_addresses_of_a_port_change_while_it_runs(world: World) -> None:
    network = await world.network()
    group = await world.default_group(network.project_id)
    guest, other = await world.guest(network, 3, [group]), await world.guest(network, 4, [group])
    guest.run("ip", "addr", "add", "10.0.0.33/24", "dev", "eth0")
    assert pings(other.namespace, "10.0.0.3")
    assert not pings(other.namespace, "10.0.0.33")

    def rows(tx: Connection) -> None:
        addresses = schema.addresses
        tx.execute(addresses.delete().where(addresses.c.address == "10.0.0.3"))
        _address(tx, network, guest.port_id, "10.0.0.33")

    await world.store.write(rows)
    await world.look()
    assert pings(other.namespace, "10.0.0.33")
    assert not pings(other.namespace, "10.0.0.3")


async def _more(world: World, network: Network, cidr: str, **values: Any) -> Network:
    """Another subnet of a network, as a network to take addresses of."""
    second = Network(network.id, new_id(), cidr, network.bridge, network.project_id, network.router_id)
    row = {"id": second.subnet_id, "network_id": network.id, "project_id": network.project_id, "cidr": cidr}
    row |= {"gateway_ip": second.address(1), "service_address": second.address(2), **values}
    await world.store.write(lambda tx: tx.execute(insert(schema.subnets).values(**row)).rowcount)
    return second


def _routes(guest: Guest) -> str:
    return guest.run("ip", "route").stdout


def _mtu(guest: Guest) -> int:
    link = json.loads(guest.run("ip", "-j", "link", "show", "dev", "eth0").stdout)
    return int(link[0]["mtu"])
