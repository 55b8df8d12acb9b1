"""VPNs over several hosts: guests elsewhere are reached, and a router that moves takes its VPN along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select

from kilonova.cloud.failover import Failover
from kilonova.store import schema

from .fabric import Fabric, columns
from .takeover import kill, quick, switches_are_armed, two_network_hosts, until
from .vpn_world import client, connect, disconnect_all, reaches, vpn
from .world import Network, World, connects


@pytest.fixture
async def ending(fabric: Fabric) -> AsyncIterator[Fabric]:
    """Clients stand in the outside of all hosts."""
    try:
        yield fabric
    finally:
        disconnect_all(fabric.hosts[0])


@pytest.mark.parametrize("kind", ["vlan", "vxlan"])
async def test_a_client_reaches_a_guest_of_another_host_as_far_as_groups_say(ending: Fabric, kind: str) -> None:
    first, second, _ = ending.hosts
    network = await first.network(public=await first.public_network(), **columns(ending, kind))
    group = await first.default_group(network.project_id)
    friend = await second.guest(network, 3, [group])
    stranger = await second.guest(network, 4, [await first.group(network.project_id)])
    for guest in (friend, stranger):
        second.listen(guest, 80)
    mine = await client(first, await vpn(first, network), 7, [group])
    await ending.look()
    connect(first, mine)

    assert reaches(mine, friend.address, 80) == mine.address
    assert not connects(mine.namespace, stranger.address, 80)


async def test_a_router_that_another_host_takes_over_has_its_vpn_there(ending: Fabric) -> None:
    dying, surviving, third = await two_network_hosts(ending)
    network = await dying.network(public=await dying.public_network())
    group = await dying.default_group(network.project_id)
    guest = await third.guest(network, 3, [group])
    third.listen(guest, 80)
    mine = await client(dying, await vpn(dying, network), 7, [group])
    await ending.look()
    connect(dying, mine)
    assert reaches(mine, guest.address, 80) == mine.address
    await switches_are_armed(ending)
    failover = Failover(dying.store, dying.bus, quick(dying.config))
    await failover.start()
    try:
        await kill(dying)
        await until(lambda: _has_vpn(surviving, network), "the VPN is another host's")
    finally:
        await failover.stop()

    # The client's side asks for a new session when nothing was answered for fifteen seconds. Leases run meanwhile.
    assert await asyncio.to_thread(reaches, mine, guest.address, 80, within_s=40.0) == mine.address
    assert (await dying.row(schema.ports, mine.port_id))["host"] == surviving.name


async def _has_vpn(world: World, network: Network) -> bool:
    query = select(schema.routers.c.host).where(schema.routers.c.id == network.router_id)
    host = await world.store.read(lambda tx: tx.execute(query).scalar_one())
    [row] = await world.rows(schema.vpns)
    return bool(host == world.name and row["status"] == "ACTIVE" and world.agent._last and world.agent._last.plan.vpns)
