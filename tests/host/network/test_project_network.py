"""A project's network as its guests see it: leases, names, metadata, and what its members may do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import select
import socket

from kilonova.network.host import namespaces
from kilonova.store import schema

from .world import Guest, World, connects, pings, until


async def test_guest_gets_its_own_address_by_dhcp(world: World) -> None:
    network = await world.network()
    first = await world.port(network, 3, [await world.default_group(network.project_id)])
    second = await world.port(network, 4)
    for guest in (first, second):
        await world.wire(guest)

    assert await world.dhcp(first) == "10.0.0.3"
    assert await world.dhcp(second) == "10.0.0.4"
    routes = first.run("ip", "route").stdout
    assert "default via 10.0.0.1" in routes
    assert "169.254.169.254 via 10.0.0.2" in routes


async def test_port_is_active_once_wired(world: World) -> None:
    network = await world.network()
    guest = await world.port(network, 3)

    await world.wire(guest)

    assert (await world.row(schema.ports, guest.port_id))["status"] == "ACTIVE"


async def test_metadata_answers_the_instance_that_asks(world: World) -> None:
    network, other = await world.network(), await world.network()
    group = await world.default_group(network.project_id)
    first, second = await world.guest(network, 3, [group]), await world.guest(network, 4, [group])
    stranger = await world.guest(other, 3, [await world.default_group(other.project_id)])

    for guest in (first, second, stranger):
        guest.run("ip", "route", "add", "169.254.169.254", "via", guest.network.address(2))
        answer = await _get(guest, "http://169.254.169.254/openstack/latest/meta_data.json")
        assert json.loads(answer)["uuid"] == guest.instance_id


async def test_members_of_a_group_reach_each_other_and_nobody_else_gets_in(world: World) -> None:
    network = await world.network()
    group, closed = await world.default_group(network.project_id), await world.group(network.project_id)
    first, second = await world.guest(network, 3, [group]), await world.guest(network, 4, [group])
    apart = await world.guest(network, 5, [closed])

    assert pings(first.namespace, second.address)
    assert not pings(apart.namespace, first.address)
    assert not pings(first.namespace, apart.address)


async def test_opened_port_answers_and_its_neighbour_does_not(world: World) -> None:
    network = await world.network()
    group, closed = await world.default_group(network.project_id), await world.group(network.project_id)
    server, client = await world.guest(network, 3, [group]), await world.guest(network, 4, [closed])
    for port in (80, 81):
        world.listen(server, port)

    await world.rule(group, protocol="tcp", port_range_min=80, port_range_max=80)
    await world.look()

    assert connects(client.namespace, server.address, 80)
    assert not connects(client.namespace, server.address, 81)


async def test_removed_rule_cuts_what_was_open(world: World) -> None:
    network = await world.network()
    group, closed = await world.default_group(network.project_id), await world.group(network.project_id)
    server, client = await world.guest(network, 3, [group]), await world.guest(network, 4, [closed])
    rule = await world.rule(group, protocol="icmp")
    await world.look()
    assert pings(client.namespace, server.address)
    flow = world.background(client.namespace, "ping", "-i", "0.1", server.address)
    until(lambda: "icmp" in world.inside(world.switch, "conntrack", "-L"), "flow")

    await world.remove_rule(rule)
    await world.look()

    assert not pings(client.namespace, server.address)
    flow.kill()


async def test_server_that_goes_on_sending_does_not_resume_what_was_cut(world: World) -> None:
    """Its next segment would be the first of a new flow, which its own group lets out."""
    network = await world.network()
    group = await world.default_group(network.project_id)
    server = await world.guest(network, 3, [group])
    client = await world.guest(network, 4, [], port_security_enabled=False)
    rule = await world.rule(group, protocol="tcp", port_range_min=80, port_range_max=80)
    await world.look()
    listener = namespaces.run_inside(server.namespace, socket.create_server, ("", 80))
    with listener, namespaces.run_inside(client.namespace, socket.create_connection, (server.address, 80), 5) as near:
        far, _ = listener.accept()
        near.setblocking(False)

        def hears_more() -> bool:
            with contextlib.suppress(BlockingIOError):
                while near.recv(4096):
                    pass
            far.send(b"more")
            return bool(select.select([near], [], [], 0.5)[0])

        assert hears_more()
        await world.remove_rule(rule)
        far.send(b"under way")
        await world.look()
        hears_more()

        assert not any(hears_more() for _ in range(4))
        far.close()


async def test_group_members_on_two_networks_of_one_router_reach_each_other(world: World) -> None:
    public = await world.public_network()
    network = await world.network("10.0.0.0/24", public=public)
    other = await world.network("10.0.1.0/24", project=network.project_id)
    await world.attach(other, network.router_id)
    group = await world.default_group(network.project_id)
    first, second = await world.guest(network, 3, [group]), await world.guest(other, 3, [group])
    apart = await world.guest(other, 4, [await world.group(network.project_id)])

    assert pings(first.namespace, second.address)
    assert pings(second.namespace, first.address)
    assert not pings(apart.namespace, first.address)


async def _get(guest: Guest, url: str) -> str:
    done = await asyncio.to_thread(guest.run, "curl", "-s", "-m", "5", url)
    return done.stdout
