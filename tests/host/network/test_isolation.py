"""Tries to get where a guest must not: other projects, other VLANs, the host, services that are none of its business.

Every test first does the same where it is allowed: what fails afterwards fails because it is kept from it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from functools import partial

import pytest

from kilonova.network.fragments import inside_device
from kilonova.network.ipv6 import link_local

from . import frames
from .world import Guest, Network, World, connects, pings, until

MARK = b"marked by the stranger"


async def test_fixed_addresses_of_another_project_are_out_of_reach(world: World) -> None:
    """By its router, by a static route over the other router's public address, and from the public side."""
    public = await world.public_network()
    mine, theirs = await world.network("10.0.0.0/24", public=public), await world.network("10.0.1.0/24", public=public)
    second = await world.network("10.0.2.0/24", project=mine.project_id)
    await world.attach(second, mine.router_id)
    guest, victim = await _open_guest(world, mine, 3), await _open_guest(world, theirs, 3)
    own = await _open_guest(world, second, 3)
    for each in (victim, own):
        world.listen(each, 80)
    theirs_outside = public.address(_number(theirs))
    assert connects(guest.namespace, own.address, 80)
    assert pings(guest.namespace, theirs_outside)

    await world.update_router(mine, routes=[{"destination": theirs.cidr, "nexthop": theirs_outside}])
    await world.look()

    assert connects(guest.namespace, own.address, 80)
    assert not connects(guest.namespace, victim.address, 80)
    assert not pings(guest.namespace, victim.address)
    world.inside(world.outside, "ip", "route", "add", theirs.cidr, "via", theirs_outside)
    assert not connects(world.outside, victim.address, 80)


async def test_equal_addresses_of_another_project_are_another_world(world: World) -> None:
    mine, theirs = await world.network("10.0.0.0/24"), await world.network("10.0.0.0/24")
    guest, friend = await _open_guest(world, mine, 3), await _open_guest(world, mine, 4)
    victim = await _open_guest(world, theirs, 5)
    frame = partial(frames.ethernet, guest.mac, kind=frames.IPV4)

    def sent(target: Guest) -> None:
        frames.send(guest.namespace, frame(target.mac, payload=frames.datagram(guest.address, target.address, MARK)))

    assert pings(guest.namespace, friend.address)
    assert frames.hears(friend.namespace, MARK, partial(sent, friend))
    assert not pings(guest.namespace, victim.address)
    assert not frames.hears(victim.namespace, MARK, partial(sent, victim))


@pytest.mark.parametrize("lie", ["mac", "address", "both"])
async def test_frame_of_a_lie_goes_nowhere(world: World, lie: str) -> None:
    network = await world.network(public=await world.public_network())
    guest, friend = await _open_guest(world, network, 3), await _open_guest(world, network, 4)
    neighbour = await _open_guest(world, network, 5)
    mac = guest.mac if lie == "address" else neighbour.mac
    address = guest.address if lie == "mac" else neighbour.address
    places = [(friend.namespace, "eth0", friend.mac), *_own_places(world, network)]
    for namespace, device, target in places:

        def sent(mac: str, address: str, target: str = target) -> None:
            packet = frames.datagram(address, friend.address, MARK)
            frames.send(guest.namespace, frames.ethernet(mac, target, frames.IPV4, packet))

        assert frames.hears(namespace, MARK, partial(sent, guest.mac, guest.address), device), device
        assert not frames.hears(namespace, MARK, partial(sent, mac, address), device), device


async def test_arp_and_neighbour_discovery_speak_for_the_own_address_only(world: World) -> None:
    network = await world.network()
    guest, friend = await _open_guest(world, network, 3), await _open_guest(world, network, 4)
    neighbour = await _open_guest(world, network, 5)

    def answers(mac: str, address: str) -> None:
        payload = frames.arp(2, mac, address, friend.address) + MARK
        frames.send(guest.namespace, frames.ethernet(guest.mac, friend.mac, frames.ARP, payload))

    def advertises(source: str, claimed: str) -> None:
        packet = frames.icmp6(source, link_local(friend.mac), 136, frames.advertisement(claimed, guest.mac) + MARK)
        frames.send(guest.namespace, frames.ethernet(guest.mac, friend.mac, frames.IPV6, packet))

    def heard(act: object, *words: str) -> bool:
        assert callable(act)
        return frames.hears(friend.namespace, MARK, partial(act, *words))

    mine, theirs = link_local(guest.mac), link_local(neighbour.mac)
    assert heard(answers, guest.mac, guest.address)
    assert not heard(answers, guest.mac, neighbour.address)
    assert not heard(answers, guest.mac, network.address(1))
    assert not heard(answers, neighbour.mac, guest.address)
    assert heard(advertises, mine, mine)
    assert not heard(advertises, mine, theirs)
    assert not heard(advertises, theirs, theirs)


async def test_neighbour_discovery_in_fragments_is_not_heard(world: World) -> None:
    """Put together on its way it would be a whole packet when it arrives, and of that the target was never seen."""
    network = await world.network()
    guest, friend = await _open_guest(world, network, 3), await _open_guest(world, network, 4)
    neighbour = await _open_guest(world, network, 5)
    mine, theirs = link_local(guest.mac), link_local(friend.mac)
    claim = frames.advertisement(link_local(neighbour.mac), guest.mac) + MARK

    def sends(kind: int) -> None:
        for part in frames.fragments6(frames.icmp6(mine, theirs, kind, claim), 8):
            frames.send(guest.namespace, frames.ethernet(guest.mac, friend.mac, frames.IPV6, part))

    assert frames.hears(friend.namespace, MARK, partial(sends, 128))
    for kind in (134, 135, 136, 137):
        assert not frames.hears(friend.namespace, MARK, partial(sends, kind)), kind


async def test_router_advertisements_redirects_and_dhcp_servers_of_guests_are_not_heard(world: World) -> None:
    network = await world.network()
    guest, friend = await _open_guest(world, network, 3), await _open_guest(world, network, 4)
    mine, theirs = link_local(guest.mac), link_local(friend.mac)

    def says(kind: int) -> None:
        packet = frames.icmp6(mine, theirs, kind, bytes(28) + MARK)
        frames.send(guest.namespace, frames.ethernet(guest.mac, friend.mac, frames.IPV6, packet))

    def serves(port: int, source: str, target: str) -> None:
        packet = frames.datagram(source, target, MARK, source_port=port, target_port=68)
        frames.send(guest.namespace, frames.ethernet(guest.mac, friend.mac, frames.IPV4, packet))

    assert frames.hears(friend.namespace, MARK, partial(says, 128))
    for kind in (134, 137, 130):
        assert not frames.hears(friend.namespace, MARK, partial(says, kind)), kind
    assert frames.hears(friend.namespace, MARK, partial(serves, 66, guest.address, friend.address))
    assert not frames.hears(friend.namespace, MARK, partial(serves, 67, guest.address, friend.address))
    assert not frames.hears(friend.namespace, MARK, partial(serves, 67, network.address(2), "255.255.255.255"))


@pytest.mark.parametrize("stack", ["tag", "priority", "no vlan", "two tags", "service tag", "service and tag"])
async def test_tagged_frames_reach_neither_the_named_vlan_nor_the_own_one(world: World, stack: str) -> None:
    mine = await world.network(public=await world.public_network())
    theirs = await world.network()
    vid, other = _number(mine), _number(theirs)
    tags = {
        "tag": frames.tag(other),
        "priority": frames.tag(0x6000),
        "no vlan": frames.tag(0),
        "two tags": frames.tag(vid) + frames.tag(other),
        "service tag": frames.tag(other, frames.STACKED),
        "service and tag": frames.tag(vid, frames.STACKED) + frames.tag(other),
    }[stack]
    guest, friend = await _open_guest(world, mine, 3), await _open_guest(world, mine, 4)
    victim = await _open_guest(world, theirs, 4)
    places = [(friend.namespace, "eth0", friend.mac), *_own_places(world, mine)]
    for namespace, device, mac in places:

        def sent(tags: bytes, mac: str = mac) -> None:
            packet = frames.datagram(guest.address, friend.address, MARK)
            frames.send(guest.namespace, frames.ethernet(guest.mac, mac, frames.IPV4, packet, tags))

        assert frames.hears(namespace, MARK, partial(sent, b""), device), device
        assert not frames.hears(namespace, MARK, partial(sent, tags), device), device
    for mac in (victim.mac, frames.NOBODY):
        assert not frames.hears(victim.namespace, MARK, partial(sent, tags, mac))


async def test_host_has_no_address_that_a_guest_could_find(world: World) -> None:
    network = await world.network(public=await world.public_network())
    guest, friend = await _open_guest(world, network, 3), await _open_guest(world, network, 4)
    addresses = json.loads(world.inside(world.switch, "ip", "-j", "addr"))
    assert {each["ifname"] for each in addresses if each["addr_info"]} <= {"lo"}
    until(lambda: pings(guest.namespace, link_local(friend.mac) + "%eth0"), "answer of a neighbour")

    # Whoever answers to "all nodes" besides the guest itself is a router's leg; the bridge is not.
    answers = guest.run("ping", "-6", "-c", "2", "-W", "1", "ff02::1%eth0").stdout
    bridge = next(each for each in addresses if each["ifname"] == network.bridge)
    assert link_local(bridge["address"]) not in answers
    assert not pings(guest.namespace, link_local(bridge["address"]) + "%eth0")


async def test_addresses_of_the_machine_are_out_of_reach(world: World) -> None:
    network = await world.network(public=await world.public_network())
    guest = await _open_guest(world, network, 3)
    world.listen_in(world.outside, 8080)
    assert connects(guest.namespace, "203.0.113.1", 8080)
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        machine = {line.split()[3].partition("/")[0] for line in _run_here("ip", "-4", "-o", "addr").splitlines()}
        for address in machine:
            with socket.create_connection((address, port), 2):
                pass
            assert not connects(guest.namespace, address, port), address


async def test_router_answers_a_ping_and_serves_nothing(world: World) -> None:
    """Its gateway address, its link-local one and its public one; what listens there for itself is not for guests."""
    public = await world.public_network()
    network = await world.network(public=public)
    guest = await _open_guest(world, network, 3)
    router = f"{world.config.host.prefix}-r-{network.router_id[:11]}"
    world.background(router, "busybox", "nc", "-ll", "-p", "8080", "-e", "/bin/echo", "decoy")
    until(lambda: ":1F90 " in world.inside(router, "cat", "/proc/net/tcp", "/proc/net/tcp6"), "the decoy")
    assert connects(router, network.address(1), 8080)
    local = link_local(_leg_mac(world, network)) + "%eth0"
    outside = public.address(_number(network))

    for namespace, address in (
        (guest.namespace, network.address(1)),
        (guest.namespace, local),
        (guest.namespace, outside),
        (world.outside, outside),
    ):
        until(lambda: pings(namespace, address), f"answer of {address}")  # noqa: B023 - called here
        assert not connects(namespace, address, 8080), address


async def test_services_are_dhcp_dns_and_metadata_and_nothing_else(world: World) -> None:
    network = await world.network()
    guest = await _open_guest(world, network, 3)
    service = f"{world.config.host.prefix}-s-{network.id[:11]}"
    guest.run("ip", "route", "add", "169.254.169.254", "via", network.address(2))
    world.background(service, "busybox", "nc", "-ll", "-p", "8080", "-e", "/bin/echo", "decoy")
    until(lambda: ":1F90 " in world.inside(service, "cat", "/proc/net/tcp", "/proc/net/tcp6"), "the decoy")
    assert connects(service, network.address(2), 8080)
    assert await world.dhcp(guest) == guest.address
    assert "guest-3" in guest.run("busybox", "nslookup", "guest-3.kilonova.internal", network.address(2)).stdout
    assert guest.instance_id in await _metadata(guest, "169.254.169.254")

    for address in (network.address(2), "169.254.169.254", link_local(_service_mac(world, network)) + "%eth0"):
        assert not connects(guest.namespace, address, 8080), address


async def test_metadata_of_another_network_is_out_of_reach(world: World) -> None:
    """By its service's address, by way of it, and with every header that claims to be somebody."""
    public = await world.public_network()
    mine, theirs = await world.network("10.0.0.0/24", public=public), await world.network("10.0.1.0/24", public=public)
    guest, victim = await _open_guest(world, mine, 3), await _open_guest(world, theirs, 3)
    for each in (guest, victim):
        each.run("ip", "route", "add", "169.254.169.254", "via", each.network.address(2))
        assert each.instance_id in await _metadata(each, "169.254.169.254")

    for header in ("X-Forwarded-For", "X-Real-IP", "X-Instance-ID", "X-Neutron-Network-ID"):
        for value in (victim.address, victim.instance_id, theirs.id):
            answer = await _metadata(guest, "169.254.169.254", f"{header}: {value}")
            assert guest.instance_id in answer
            assert victim.instance_id not in answer
    assert victim.instance_id not in await _metadata(guest, theirs.address(2))
    guest.run("ip", "route", "replace", "169.254.169.254", "via", mine.address(1))
    assert victim.instance_id not in await _metadata(guest, "169.254.169.254")
    guest.run("ip", "route", "replace", "169.254.169.254", "via", theirs.address(2), "dev", "eth0", "onlink")
    assert victim.instance_id not in await _metadata(guest, "169.254.169.254")


async def test_metadata_of_a_neighbour_is_not_had_by_its_address(world: World) -> None:
    network = await world.network()
    guest, neighbour = await _open_guest(world, network, 3), await _open_guest(world, network, 4)
    guest.run("ip", "route", "add", "169.254.169.254", "via", network.address(2))
    assert guest.instance_id in await _metadata(guest, "169.254.169.254")

    guest.run("ip", "addr", "add", f"{neighbour.address}/24", "dev", "eth0")
    guest.run("ip", "route", "replace", "169.254.169.254", "via", network.address(2), "src", neighbour.address)

    assert await _metadata(guest, "169.254.169.254") == ""


async def _open_guest(world: World, network: Network, offset: int) -> Guest:
    """A guest whose group lets everything in: whoever does not reach it was kept from it by something else."""
    group = await world.group(network.project_id)
    for ethertype in ("IPv4", "IPv6"):
        await world.rule(group, ethertype=ethertype)
    return await world.guest(network, offset, [group])


def _own_places(world: World, network: Network) -> list[tuple[str, str, str]]:
    """(namespace, device, MAC) of a network's services and of its router's leg."""
    assert world.agent._last is not None
    plan = world.agent._last.plan
    prefix = world.config.host.prefix
    leg = plan.routers[network.router_id].interfaces[0]
    return [
        (f"{prefix}-s-{network.id[:11]}", "svc0", plan.services[network.id].mac),
        (f"{prefix}-r-{network.router_id[:11]}", inside_device(leg), leg.mac),
    ]


def _service_mac(world: World, network: Network) -> str:
    assert world.agent._last is not None
    return world.agent._last.plan.services[network.id].mac


def _leg_mac(world: World, network: Network) -> str:
    assert world.agent._last is not None
    return world.agent._last.plan.routers[network.router_id].interfaces[0].mac


def _number(network: Network) -> int:
    """Its VLAN id, and the offset of its router's public address."""
    return int(network.bridge[2:])


async def _metadata(guest: Guest, address: str, *headers: str) -> str:
    url = f"http://{address}/openstack/latest/meta_data.json"
    argv = ["curl", "-s", "-m", "2"]
    for header in headers:
        argv += ["-H", header]
    return (await asyncio.to_thread(guest.run, *argv, url)).stdout


def _run_here(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout
