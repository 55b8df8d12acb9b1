"""Floating addresses, source translation, and the walls between projects."""

from __future__ import annotations

from functools import partial

from kilonova.store import schema

from .world import Guest, World, connects, pings, until


async def test_floating_address_reaches_the_guest_with_the_true_source(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    group = await world.group(network.project_id)
    guest = await world.guest(network, 3, [group])
    world.listen(guest, 80)
    floating = await world.floating_ip(public, 50, guest)
    await world.rule(group, protocol="tcp", port_range_min=80, port_range_max=80)
    await world.look()

    answer = connects(world.outside, floating, 80)

    assert answer == "203.0.113.1"
    assert not connects(world.outside, floating, 81)
    assert (await world.rows(schema.floating_ips))[0]["status"] == "ACTIVE"


async def test_without_a_rule_a_floating_address_is_silent(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    guest = await world.guest(network, 3, [await world.group(network.project_id)])
    floating = await world.floating_ip(public, 50, guest)
    await world.look()

    assert not pings(world.outside, floating)


async def test_taken_floating_address_answers_no_more_and_its_flows_end(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    group = await world.group(network.project_id)
    await world.rule(group, protocol="icmp")
    first, second = await world.guest(network, 3, [group]), await world.guest(network, 4, [group])
    floating = await world.floating_ip(public, 50, first)
    await world.look()
    assert pings(world.outside, floating)
    row = (await world.rows(schema.floating_ips))[0]

    await world.update(schema.floating_ips, row["id"], fixed_port_id=second.port_id, fixed_address=second.address)
    await world.look()
    first.run("ip", "link", "set", "eth0", "down")
    assert pings(world.outside, floating)

    await world.update(schema.floating_ips, row["id"], fixed_port_id=None, fixed_address=None)
    await world.look()
    assert not pings(world.outside, floating)


async def test_guest_reaches_its_own_floating_address_and_its_neighbours(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    group = await world.group(network.project_id)
    await world.rule(group, protocol="icmp")
    first, second = await world.guest(network, 3, [group]), await world.guest(network, 4, [group])
    mine, other = await world.floating_ip(public, 50, first), await world.floating_ip(public, 51, second)
    await world.look()

    assert pings(first.namespace, other)
    assert pings(first.namespace, mine)


async def test_guest_without_a_floating_address_goes_out_as_its_router(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    guest = await world.guest(network, 3, [await world.group(network.project_id)])
    world.listen_in(world.outside, 8080)

    assert pings(guest.namespace, "203.0.113.1")
    assert connects(guest.namespace, "203.0.113.1", 8080) == public.address(int(network.bridge[2:]))


async def test_nobody_routes_in_to_a_fixed_address(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    group = await world.group(network.project_id)
    await world.rule(group, protocol="icmp")
    guest = await world.guest(network, 3, [group])
    world.inside(world.outside, "ip", "route", "add", network.cidr, "via", public.address(int(network.bridge[2:])))

    assert not pings(world.outside, guest.address)


async def test_projects_do_not_reach_each_other(world: World) -> None:
    public = await world.public_network()
    mine = await world.network("10.0.0.0/24", public=public)
    theirs = await world.network("10.0.1.0/24", public=public)
    group, open_group = await world.default_group(mine.project_id), await world.group(theirs.project_id)
    await world.rule(open_group, protocol="icmp")
    guest, stranger = await world.guest(mine, 3, [group]), await world.guest(theirs, 3, [open_group])

    assert not pings(guest.namespace, stranger.address)
    assert not pings(guest.namespace, theirs.address(1))
    assert not pings(guest.namespace, theirs.address(2))


async def test_equal_addresses_in_two_projects_do_not_meet(world: World) -> None:
    public = await world.public_network()
    guests = []
    for offset in (50, 51):
        network = await world.network("10.0.0.0/24", public=public)
        group = await world.default_group(network.project_id)
        await world.rule(group, protocol="tcp", port_range_min=80, port_range_max=80)
        first, second = await world.guest(network, 3, [group]), await world.guest(network, 4, [group])
        world.background(second.namespace, "busybox", "nc", "-ll", "-p", "80", "-e", "/bin/echo", str(offset))
        guests.append((first, second, await world.floating_ip(public, offset, second), str(offset)))
    await world.look()

    for first, second, floating, name in guests:
        until(partial(_listens, second), "listener")
        assert connects(first.namespace, second.address, 80).strip() == name
        assert connects(world.outside, floating, 80).strip() == name


async def test_router_without_source_nat_lets_only_floating_addresses_out(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    await world.update(schema.routers, network.router_id, enable_snat=False)
    group = await world.group(network.project_id)
    first, second = await world.guest(network, 3, [group]), await world.guest(network, 4, [group])
    await world.floating_ip(public, 50, second)
    await world.look()

    assert not pings(first.namespace, "203.0.113.1")
    assert pings(second.namespace, "203.0.113.1")


def _listens(guest: Guest) -> bool:
    return ":0050 " in guest.run("cat", "/proc/net/tcp", "/proc/net/tcp6").stdout
