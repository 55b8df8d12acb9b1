"""A floating IP's life: given at boot or later, moved between servers and routers, taken back, and only then free."""

from __future__ import annotations

import contextlib
import json
import select
import socket
from collections.abc import Iterator
from functools import partial

from sqlalchemy import Connection, delete, update

from kilonova.network.host import namespaces
from kilonova.store import schema
from kilonova.store.ports import release_port

from . import frames
from .world import Guest, Network, World, connects, inspect_namespace, pings


async def test_address_given_before_the_server_runs_works_when_it_does(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    group = await _web_group(world, network)
    port = await world.port(network, 3, [group])
    floating = await world.floating_ip(public, 50, port)
    await world.look()
    assert not pings(world.outside, floating)

    await world.wire(port)
    assert await world.dhcp(port) == port.address
    world.listen(port, 80)

    assert connects(world.outside, floating, 80) == "203.0.113.1"


async def test_address_given_to_a_running_server_carries_both_directions(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    guest = await world.guest(network, 3, [await _web_group(world, network)])
    world.listen(guest, 80)
    world.listen_in(world.outside, 8080)
    assert connects(guest.namespace, "203.0.113.1", 8080) == _outer(public, network)

    floating = await world.floating_ip(public, 50, guest)
    await world.look()

    assert connects(world.outside, floating, 80) == "203.0.113.1"
    assert connects(guest.namespace, "203.0.113.1", 8080) == floating


async def test_neighbours_see_each_other_under_the_addresses_the_world_sees(world: World) -> None:
    """Hairpin: over the router and back into the network; replies must take the same way."""
    public = await world.public_network()
    network = await world.network(public=public)
    group = await _web_group(world, network)
    first, second, plain = [await world.guest(network, offset, [group]) for offset in (3, 4, 5)]
    for guest in (first, second):
        world.listen(guest, 80)
    mine, other = await world.floating_ip(public, 50, first), await world.floating_ip(public, 51, second)
    await world.look()

    assert connects(first.namespace, other, 80) == mine
    assert connects(first.namespace, mine, 80) == mine
    assert connects(plain.namespace, other, 80) == _outer(public, network)
    assert connects(first.namespace, second.address, 80) == first.address


async def test_guests_of_two_projects_meet_under_their_floating_addresses_only(world: World) -> None:
    public = await world.public_network()
    guests = []
    for offset in (50, 51):
        network = await world.network("10.0.0.0/24", public=public)
        guest = await world.guest(network, 3, [await _web_group(world, network)])
        world.listen(guest, 80)
        guests.append((guest, await world.floating_ip(public, offset, guest)))
    await world.look()
    (first, mine), (_, theirs) = guests

    assert connects(first.namespace, theirs, 80) == mine


async def test_move_to_a_server_of_the_same_router_ends_what_was_open(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    group = await _web_group(world, network)
    first, second = await world.guest(network, 3, [group]), await world.guest(network, 4, [group])
    floating = await world.floating_ip(public, 50, first)
    await world.look()
    world.listen(second, 80)
    with _connected(world.outside, first, floating) as ends:
        assert _reaches(*ends)

        await _move(world, floating, second)

        assert not _reaches(*ends)
        assert not _reaches(*reversed(ends))
    assert connects(world.outside, floating, 80) == "203.0.113.1"


async def test_move_to_another_router_is_announced_and_works_at_once(world: World) -> None:
    public = await world.public_network()
    old = await world.network("10.0.0.0/24", public=public)
    new = await world.network("10.0.1.0/24", project=old.project_id, public=public)
    first = await world.guest(old, 3, [await _web_group(world, old)])
    second = await world.guest(new, 3, [await _web_group(world, new)])
    for guest in (first, second):
        world.listen(guest, 80)
    floating = await world.floating_ip(public, 50, first)
    await world.look()
    assert connects(world.outside, floating, 80)
    before = _neighbour(world, floating)

    with namespaces.run_inside(world.outside, frames.opened) as wire:
        await _move(world, floating, second)
        announced = _announcement(wire, floating)

    assert announced not in ("", before)
    assert _neighbour(world, floating) == announced
    assert connects(world.outside, floating, 80) == "203.0.113.1"
    router = f"{world.config.host.prefix}-r-{old.router_id[:11]}"
    assert floating not in str(inspect_namespace(router))


async def test_released_address_is_unreachable_first_and_free_then(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    guest = await world.guest(network, 3, [await _web_group(world, network)])
    floating = await world.floating_ip(public, 50, guest)
    await world.look()
    with _connected(world.outside, guest, floating) as ends:
        assert _reaches(*ends)
        answers = partial(world.inside, world.outside, "arping", "-c", "1", "-w", "1", "-I", "eth0", floating)
        assert "1 response" in answers(check=False)

        await _release(world, floating)
        assert floating not in [row["address"] for row in await world.rows(schema.reusable_addresses)]
        assert pings(world.outside, floating)
        await world.look()

        assert [row["address"] for row in await world.rows(schema.reusable_addresses)] == [floating]
        assert not _reaches(*ends)
        assert not _reaches(*reversed(ends))
    assert not pings(world.outside, floating)
    assert "1 response" not in answers(check=False)
    assert floating not in str(inspect_namespace(f"{world.config.host.prefix}-r-{network.router_id[:11]}"))


async def _web_group(world: World, network: Network) -> str:
    group = await world.group(network.project_id)
    await world.rule(group, protocol="icmp")
    await world.rule(group, protocol="tcp", port_range_min=80, port_range_max=81)
    return group


def _outer(public: Network, network: Network) -> str:
    """The public address of the network's router."""
    return public.address(int(network.bridge[2:]))


async def _move(world: World, floating: str, guest: Guest) -> None:
    (row,) = [row for row in await world.rows(schema.floating_ips) if row["address"] == floating]
    values = {"fixed_port_id": guest.port_id, "fixed_address": guest.address, "router_id": guest.network.router_id}
    await world.update(schema.floating_ips, row["id"], **values)
    await world.look()


async def _release(world: World, floating: str) -> None:
    """As the cloud controller does."""
    table = schema.floating_ips

    def rows(tx: Connection) -> None:
        row = tx.execute(table.select().where(table.c.address == floating)).mappings().one()
        tx.execute(delete(table).where(table.c.id == row["id"]))
        port = schema.ports.c.id == row["floating_port_id"]
        tx.execute(update(schema.ports).where(port).values(host=world.name))
        release_port(tx, row["floating_port_id"])

    await world.store.write(rows)


@contextlib.contextmanager
def _connected(namespace: str, guest: Guest, floating: str) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection to port 81: the outer and the guest's end."""
    listener = namespaces.run_inside(guest.namespace, socket.create_server, ("", 81))
    with listener, namespaces.run_inside(namespace, socket.create_connection, (floating, 81), 5) as near:
        far, _ = listener.accept()
        with far:
            yield near, far


def _reaches(listener: socket.socket, speaker: socket.socket) -> bool:
    try:
        speaker.send(b"more")
        return bool(select.select([listener], [], [], 0.7)[0] and listener.recv(4096))
    except (ConnectionResetError, BrokenPipeError):  # what an end says that nobody translates any more is refused
        return False


def _neighbour(world: World, address: str) -> str:
    """The MAC that the outside believes of an address."""
    found = json.loads(world.inside(world.outside, "ip", "-j", "neigh", "show", address))
    return str(found[0].get("lladdr", "")) if found else ""


def _announcement(wire: socket.socket, address: str) -> str:
    """The MAC of the first gratuitous ARP for an address that comes; nothing when none comes."""
    packed = socket.inet_aton(address)
    wire.settimeout(2)
    with contextlib.suppress(TimeoutError):
        while True:
            frame = wire.recv(2048)
            if frame[12:14] == b"\x08\x06" and frame[28:32] == packed and frame[38:42] == packed:
                return frame[22:28].hex(":")
    return ""
