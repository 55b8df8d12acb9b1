"""First runs of projects on a pool of every type: what is chosen, kept and written, also by many at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, func, insert, select

from kilonova.cloud import pool
from kilonova.cloud.controller import Cloud
from kilonova.context import system_context
from kilonova.errors import InUse, NoMoreAddresses, NoMoreNetworks, NotFound
from kilonova.ids import new_id
from kilonova.network.assignment import MadePort, ensure_project_network, make_port
from kilonova.store.schema import (
    addresses,
    networks,
    pool_networks,
    ports,
    project_networks,
    routers,
    services,
    subnets,
)

WIRES: dict[str, Any] = {
    "trunks": ["physnet1"],
    "flat_bridges": {"lan": "br-lan"},
    "tunnel": {"address": "192.0.2.1", "mtu": 1600},
    "groups": True,
}


async def add_host(cloud: Cloud, name: str, **capacity: Any) -> None:
    row = {"id": new_id(), "kind": "network", "host": name, "capacity": {**WIRES, **capacity}}
    await cloud.store.write(lambda tx: tx.execute(insert(services).values(**row)) and None)


async def add(cloud: Cloud, manager: str, cidr: str, **fields: Any) -> list[dict[str, Any]]:
    return await pool.create(cloud, system_context(), pool.PoolRequest(fixed_range=cidr, manager=manager, **fields))


async def add_flat(cloud: Cloud, cidr: str, manager: str = "flat-dhcp", **fields: Any) -> dict[str, Any]:
    (made,) = await add(cloud, manager, cidr, physical_network="lan", **fields)
    return made


async def first_run(cloud: Cloud, project_id: str, **asked: Any) -> MadePort:
    def unit(tx: Connection) -> MadePort:
        network = ensure_project_network(tx, cloud.config, project_id, system_context(), **asked)
        return make_port(tx, network_id=network["id"], project_id=project_id)

    return await cloud.store.write(unit)


async def row_of(cloud: Cloud, network_id: str) -> Any:
    query = select(networks).where(networks.c.id == network_id)
    return await cloud.store.read(lambda tx: tx.execute(query).mappings().one())


async def counts(cloud: Cloud) -> dict[str, int]:
    def unit(tx: Connection) -> dict[str, int]:
        tables = (networks, subnets, ports, addresses, routers, project_networks)
        return {table.name: int(tx.execute(select(func.count()).select_from(table)).scalar_one()) for table in tables}

    return await cloud.store.read(unit)


async def test_64_concurrent_first_runs_over_all_types_give_each_project_one_network(cloud: Cloud) -> None:
    await add_host(cloud, "host1")
    await add(cloud, "vlan", "10.0.0.0/16", num_networks=40)
    await add(cloud, "vxlan", "10.1.0.0/16", num_networks=12, vlan_start=5000, vpn_start=3000)
    await add_flat(cloud, "10.2.0.0/24")
    made = await asyncio.gather(*(first_run(cloud, f"p{i % 64}") for i in range(128)))

    def given(tx: Connection) -> list[Any]:
        columns = (project_networks.c.project_id, networks.c.manager, networks.c.id, networks.c.bridge)
        return list(tx.execute(select(*columns).join(networks, networks.c.id == project_networks.c.network_id)))

    rows = await cloud.store.read(given)
    assert len({row.project_id for row in rows}) == len(rows) == 64
    by_type = [[row.bridge for row in rows if row.manager == name] for name in ("vlan", "vxlan", "flat-dhcp")]
    assert sorted(by_type[0]) == [f"br{100 + i}" for i in range(40)]
    assert sorted(by_type[1]) == [f"bv{5000 + i}" for i in range(12)]
    assert by_type[2] == ["br-lan"] * 12
    assert len({(port.network_id, port.fixed_ips[0].address) for port in made}) == 128
    assert len({port.mac for port in made}) == 128
    ports_used = [pool_networks.c.vpn_port, pool_networks.c.project_id]
    used = await cloud.store.read(lambda tx: tx.execute(select(*ports_used).where(ports_used[1].is_not(None))).all())
    assert len({row.vpn_port for row in used}) == len({row.project_id for row in used}) == 52


async def test_a_project_of_its_own_gets_segment_mtu_host_router_and_vpn_port(cloud: Cloud) -> None:
    await add_host(cloud, "host1", tunnel=None)
    await add_host(cloud, "host2")
    (made,) = await add(cloud, "vxlan", "10.1.0.0/24", num_networks=1, vlan_start=70000)
    port = await first_run(cloud, "p")
    network = await row_of(cloud, port.network_id)
    assert (network["segmentation_id"], network["bridge"], network["mtu"]) == (70000, "bv70000", 1550)
    assert network["host"] == "host2"
    assert made["vpn_port"] == 1000
    assert port.fixed_ips[0].address == "10.1.0.3"


async def test_a_flat_network_is_shared_and_has_no_router_of_the_clouds(cloud: Cloud) -> None:
    await add_host(cloud, "host1")
    made = await add_flat(cloud, "10.2.0.0/24", gateway="10.2.0.254", exclude=("10.2.0.0/28",))
    ports_made = [await first_run(cloud, project) for project in ("p1", "p2")]
    assert {port.network_id for port in ports_made} == {made["network_id"]}
    assert [port.fixed_ips[0].address for port in ports_made] == ["10.2.0.17", "10.2.0.18"]
    network = await row_of(cloud, made["network_id"])
    assert (network["shared"], network["project_id"], network["bridge"]) == (True, "", "br-lan")
    subnet = await cloud.store.read(lambda tx: tx.execute(select(subnets)).mappings().one())
    assert (subnet["gateway_ip"], subnet["enable_dhcp"], subnet["service_address"]) == ("10.2.0.254", True, "10.2.0.16")
    assert (await counts(cloud))["routers"] == 0


async def test_a_flat_network_without_dhcp_gives_no_address_to_services(cloud: Cloud) -> None:
    await add_host(cloud, "host1")
    await add_flat(cloud, "10.2.0.0/29", manager="flat")
    subnet = await cloud.store.read(lambda tx: tx.execute(select(subnets)).mappings().one())
    assert (subnet["gateway_ip"], subnet["enable_dhcp"], subnet["service_address"]) == ("10.2.0.1", False, None)
    port = await first_run(cloud, "p")
    assert port.fixed_ips[0].address == "10.2.0.2"


async def test_what_is_reserved_is_never_given_to_a_guest(cloud: Cloud) -> None:
    """Network, gateway, services and broadcast; the smallest networks to their last address."""
    await add_host(cloud, "host1")
    await add(cloud, "vlan", "10.0.0.0/28", num_networks=2, network_size=8)
    for project, base in (("p1", 0), ("p2", 8)):
        given = [(await first_run(cloud, project)).fixed_ips[0].address for _ in range(4)]
        assert given == [f"10.0.0.{base + i}" for i in range(3, 7)]
        before = await counts(cloud)
        with pytest.raises(NoMoreAddresses, match=f"10.0.0.{base}/29"):
            await first_run(cloud, project)
        assert await counts(cloud) == before


async def test_a_full_flat_network_is_not_chosen_and_leaves_nothing(cloud: Cloud) -> None:
    await add_host(cloud, "host1")
    await add_flat(cloud, "10.2.0.0/29", manager="flat")
    for _ in range(5):
        await first_run(cloud, "p")
    before = await counts(cloud)
    with pytest.raises(NoMoreAddresses):
        await first_run(cloud, "p")
    with pytest.raises(NoMoreNetworks, match="flat: no address is left on lan"):
        await first_run(cloud, "late")
    assert await counts(cloud) == before


async def test_the_preference_of_the_project_and_of_the_request(cloud: Cloud) -> None:
    await add_host(cloud, "host1")
    await add(cloud, "vlan", "10.0.0.0/16", num_networks=4)
    await add(cloud, "vxlan", "10.1.0.0/16", num_networks=4, vpn_start=3000)
    await prefer(cloud, "p1", "vxlan")
    await prefer(cloud, "p2", "vxlan")
    assert (await row_of(cloud, (await first_run(cloud, "p1")).network_id))["manager"] == "vxlan"
    assert (await row_of(cloud, (await first_run(cloud, "p2", requested="vlan")).network_id))["manager"] == "vlan"
    assert (await row_of(cloud, (await first_run(cloud, "p3")).network_id))["manager"] == "vlan"

    def kept(tx: Connection) -> list[Any]:
        return list(tx.execute(select(project_networks).order_by(project_networks.c.project_id)).mappings())

    rows = await cloud.store.read(kept)
    assert [(row["requested"], row["decision"][0]["manager"]) for row in rows] == [
        ("vxlan", "vxlan"),
        ("vlan", "vlan"),
        (None, "vlan"),
    ]
    assert rows[0]["decision"][0]["reason"].startswith("preferred by project p1: 4 of 4 networks free")
    assert {item["manager"] for item in rows[2]["decision"]} == {"flat", "flat-dhcp", "vlan", "vxlan"}
    await prefer(cloud, "p4", "flat")
    with pytest.raises(NoMoreNetworks, match="flat, preferred by project p4, is not possible: the pool has no flat"):
        await first_run(cloud, "p4")


async def prefer(cloud: Cloud, project_id: str, manager: str) -> None:
    from kilonova.store.schema import domains, projects

    def unit(tx: Connection) -> None:
        if tx.execute(select(domains.c.id)).first() is None:
            tx.execute(insert(domains).values(id="default", name="Default"))
        row = {"id": project_id, "domain_id": "default", "parent_id": "default", "name": project_id}
        tx.execute(insert(projects).values(**row, network_type=manager))

    await cloud.store.write(unit)


async def test_a_named_pool_network_is_given_if_it_is_free(cloud: Cloud) -> None:
    await add_host(cloud, "host1")
    await add(cloud, "vlan", "10.0.0.0/16", num_networks=4)
    port = await first_run(cloud, "p1", named="10.0.2.0/24")
    assert port.fixed_ips[0].address == "10.0.2.3"
    with pytest.raises(InUse, match=r"10\.0\.2\.0/24.*p1"):
        await first_run(cloud, "p2", named="br102")
    with pytest.raises(NotFound, match="br109"):
        await first_run(cloud, "p2", named="br109")
    assert (await first_run(cloud, "p2", named="br100")).fixed_ips[0].address == "10.0.0.3"


async def test_networks_go_to_the_least_loaded_host_that_can_carry_them(cloud: Cloud) -> None:
    for name, trunks in (("host1", ["physnet1"]), ("host2", ["physnet1"]), ("host3", [])):
        await add_host(cloud, name, trunks=trunks)
    await add(cloud, "vlan", "10.0.0.0/16", num_networks=6)
    made = [await first_run(cloud, f"p{i}") for i in range(6)]
    hosts = [(await row_of(cloud, port.network_id))["host"] for port in made]
    assert hosts == ["host1", "host2"] * 3


async def test_a_first_run_takes_as_many_statements_whatever_the_pool_has_given(cloud: Cloud) -> None:
    """Flat: the hundredth project of a pool of 1000 costs what the first did."""
    await add_host(cloud, "host1")
    await add(cloud, "vlan", "10.0.0.0/8", num_networks=1000)
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        seen.append(statement)

    async def cost(project_id: str) -> int:
        seen.clear()
        await first_run(cloud, project_id)
        return len(seen)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        first = await cost("p")
        for i in range(100):
            await first_run(cloud, f"p{i}")
        assert await cost("last") == first
        assert 0 < await cost("last") < first / 2
    finally:
        event.remove(Engine, "before_cursor_execute", note)
