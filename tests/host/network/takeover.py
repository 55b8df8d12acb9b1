"""Set-up and steps of the tests in which a network host dies: short leases, an agent that ends without a word."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from sqlalchemy import select, update

from kilonova.config import Config, NetworkConfig
from kilonova.store import schema

from .fabric import Fabric
from .world import World

LEASE_S, MARGIN_S, HEARTBEAT_S = 3.0, 1.0, 0.5
WITHIN_S = 30.0


def quick(config: Config) -> Config:
    host = replace(config.host, heartbeat_interval_s=HEARTBEAT_S)
    return replace(config, host=host, network=NetworkConfig(lease_s=LEASE_S, takeover_margin_s=MARGIN_S))


async def two_network_hosts(fabric: Fabric) -> list[World]:
    """The hosts, with short leases; the third one is no network host: it has guests only."""
    for world in fabric.hosts:
        await world.restart_agent(quick(world.config))
    third = schema.services.c.host == fabric.hosts[2].name
    statement = update(schema.services).where(third).values(enabled=False)
    await fabric.hosts[0].store.write(lambda tx: tx.execute(statement).rowcount)
    return fabric.hosts


async def switches_are_armed(fabric: Fabric) -> None:
    for world in fabric.hosts:
        await until(partial(progress, world, "guarded"), f"the switch of {world.name} is armed")


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


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await condition():
            await asyncio.sleep(0.05)
    assert await condition() or what.startswith("the "), what


async def service_row(world: World) -> Any:
    query = select(schema.services).where(schema.services.c.kind == "network", schema.services.c.host == world.name)
    return await world.store.read(lambda tx: tx.execute(query).one())


async def progress(world: World, name: str) -> bool:
    return bool((await service_row(world)).progress.get(name))
