"""What the database itself refuses, whoever writes: uniqueness is a constraint, never a check in code."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import Connection, Table, insert, select
from sqlalchemy.exc import IntegrityError

from kilonova.store import schema
from kilonova.store.database import Store

NETWORK = {"project_id": "p", "manager": "vlan", "physical_network": "physnet1", "segmentation_id": 100}
POOL = {"physical_network": "physnet1", "segmentation_id": 100, "bridge": "br100", "cidr": "10.0.0.0/24", "position": 0}


def add(tx: Connection, table: Table, /, **values: Any) -> None:
    tx.execute(insert(table).values(**values))


def parents(tx: Connection) -> None:
    """One network with a subnet and two ports, for rows that refer to them."""
    add(tx, schema.networks, id="n", **(NETWORK | {"segmentation_id": 1, "bridge": "br1"}))
    add(tx, schema.subnets, id="s", network_id="n", project_id="p", cidr="10.0.0.0/24")
    for port in ("a", "b"):
        add(tx, schema.ports, id=port, network_id="n", project_id="p", mac=f"fa:16:3e:00:00:0{port}")


def port(mac: str) -> dict[str, Any]:
    return {"id": mac, "network_id": "n", "project_id": "p", "mac": mac}


DOUBLES: dict[str, tuple[Table, dict[str, Any], dict[str, Any]]] = {
    "VLAN id of a physical network": (
        schema.networks,
        NETWORK | {"id": "1", "bridge": "br100"},
        NETWORK | {"id": "2", "bridge": "br101"},
    ),
    "bridge of a physical network": (
        schema.networks,
        NETWORK | {"id": "1", "bridge": "br100"},
        NETWORK | {"id": "2", "bridge": "br100", "segmentation_id": 101},
    ),
    "address of a subnet": (
        schema.addresses,
        {"subnet_id": "s", "address": "10.0.0.3", "network_id": "n", "port_id": "a"},
        {"subnet_id": "s", "address": "10.0.0.3", "network_id": "n", "port_id": "b"},
    ),
    "MAC": (schema.ports, port("fa:16:3e:00:00:ff"), port("fa:16:3e:00:00:ff") | {"id": "2"}),
    "default group of a project": (
        schema.security_groups,
        {"id": "1", "project_id": "p", "name": "default", "is_default": True},
        {"id": "2", "project_id": "p", "name": "other", "is_default": True},
    ),
    "pool network of a project": (
        schema.pool_networks,
        POOL | {"id": "1", "project_id": "p"},
        POOL | {"id": "2", "project_id": "p", "segmentation_id": 101, "bridge": "br101", "cidr": "10.0.1.0/24"},
    ),
    "VLAN id of the pool": (
        schema.pool_networks,
        POOL | {"id": "1"},
        POOL | {"id": "2", "bridge": "br101", "cidr": "10.0.1.0/24"},
    ),
    "range of the pool": (
        schema.pool_networks,
        POOL | {"id": "1"},
        POOL | {"id": "2", "bridge": "br101", "segmentation_id": 101},
    ),
    "quota": (
        schema.quotas,
        {"project_id": "p", "resource": "cores", "hard_limit": 1},
        {"project_id": "p", "resource": "cores", "hard_limit": 2},
    ),
    "service of a host": (
        schema.services,
        {"id": "1", "kind": "compute", "host": "host1"},
        {"id": "2", "kind": "compute", "host": "host1"},
    ),
}


@pytest.mark.parametrize("name", DOUBLES)
async def test_there_cannot_be_two_of_it(store: Store, name: str) -> None:
    table, first, second = DOUBLES[name]
    await store.write(parents)
    await store.write(add, table, **first)
    with pytest.raises(IntegrityError, match="UNIQUE"):
        await store.write(add, table, **second)


async def test_what_is_not_set_may_be_there_twice(store: Store) -> None:
    def unit(tx: Connection) -> None:
        for number in "12":
            add(tx, schema.security_groups, id=number, project_id="p", name="web")
            flat = {"segmentation_id": None, "bridge": f"br{number}", "cidr": f"10.0.{number}.0/24"}
            add(tx, schema.pool_networks, **(POOL | {"id": number} | flat))

    await store.write(unit)


async def test_a_row_cannot_lose_its_parent(store: Store) -> None:
    await store.write(parents)
    await store.write(add, schema.addresses, subnet_id="s", address="10.0.0.3", network_id="n", port_id="a")
    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        await store.write(lambda tx: tx.execute(schema.ports.delete().where(schema.ports.c.id == "a")).rowcount)
    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        await store.write(add, schema.ports, **(port("fa:16:3e:00:00:ff") | {"network_id": "gone"}))


async def test_times_are_kept_as_utc(store: Store) -> None:
    local = datetime(2026, 3, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    await store.write(add, schema.signing_keys, id="k", secret=b"x", created_at=local)
    found = await store.read(lambda tx: tx.execute(select(schema.signing_keys.c.created_at)).scalar_one())
    assert found == local
    assert found.tzinfo is UTC


def test_every_index_and_constraint_has_a_name() -> None:
    """Without names a later migration could not change them."""
    for table in schema.metadata.tables.values():
        for each in (*table.constraints, *table.indexes):
            assert getattr(each, "name", None), f"{table.name}: {each}"
