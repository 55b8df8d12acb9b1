"""A network host dies: another one takes over, only one of the two answers, and what comes back comes back empty.

Its agent is stopped without any clean-up, so everything it made in the kernel is still there, as after a crash of the
process or when the host has lost the data store.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import update

from kilonova.cloud.failover import Failover
from kilonova.network.host import namespaces
from kilonova.network.host.processes import processes_in
from kilonova.store import schema

from .fabric import Fabric, columns
from .frames import IPV6, advertisement, ethernet, hears, icmp6, send
from .sixth import addresses6, ask_dhcp6, default_routes6, give, subnet6
from .takeover import (
    LEASE_S,
    MARGIN_S,
    kill,
    progress,
    quick,
    revive,
    service_row,
    switches_are_armed,
    two_network_hosts,
    until,
)
from .traffic import Pings
from .world import Guest, Network, World, inspect_namespace, pings

CIDR6, MARK = "fd00:1::/64", b"as if it lived"


@dataclass
class Rack:
    """Two network hosts that are watched, and a compute host with a guest."""

    fabric: Fabric
    public: Network
    network: Network
    guest: Guest
    floating: str

    @property
    def dying(self) -> World:
        return self.fabric.hosts[0]

    @property
    def surviving(self) -> World:
        return self.fabric.hosts[1]

    @property
    def compute(self) -> World:
        return self.fabric.hosts[2]

    def router(self, world: World) -> str:
        return f"{world.config.host.prefix}-r-{self.network.router_id[:11]}"

    def service(self, world: World) -> str:
        return f"{world.config.host.prefix}-s-{self.network.id[:11]}"

    async def home(self) -> str:
        """The network's host."""
        return await _home(self.dying, self.network)


@pytest.fixture
async def rack(fabric: Fabric, request: pytest.FixtureRequest) -> AsyncIterator[Rack]:
    """The network's manager is the fixture's parameter, VLAN without one."""
    await two_network_hosts(fabric)
    first, _, third = fabric.hosts
    public = await first.public_network()
    network = await first.network(public=public, **columns(fabric, getattr(request, "param", "vlan")))
    group = await first.group(network.project_id)
    await first.rule(group, protocol="icmp")
    guest = await third.port(network, 3, [group])
    await third.wire(guest)
    assert await third.dhcp(guest) == guest.address
    floating = await first.floating_ip(public, 50, guest)
    async with _watched(fabric):
        yield Rack(fabric, public, network, guest, floating)


@asynccontextmanager
async def _watched(fabric: Fabric) -> AsyncIterator[None]:
    """Every switch is armed, and somebody watches the leases."""
    await fabric.look()
    await switches_are_armed(fabric)
    failover = Failover(fabric.hosts[0].store, fabric.hosts[0].bus, quick(fabric.hosts[0].config))
    await failover.start()
    try:
        yield
    finally:
        await failover.stop()


@pytest.mark.parametrize("rack", ["vlan", "vxlan"], indirect=True)
async def test_networks_and_floating_addresses_move_and_the_dead_host_is_silent(rack: Rack) -> None:
    dead, alive, guest = rack.dying, rack.surviving, rack.guest
    gateway, own = rack.network.address(1), await _public_address(rack)
    assert await reaches(rack.fabric.outside, rack.floating)
    assert await reaches(guest.namespace, gateway)
    assert await answers(rack.fabric.outside, own) == 1

    died_at = time.monotonic()
    await kill(dead)

    await until(lambda: _is(rack.home(), alive.name), "the network is another host's")
    moved_s = time.monotonic() - died_at
    await until(lambda: reaches(rack.fabric.outside, rack.floating), "the floating address answers")
    await until(lambda: reaches(guest.namespace, gateway), "the gateway answers")
    answering_s = time.monotonic() - died_at
    print(f"lease {LEASE_S} s, margin {MARGIN_S} s: moved after {moved_s:.1f} s, answering after {answering_s:.1f} s")
    await alive.look()
    assert await answers(rack.fabric.outside, own) == 1
    assert await answers(rack.fabric.outside, rack.floating) == 1
    assert namespaces.exists(rack.router(dead)), "what the dead host had made is still there, and says nothing"
    assert not await reaches(rack.router(dead), "203.0.113.1")
    assert not await reaches(rack.service(dead), gateway)
    assert await reaches(rack.router(alive), "203.0.113.1")
    assert await rack.compute.dhcp(guest) == guest.address, "the same lease from another server"
    assert await reaches(guest.namespace, "203.0.113.1")

    await revive(dead)

    assert not namespaces.exists(rack.router(dead))
    assert not namespaces.exists(rack.service(dead))
    assert not [name for name in inspect_namespace(dead.switch).links if name.startswith(("rtr", "svc"))]
    assert await reaches(rack.fabric.outside, rack.floating)
    assert await answers(rack.fabric.outside, rack.floating) == 1
    assert await reaches(guest.namespace, gateway)
    assert await rack.home() == alive.name


@pytest.mark.parametrize("rack", ["vxlan"], indirect=True)
async def test_ipv6_moves_and_the_dead_hosts_announcements_and_services_are_not_heard(rack: Rack) -> None:
    """The guest keeps its address and its default route: the router's link-local address is the same everywhere."""
    dead, alive, guest = rack.dying, rack.surviving, rack.guest
    subnet = await subnet6(dead, rack.network, CIDR6, "dhcpv6-stateless", router_id=rack.network.router_id)
    address = await give(dead, guest, subnet)
    await rack.fabric.look()
    await until(lambda: asyncio.to_thread(lambda: address in addresses6(guest)), "address")
    routes = await asyncio.to_thread(default_routes6, guest)
    assert len(routes) == 1
    await until(lambda: reaches(guest.namespace, subnet.at(1)), "the gateway answers")
    answer = {"address": "", "dns": ["fd00:1::2"], "domain": "kilonova.internal"}
    assert await asyncio.to_thread(ask_dhcp6, guest, "inform") == answer
    assert await announces(rack, dead)
    assert await serves(rack, dead)

    await kill(dead)

    await until(lambda: _is(rack.home(), alive.name), "the network is another host's")
    await until(lambda: reaches(guest.namespace, subnet.at(1)), "the gateway answers")
    await alive.look()
    assert namespaces.exists(rack.router(dead)), "what the dead host had made is still there"
    assert await asyncio.to_thread(_daemons, rack.router(dead)) == {"radvd"}
    assert await asyncio.to_thread(_daemons, rack.router(alive)) == {"radvd"}
    assert not await announces(rack, dead)
    assert not await serves(rack, dead)
    assert not await reaches(rack.router(dead), address)
    assert await announces(rack, alive)
    assert await serves(rack, alive)
    assert await asyncio.to_thread(addresses6, guest) == {address}
    assert await asyncio.to_thread(default_routes6, guest) == routes
    assert await asyncio.to_thread(ask_dhcp6, guest, "inform") == answer

    await revive(dead)

    assert not namespaces.exists(rack.router(dead))
    assert await reaches(guest.namespace, subnet.at(1))


async def test_the_lease_of_a_flat_network_is_renewed_at_the_host_that_took_over(fabric: Fabric) -> None:
    for world in fabric.hosts:
        fabric.flat_bridge(world)
        world.configure(flat_bridges={"flat1": "br-flat"})
    await two_network_hosts(fabric)
    dead, alive, compute = fabric.hosts
    network = await dead.network(**columns(fabric, "flat-dhcp"))
    group = await dead.group(network.project_id)
    await dead.rule(group, protocol="icmp")
    guest = await compute.port(network, 3, [group])
    await compute.wire(guest)
    assert await compute.dhcp(guest) == guest.address
    service = network.address(2)
    async with _watched(fabric):
        await until(lambda: reaches(guest.namespace, service), "the services answer")

        await kill(dead)

        await until(lambda: _is(_home(dead, network), alive.name), "the network is another host's")
        await until(lambda: reaches(guest.namespace, service), "the services answer")
        await alive.look()
        left, taken = (f"{world.config.host.prefix}-s-{network.id[:11]}" for world in (dead, alive))
        assert namespaces.exists(left), "what the dead host had made is still there, and says nothing"
        assert not await reaches(left, guest.address)
        assert await reaches(taken, guest.address)
        assert await compute.dhcp(guest) == guest.address
        leases = alive.config.state_dir / "network" / network.id / "leases"
        assert guest.mac in await asyncio.to_thread(leases.read_text)

        await revive(dead)

        assert not namespaces.exists(left)
        assert await compute.dhcp(guest) == guest.address
        assert "br-flat" in inspect_namespace(dead.switch).links, "the administrator's bridge stays"


async def test_a_host_that_is_back_takes_over_in_its_turn(rack: Rack) -> None:
    first, second = rack.dying, rack.surviving
    await kill(first)
    await until(lambda: _is(rack.home(), second.name), "moved")
    await revive(first)
    await until(lambda: progress(second, "guarded"), "armed")
    network = await second.network(public=rack.public)
    await second.look()

    await kill(second)

    await until(lambda: _is(rack.home(), first.name), "moved back")
    assert (await first.row(schema.networks, network.id))["host"] == first.name
    await until(lambda: reaches(rack.fabric.outside, rack.floating), "the floating address answers")
    assert await answers(rack.fabric.outside, rack.floating) == 1
    await revive(second)


async def test_a_drained_host_hands_over_and_nobody_notices_much(rack: Rack) -> None:
    """It lives: it lets go first, then the other takes up; established leases and addresses stay."""
    first, second = rack.dying, rack.surviving
    mine = schema.services.c.host == first.name
    await first.store.write(lambda tx: tx.execute(update(schema.services).where(mine).values(enabled=False)).rowcount)

    await until(lambda: _is(rack.home(), second.name), "moved")
    await first.look()
    assert not namespaces.exists(rack.router(first))

    await until(lambda: reaches(rack.fabric.outside, rack.floating), "the floating address answers")
    assert await answers(rack.fabric.outside, rack.floating) == 1
    assert await rack.compute.dhcp(rack.guest) == rack.guest.address


async def test_renewals_of_the_lease_and_short_restarts_are_not_noticed(rack: Rack) -> None:
    """The element of the dead man's switch is replaced with every heartbeat, and outlives a restart of the agent."""
    flow = Pings(rack.fabric.outside, rack.floating, count=600)
    try:
        beats = (await service_row(rack.dying)).lease_until
        while flow.going_on and (await service_row(rack.dying)).lease_until == beats:
            await asyncio.sleep(0.05)
        await rack.dying.restart_agent(quick(rack.dying.config))
        await rack.dying.look_at_host()
        assert await asyncio.to_thread(flow.lost) == 0
    finally:
        flow.close()
    assert await rack.home() == rack.dying.name


async def test_a_lone_network_host_has_no_switch_that_could_silence_it(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    group = await world.group(network.project_id)
    await world.rule(group, protocol="icmp")
    guest = await world.guest(network, 3, [group])
    floating = await world.floating_ip(public, 50, guest)
    await world.look()
    assert "jump own_" not in world.inside(world.switch, "nft", "list", "table", "bridge", "kn_l2")

    await kill(world)
    world.inside(world.switch, "nft", "flush", "set", "bridge", "kn_l2", "lease")

    assert await reaches(world.outside, floating)


async def announces(rack: Rack, world: World) -> bool:
    """Does the guest hear what the router's namespace on a host says as a router?"""
    router = rack.router(world)
    device = next(name for name in inspect_namespace(router).links if name.startswith("int"))
    source, everybody = "fe80::1", "ff02::1"
    packet = icmp6(source, everybody, 134, struct.pack("!BBHII", 64, 0, 0, 0, 0) + MARK)
    frame = ethernet(await _mac(world, router, device), "33:33:00:00:00:01", IPV6, packet)
    return await asyncio.to_thread(hears, rack.guest.namespace, MARK, partial(send, router, frame, device))


async def serves(rack: Rack, world: World) -> bool:
    """Does the guest hear where the services' namespace on a host says it is?"""
    service, source = rack.service(world), "fd00:1::2"
    mac = await _mac(world, service, "svc0")
    packet = icmp6(source, "ff02::1", 136, advertisement(source, mac) + MARK)
    frame = ethernet(mac, "33:33:00:00:00:01", IPV6, packet)
    return await asyncio.to_thread(hears, rack.guest.namespace, MARK, partial(send, service, frame, "svc0"))


async def _mac(world: World, namespace: str, device: str) -> str:
    shown = await asyncio.to_thread(world.inside, namespace, "ip", "-j", "link", "show", "dev", device)
    return str(json.loads(shown)[0]["address"])


def _daemons(namespace: str) -> set[str]:
    found = (Path(f"/proc/{process}/comm") for process in processes_in(namespace))
    return {name.read_text().strip() for name in found if name.exists()}


async def reaches(namespace: str, address: str) -> bool:
    """In a thread: the agents' heartbeats must go on meanwhile."""
    return await asyncio.to_thread(pings, namespace, address)


async def answers(namespace: str, address: str) -> int:
    """How many hosts answer an ARP request for an address."""
    return await asyncio.to_thread(namespaces.run_inside, namespace, _ask, address)


def _ask(address: str) -> int:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as packet:
        packet.bind(("eth0", 0))
        mac = packet.getsockname()[4]
        source, target = socket.inet_aton("203.0.113.1"), socket.inet_aton(address)
        body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + source + bytes(6) + target
        packet.send(b"\xff" * 6 + mac + struct.pack("!H", 0x0806) + body)
        found = 0
        give_up = time.monotonic() + 1.0
        while (left := give_up - time.monotonic()) > 0:
            packet.settimeout(left)
            try:
                frame = packet.recv(2048)
            except TimeoutError:
                break
            if frame[20:22] == b"\x00\x02" and frame[28:32] == target:
                found += 1
        return found


async def _is(found: Awaitable[str], wanted: str) -> bool:
    return await found == wanted


async def _home(world: World, network: Network) -> str:
    return str((await world.row(schema.networks, network.id))["host"])


async def _public_address(rack: Rack) -> str:
    """The router's own."""
    ports = [row for row in await rack.dying.rows(schema.ports) if row["device_owner"] == "network:router_gateway"]
    rows = await rack.dying.rows(schema.addresses)
    return next(str(row["address"]) for row in rows if row["port_id"] == ports[0]["id"])
