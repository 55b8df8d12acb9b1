"""A network host dies: another one takes over, only one of the two answers, and what comes back comes back empty.

Its agent is stopped without any clean-up, so everything it made in the kernel is still there, as after a crash of the
process or when the host has lost the data store.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select, update

from kilonova.cloud.failover import Failover
from kilonova.config import Config, NetworkConfig
from kilonova.network.host import namespaces
from kilonova.network.host.inspect import inspect_namespace
from kilonova.store import schema

from .fabric import Fabric
from .test_hosts import columns
from .traffic import Pings
from .world import Guest, Network, World, pings

LEASE_S, MARGIN_S, HEARTBEAT_S = 3.0, 1.0, 0.5
WITHIN_S = 30.0


@dataclass
class Rack:
    """Two network hosts, a compute host with a guest, and the failover that watches them."""

    fabric: Fabric
    failover: Failover
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
        return str((await self.dying.row(schema.networks, self.network.id))["host"])


def quick(config: Config) -> Config:
    host = replace(config.host, heartbeat_interval_s=HEARTBEAT_S)
    return replace(config, host=host, network=NetworkConfig(lease_s=LEASE_S, takeover_margin_s=MARGIN_S))


@pytest.fixture
async def rack(fabric: Fabric, request: pytest.FixtureRequest) -> AsyncIterator[Rack]:
    """The network's manager is the fixture's parameter, VLAN without one."""
    for world in fabric.hosts:
        await world.restart_agent(quick(world.config))
    first, _, third = fabric.hosts
    mine = schema.services.c.host == third.name
    await first.store.write(lambda tx: tx.execute(update(schema.services).where(mine).values(enabled=False)).rowcount)
    public = await first.public_network()
    network = await first.network(public=public, **columns(fabric, getattr(request, "param", "vlan")))
    group = await first.group(network.project_id)
    await first.rule(group, protocol="icmp")
    guest = await third.port(network, 3, [group])
    await third.wire(guest)
    assert await third.dhcp(guest) == guest.address
    floating = await first.floating_ip(public, 50, guest)
    await fabric.look()
    for world in fabric.hosts:
        await until(partial(_progress, world, "guarded"), f"the switch of {world.name} is armed")
    failover = Failover(first.store, first.bus, quick(first.config))
    await failover.start()
    try:
        yield Rack(fabric, failover, public, network, guest, floating)
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


async def test_a_host_that_is_back_takes_over_in_its_turn(rack: Rack) -> None:
    first, second = rack.dying, rack.surviving
    await kill(first)
    await until(lambda: _is(rack.home(), second.name), "moved")
    await revive(first)
    await until(lambda: _progress(second, "guarded"), "armed")
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
        beats = (await _service(rack.dying)).lease_until
        while flow.going_on and (await _service(rack.dying)).lease_until == beats:
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


async def kill(world: World) -> None:
    """The agent is gone; nothing of what it made is touched, nobody is told."""
    agent = world.agent
    for task in agent._tasks:
        task.cancel()
    await asyncio.gather(*agent._tasks, return_exceptions=True)
    if agent._subscription is not None:
        await agent._subscription.close()
    await agent._metadata.close()
    agent._lease._until = float("-inf")


async def revive(world: World) -> None:
    """Another agent of the host starts; the lease of the first has ended."""
    before = world.agent
    world.agent = type(before)(world.store, world.bus, quick(world.config))
    await world.agent.start()
    with suppress(Exception):
        await asyncio.to_thread(before._host.close)


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


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await condition():
            await asyncio.sleep(0.05)
    assert await condition() or what.startswith("the "), what


async def _is(found: Awaitable[str], wanted: str) -> bool:
    return await found == wanted


async def _service(world: World) -> Any:
    query = select(schema.services).where(schema.services.c.kind == "network", schema.services.c.host == world.name)
    return await world.store.read(lambda tx: tx.execute(query).one())


async def _progress(world: World, name: str) -> bool:
    return bool((await _service(world)).progress.get(name))


async def _public_address(rack: Rack) -> str:
    """The router's own."""
    ports = [row for row in await rack.dying.rows(schema.ports) if row["device_owner"] == "network:router_gateway"]
    rows = await rack.dying.rows(schema.addresses)
    return next(str(row["address"]) for row in rows if row["port_id"] == ports[0]["id"])
