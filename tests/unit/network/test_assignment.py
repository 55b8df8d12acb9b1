"""The first run of a project: once, whole or not at all; what it takes goes back."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Connection, Engine, delete, event, func, insert, select, update

from kilonova.cloud import floating_ranges, pool
from kilonova.cloud.controller import Cloud
from kilonova.context import system_context
from kilonova.errors import NoMoreNetworks
from kilonova.ids import new_id
from kilonova.network.assignment import (
    MadePort,
    ensure_project_network,
    make_port,
    release_pool_network,
)
from kilonova.network.macs import new_mac
from kilonova.store.addresses import confirm_pool_network_forgotten
from kilonova.store.schema import addresses, networks, pool_networks, ports, project_networks, routers, services


@pytest.fixture
async def pooled(cloud: Cloud) -> Cloud:
    """A cloud with a network host and a pool of 70 networks."""
    row = {"id": new_id(), "kind": "network", "host": "host1"}
    await cloud.store.write(lambda tx: tx.execute(insert(services).values(**row)) and None)
    await pool.create(cloud, system_context(), pool.PoolRequest(num_networks=70))
    return cloud


async def first_run(cloud: Cloud, project_id: str) -> MadePort:
    def unit(tx: Connection) -> MadePort:
        network = ensure_project_network(tx, cloud.config, project_id, system_context())
        return make_port(tx, network_id=network["id"], project_id=project_id)

    return await cloud.store.write(unit)


def count(tx: Connection) -> dict[str, int]:
    tables = (networks, ports, addresses, routers)
    return {table.name: int(tx.execute(select(func.count()).select_from(table)).scalar_one()) for table in tables}


async def test_concurrent_first_runs_of_one_project_give_one_network(pooled: Cloud) -> None:
    made = await asyncio.gather(*(first_run(pooled, "p") for _ in range(16)))
    assert len({port.network_id for port in made}) == 1
    assert sorted(port.fixed_ips[0].address or "" for port in made) == sorted(f"10.0.0.{i}" for i in range(3, 19))


async def test_64_concurrent_first_runs_take_64_networks(pooled: Cloud) -> None:
    made = await asyncio.gather(*(first_run(pooled, f"p{i}") for i in range(64)))
    assert len({port.network_id for port in made}) == 64
    assert len({port.mac for port in made}) == 64

    def held(tx: Connection) -> list[tuple[int, str]]:
        rows = tx.execute(select(networks.c.segmentation_id, networks.c.bridge))
        return [(row.segmentation_id, row.bridge) for row in rows]

    assert sorted(await pooled.store.read(held)) == [(100 + i, f"br{100 + i}") for i in range(64)]


async def test_without_a_free_network_nothing_is_left(cloud: Cloud) -> None:
    with pytest.raises(NoMoreNetworks, match="kilonova network create"):
        await first_run(cloud, "p")
    assert set((await cloud.store.read(count)).values()) == {0}


async def test_an_exhausted_outside_does_not_stop_a_project(pooled: Cloud) -> None:
    await floating_ranges.create(pooled, system_context(), "host1", "203.0.113.0/30")
    await first_run(pooled, "p1")
    await first_run(pooled, "p2")

    def gateways(tx: Connection) -> list[bool]:
        rows = tx.execute(select(routers.c.external_network_id).order_by(routers.c.created_at)).scalars()
        return [row is not None for row in rows]

    assert await pooled.store.read(gateways) == [True, False]


async def test_a_pool_network_is_free_again_once_its_host_has_forgotten_it(pooled: Cloud) -> None:
    port = await first_run(pooled, "p1")

    def give_back(tx: Connection) -> str:
        network = tx.execute(select(networks).where(networks.c.id == port.network_id)).mappings().one()
        pool_id: str = tx.execute(
            select(pool_networks.c.id).where(pool_networks.c.network_id == port.network_id)
        ).scalar_one()
        release_pool_network(tx, network)
        # As the deletion of the network leaves it: the segment is free for another network of the store.
        tx.execute(update(networks).values(segmentation_id=4000, bridge="br4000"))
        tx.execute(delete(project_networks))
        return pool_id

    async def segment_of(project_id: str) -> int:
        made = await first_run(pooled, project_id)
        query = select(networks.c.segmentation_id).where(networks.c.id == made.network_id)
        return int(await pooled.store.read(lambda tx: tx.execute(query).scalar_one()))

    pool_id = await pooled.store.write(give_back)
    assert await segment_of("p2") == 101
    await pooled.store.write(confirm_pool_network_forgotten, pool_id)
    assert await segment_of("p3") == 100


async def test_a_thousand_networks_and_a_large_range_take_few_statements(cloud: Cloud) -> None:
    """Bounded by rows sent at once, not by a statement each; `bench/` has the time."""
    statements: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", count)
    try:
        made = await pool.create(cloud, system_context(), pool.PoolRequest())
        for_the_pool = len(statements)
        await floating_ranges.create(cloud, system_context(), "host1", "198.18.0.0/16")
    finally:
        event.remove(Engine, "before_cursor_execute", count)
    assert (len(made), made[-1]["cidr"], made[-1]["segmentation_id"]) == (1000, "10.3.231.0/24", 1099)
    assert 0 < for_the_pool < 20
    assert len(statements) - for_the_pool < 40


async def test_macs_are_of_stations_and_locally_administered(cloud: Cloud) -> None:
    macs = await cloud.store.read(lambda tx: [new_mac(tx) for _ in range(50)])
    assert len(set(macs)) == 50
    assert all(mac.startswith("fa:16:3e:") for mac in macs)
