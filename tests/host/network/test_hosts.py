"""A network host and compute hosts over one fabric: what a guest on one host gets from another, by every wire."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

from kilonova.network.host import namespaces

from .fabric import Fabric, columns
from .world import Guest, Network, World, connects, eventually, inspect_namespace, pings

KINDS = ("vlan", "vxlan", "flat-dhcp")


@pytest.mark.parametrize("kind", KINDS)
async def test_guest_gets_lease_metadata_and_floating_address_from_another_host(fabric: Fabric, kind: str) -> None:
    first, second, _ = fabric.hosts
    public = await first.public_network()
    network = await first.network(public=public, **columns(fabric, kind))
    group = await first.group(network.project_id)
    await first.rule(group, protocol="icmp")
    await first.rule(group, protocol="tcp", port_range_min=80, port_range_max=80)
    guest = await second.port(network, 3, [group])
    await second.wire(guest)

    assert await second.dhcp(guest) == guest.address
    answer = await metadata(guest)
    assert json.loads(answer)["uuid"] == guest.instance_id

    floating = await first.floating_ip(public, 50, guest)
    await fabric.look()
    second.listen(guest, 80)
    assert pings(fabric.outside, floating)
    assert connects(fabric.outside, floating, 80) == "203.0.113.1"


@pytest.mark.parametrize("kind", KINDS)
async def test_groups_hold_between_hosts(fabric: Fabric, kind: str) -> None:
    first, second, third = fabric.hosts
    network = await first.network(**columns(fabric, kind))
    group, closed = await first.default_group(network.project_id), await first.group(network.project_id)
    one, two = await second.guest(network, 3, [group]), await third.guest(network, 4, [group])
    apart = await third.guest(network, 5, [closed])
    await fabric.look()

    assert pings(one.namespace, two.address)
    assert pings(two.namespace, one.address)
    assert not pings(apart.namespace, one.address)
    assert not pings(one.namespace, apart.address)


async def test_member_that_comes_or_goes_on_one_host_is_known_on_the_others_at_once(fabric: Fabric) -> None:
    """No other host is asked to look: the one with the port sees to it."""
    first, second, third = fabric.hosts
    network = await first.network()
    group = await first.default_group(network.project_id)
    one = await second.guest(network, 3, [group])
    two = await third.guest(network, 4, [group])

    def members() -> str:
        return second.inside(second.switch, "nft", "list", "table", "inet", "kn_sg").partition("set g_")[2]

    await eventually(lambda: two.address in members())
    assert pings(two.namespace, one.address)

    await third.delete_port(two.port_id)
    await third.look()

    await eventually(lambda: two.address not in members())


@pytest.mark.parametrize("kind", KINDS)
async def test_packet_of_the_full_mtu_arrives(fabric: Fabric, kind: str) -> None:
    first, second, third = fabric.hosts
    network = await first.network(**columns(fabric, kind))
    group = await first.default_group(network.project_id)
    one, two = await second.guest(network, 3, [group]), await third.guest(network, 4, [group])
    await fabric.look()

    assert one.run("ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1472", two.address).returncode == 0
    size = 4 << 20
    with namespaces.run_inside(two.namespace, socket.create_server, ("", 80)) as listener:
        near = namespaces.run_inside(one.namespace, socket.create_connection, (two.address, 80), 5)
        far, _ = listener.accept()
    far.settimeout(5)
    with near, far, far.makefile("rb") as received:
        sending = asyncio.create_task(asyncio.to_thread(near.sendall, bytes(size)))
        assert len(await asyncio.to_thread(received.read, size)) == size
        await sending


@pytest.mark.parametrize("kind", ["vlan", "vxlan"])
async def test_networks_with_equal_addresses_do_not_meet(fabric: Fabric, kind: str) -> None:
    first, second, third = fabric.hosts
    mine, theirs = [await first.network(**columns(fabric, kind)) for _ in range(2)]
    guests: list[tuple[Guest, Guest]] = []
    for network in (mine, theirs):
        group = await first.group(network.project_id)
        await first.rule(group)
        guests.append((await second.guest(network, 3, [group]), await third.guest(network, 4, [group])))
    await fabric.look()
    (one, _), (other, lone) = guests
    lone.run("ip", "link", "set", "eth0", "down")

    assert pings(one.namespace, "10.0.0.4")
    assert not pings(other.namespace, "10.0.0.4")


@pytest.mark.parametrize("kind", KINDS)
async def test_wires_come_with_the_first_port_and_go_with_the_last(fabric: Fabric, kind: str) -> None:
    first, second, _ = fabric.hosts
    values = columns(fabric, kind)
    await fabric.look()
    before = set(inspect_namespace(second.switch).links)
    network = await first.network(**values)
    guest = await second.port(network, 3)
    await second.wire(guest)
    assert set(inspect_namespace(second.switch).links) > before

    await second.delete_port(guest.port_id)
    namespaces.delete(guest.namespace)
    await second.look()
    await first.look()

    assert set(inspect_namespace(second.switch).links) == before


async def test_every_kind_on_one_host_and_a_guest_on_several(fabric: Fabric) -> None:
    first, second, third = fabric.hosts
    networks: list[Network] = []
    for number, kind in enumerate((*KINDS, "alone")):
        values = {"physical_network": "nowhere"} if kind == "alone" else columns(fabric, kind)
        networks.append(await first.network(f"10.0.{number}.0/24", project="p", **values))
    group = await first.default_group("p")
    many = await second.guest(networks[0], 3, [group])
    others = [await third.guest(network, 4, [group]) for network in networks[:3]]
    near = await second.guest(networks[3], 4, [group])
    for number, network in enumerate(networks[1:], start=1):
        await plug_in(second, many, await second.port(network, 3, [group]), f"eth{number}")
    await fabric.look()

    for guest in (*others, near):
        assert pings(many.namespace, guest.address)


async def plug_in(world: World, guest: Guest, more: Guest, device: str) -> None:
    """Give a guest another port."""
    await world.call("wire", port_id=more.port_id)
    world.inside(world.switch, "ip", "link", "set", f"gst{more.port_id[:11]}", "netns", guest.namespace, "name", device)
    guest.run("ip", "addr", "add", f"{more.address}/24", "dev", device)
    guest.run("ip", "link", "set", device, "up")


async def metadata(guest: Guest) -> str:
    url = "http://169.254.169.254/openstack/latest/meta_data.json"
    return (await asyncio.to_thread(guest.run, "curl", "-s", "-m", "5", url)).stdout
