"""IPv6 over one fabric: a guest on one host, its router and its services on another; groups; equal prefixes apart."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from kilonova.store import schema

from .fabric import Fabric, columns
from .sixth import Subnet6, addresses6, ask_dhcp6, default_routes6, give, subnet6
from .world import Guest, Network, World, eventually, pings

CIDR = "fd00:1::/64"
WITHIN_S = 30.0
KINDS = ("vlan", "vxlan")


@pytest.mark.parametrize("kind", KINDS)
async def test_guest_makes_its_address_of_what_another_host_announces(fabric: Fabric, kind: str) -> None:
    first, second, third = fabric.hosts
    network = await first.network(public=await first.public_network(), **columns(fabric, kind))
    subnet = await subnet6(first, network, CIDR, "slaac", router_id=network.router_id)
    group, closed = await first.default_group(network.project_id), await first.group(network.project_id)
    one = await _automatic(second, network, subnet, 3, group)
    two = await _automatic(third, network, subnet, 4, group)
    apart = await _automatic(third, network, subnet, 5, closed)
    await fabric.look()
    for guest, _ in (one, two, apart):
        await eventually(partial(_is_set_up, guest), WITHIN_S)
    assert [addresses6(guest) for guest, _ in (one, two, apart)] == [{address} for _, address in (one, two, apart)]

    await eventually(lambda: pings(one[0].namespace, subnet.at(1)), WITHIN_S)
    # Members of the group reach each other, who is none of it is not reached and reaches none.
    await eventually(lambda: pings(one[0].namespace, two[1]), WITHIN_S)
    assert pings(two[0].namespace, one[1])
    assert pings(apart[0].namespace, subnet.at(1))
    assert not pings(apart[0].namespace, one[1])
    assert not pings(one[0].namespace, apart[1])


@pytest.mark.parametrize("kind", KINDS)
async def test_guest_asks_another_host_for_its_address(fabric: Fabric, kind: str) -> None:
    first, second, _ = fabric.hosts
    network = await first.network(public=await first.public_network(), **columns(fabric, kind))
    subnet = await subnet6(first, network, CIDR, "dhcpv6-stateful", router_id=network.router_id)
    guest = await second.port(network, 3, [await first.default_group(network.project_id)])
    await give(first, guest, subnet, "fd00:1::77")
    await second.wire(guest)
    await eventually(partial(_has_route, guest), WITHIN_S)

    given = await asyncio.to_thread(ask_dhcp6, guest, "solicit")

    assert given == {"address": "fd00:1::77", "dns": ["fd00:1::2"], "domain": "kilonova.internal"}
    guest.run("ip", "addr", "add", "fd00:1::77/64", "dev", "eth0", "nodad")
    await eventually(lambda: pings(guest.namespace, subnet.at(1)), WITHIN_S)


async def test_equal_prefixes_of_two_projects_on_one_host_do_not_meet(world: World) -> None:
    """Each has the same addresses, a router that announces them and a DHCPv6 server; a guest has those of its own."""
    public = await world.public_network()
    guests: list[tuple[Guest, Guest]] = []
    for offset, name in ((0x11, "db"), (0x21, "web")):
        network = await world.network(public=public)
        subnet = await subnet6(world, network, CIDR, "dhcpv6-stateful", router_id=network.router_id)
        group = await world.group(network.project_id)
        await world.rule(group, ethertype="IPv6")
        pair = [await _managed(world, network, subnet, number, group, name) for number in (3, offset)]
        guests.append((pair[0], pair[1]))
    (mine, friend), (theirs, other) = guests
    macs = []
    for one, near, far in ((mine, "fd00:1::11", "fd00:1::21"), (theirs, "fd00:1::21", "fd00:1::11")):
        await eventually(partial(_has_route, one), WITHIN_S)
        macs.append(default_routes6(one))
        answer = ask_dhcp6(one, "solicit")
        assert answer["address"] == "fd00:1::3"
        await eventually(partial(pings, one.namespace, near), WITHIN_S)
        await eventually(partial(pings, one.namespace, "fd00:1::1"), WITHIN_S)
        assert not pings(one.namespace, far)
    assert [len(item) for item in macs] == [1, 1]
    assert macs[0] != macs[1], "each hears its own router only"

    # One's address is taken down: the other one's of the same name goes on, and does not answer for it.
    theirs.run("ip", "link", "set", "eth0", "down")
    assert pings(friend.namespace, "fd00:1::3")
    assert not pings(other.namespace, "fd00:1::3")
    await world.update(schema.routers, mine.network.router_id, admin_state_up=False)
    await world.look()
    assert not pings(friend.namespace, "fd00:1::1")
    assert pings(other.namespace, "fd00:1::1")


def _has_route(guest: Guest) -> bool:
    return default_routes6(guest) != set()


def _is_set_up(guest: Guest) -> bool:
    return _has_route(guest) and addresses6(guest) != set()


async def _automatic(world: World, network: Network, subnet: Subnet6, offset: int, group: str) -> tuple[Guest, str]:
    guest = await world.port(network, offset, [group])
    address = await give(world, guest, subnet)
    await world.wire(guest)
    return guest, address


async def _managed(world: World, network: Network, subnet: Subnet6, offset: int, group: str, name: str) -> Guest:
    """With its address of DHCPv6 set by hand, as if it had asked."""
    values: dict[str, Any] = {"dns_name": name}
    guest = await world.port(network, offset, [group], **values)
    address = await give(world, guest, subnet, f"fd00:1::{offset:x}")
    await world.wire(guest)
    guest.run("ip", "addr", "add", f"{address}/64", "dev", "eth0", "nodad")
    return guest
