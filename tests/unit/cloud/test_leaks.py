"""Rows that belong to nothing: each kind is named, and mended or left, as is safe."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Table, insert, select

from kilonova.cloud import leaks
from kilonova.store import schema
from kilonova.store.database import Store

PORT, INSTANCE, NETWORK, SUBNET, POOL = (f"{kind:08x}-0000-4000-8000-000000000000" for kind in range(1, 6))
LONG_AGO = timedelta(seconds=leaks.PATIENCE_S + 60)


@pytest.fixture
async def cloud_rows(store: Store) -> Store:
    """One network with a subnet on a live network host."""

    def rows(tx: Connection) -> None:
        network = {"project_id": "p", "manager": "vlan", "physical_network": "physnet1", "bridge": "br1"}
        put(tx, schema.networks, id=NETWORK, segmentation_id=1, host="host1", **network)
        put(tx, schema.subnets, id=SUBNET, network_id=NETWORK, project_id="p", cidr="10.0.0.0/24")
        put(tx, schema.services, id=INSTANCE, kind="network", host="host1")

    await store.write(rows)
    return store


def put(tx: Connection, table: Table, **values: Any) -> None:
    tx.execute(insert(table).values(**values))


async def found(store: Store) -> list[tuple[str, str]]:
    return [(item.kind, item.name) for item in await store.read(leaks.find)]


async def rows_of(store: Store, table: Table) -> list[Any]:
    return await store.read(lambda tx: list(tx.execute(select(table))))


def port(tx: Connection, owner: str, device: str) -> None:
    row = {"network_id": NETWORK, "project_id": "p", "mac": "fa:16:3e:00:00:01", "host": "host1"}
    put(tx, schema.ports, id=PORT, device_owner=owner, device_id=device, **row)
    put(tx, schema.addresses, subnet_id=SUBNET, address="10.0.0.3", network_id=NETWORK, port_id=PORT)


async def test_a_healthy_store_has_none(cloud_rows: Store) -> None:
    def rows(tx: Connection) -> None:
        values = {"user_id": "u", "project_id": "p", "name": "web", "hostname": "web", "flavor_id": "1", "vcpus": 1}
        put(tx, schema.instances, id=INSTANCE, ram_mb=1, disk_gb=1, reservation_id="r", **values)
        port(tx, "compute:nova", INSTANCE)
        released = {"network_id": NETWORK, "released_at": schema.now()}
        put(tx, schema.addresses, subnet_id=SUBNET, address="10.0.0.4", **released)

    await cloud_rows.write(rows)
    assert await found(cloud_rows) == []


@pytest.mark.parametrize(
    ("owner", "word"),
    [("compute:nova", "instance"), ("network:router_interface", "router"), ("network:floatingip", "floating ip")],
)
async def test_a_port_of_what_is_gone_is_deleted_and_its_address_released(
    cloud_rows: Store, owner: str, word: str
) -> None:
    await cloud_rows.write(port, owner, INSTANCE)
    (leak,) = await cloud_rows.read(leaks.find)
    assert (leak.kind, leak.name) == ("port", PORT)
    assert f"{word} {INSTANCE} is gone" in leak.why
    assert "host1" in await cloud_rows.write(leaks.mend)
    assert await found(cloud_rows) == []
    (address,) = await rows_of(cloud_rows, schema.addresses)
    assert address.released_at is not None
    assert await rows_of(cloud_rows, schema.ports) == []


async def test_an_address_without_port_is_released_so_that_its_holders_forget_it(cloud_rows: Store) -> None:
    row = {"subnet_id": SUBNET, "address": "10.0.0.3", "network_id": NETWORK}
    await cloud_rows.write(lambda tx: put(tx, schema.addresses, **row))
    assert await found(cloud_rows) == [("address", "10.0.0.3")]
    await cloud_rows.write(leaks.mend)
    assert await found(cloud_rows) == []
    (address,) = await rows_of(cloud_rows, schema.addresses)
    assert address.released_at is not None


@pytest.mark.parametrize(("holder", "left"), [("host1", 1), ("gone", 0)])
async def test_a_released_address_is_freed_only_if_its_holder_left_the_cloud(
    cloud_rows: Store, holder: str, left: int
) -> None:
    row = {"subnet_id": SUBNET, "address": "10.0.0.3", "network_id": NETWORK, "released_host": holder}
    await cloud_rows.write(lambda tx: put(tx, schema.addresses, released_at=schema.now() - LONG_AGO, **row))
    assert await found(cloud_rows) == [("address", "10.0.0.3")]
    assert "host1" in await cloud_rows.write(leaks.mend)
    assert len(await rows_of(cloud_rows, schema.addresses)) == left


@pytest.mark.parametrize(
    ("values", "free"),
    [
        ({"project_id": "p", "network_id": None}, False),
        ({"project_id": "p", "released_at": LONG_AGO, "released_host": "host1"}, False),
        ({"project_id": "p", "released_at": LONG_AGO, "released_host": "gone"}, True),
    ],
)
async def test_a_pool_network_that_nobody_uses_is_given_back(
    cloud_rows: Store, values: dict[str, Any], free: bool
) -> None:
    if isinstance(values.get("released_at"), timedelta):
        values = values | {"released_at": schema.now() - LONG_AGO}
    row = {"id": POOL, "physical_network": "physnet1", "bridge": "br9", "cidr": "10.9.0.0/24", "position": 0}
    await cloud_rows.write(lambda tx: put(tx, schema.pool_networks, **row, **values))
    assert await found(cloud_rows) == [("pool network", "10.9.0.0/24")]
    await cloud_rows.write(leaks.mend)
    (pool,) = await rows_of(cloud_rows, schema.pool_networks)
    assert (pool.project_id is None) == free
    assert free or pool.released_at is not None


async def test_an_operation_past_its_deadline_is_named(cloud_rows: Store) -> None:
    late = schema.now() - timedelta(hours=1)
    row = {"id": POOL, "kind": "server.create", "resource_id": INSTANCE, "request_id": "r", "topic": "t", "step": "s"}
    await cloud_rows.write(lambda tx: put(tx, schema.operations, deadline=late, **row))
    assert await found(cloud_rows) == [("operation", POOL)]
