"""A network host that died: every network has one live host again, nothing is split; no clock makes a host dead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, insert, select, update

from kilonova.bus.local import LocalBus
from kilonova.cloud.failover import Failover, take_over
from kilonova.config import Config
from kilonova.context import Context
from kilonova.ids import new_id
from kilonova.network.lease import Term
from kilonova.scheduler.takeover import Candidate
from kilonova.store import schema
from kilonova.store.database import Store
from kilonova.store.schema import now, services

TRUNK: dict[str, Any] = {"trunks": ["physnet1"], "tunnel": None, "flat_bridges": {}}
LEASE_S, MARGIN_S = 15.0, 5.0


@dataclass
class Cluster:
    """Network hosts that renew when the test says so, and a failover whose clock the test moves."""

    store: Store
    bus: LocalBus
    config: Config
    seconds: float = 1000.0

    def __post_init__(self) -> None:
        self.failover = self.new_failover()
        self.woken: list[str] = []

    def new_failover(self) -> Failover:
        return Failover(self.store, self.bus, self.config, clock=lambda: self.seconds)

    async def host(self, name: str, **values: Any) -> None:
        row: dict[str, Any] = {"kind": "network", "host": name, "capacity": TRUNK, "progress": {"guarded": True}}
        row |= {"lease_owner": f"agent of {name}", "lease_until": now() + timedelta(seconds=LEASE_S)}
        await self.store.write(lambda tx: tx.execute(insert(services).values(id=new_id(), **row | values)).rowcount)

        async def heard(_: Context, __: Mapping[str, Any]) -> dict[str, Any]:
            self.woken.append(name)
            return {"failures": {}}

        self.bus.subscribe(f"network.{name}", {"look_again": heard})

    async def set(self, name: str, **values: Any) -> None:
        mine = services.c.host == name
        await self.store.write(lambda tx: tx.execute(update(services).where(mine).values(**values)).rowcount)

    async def renew(self, *names: str, clock_step_s: float = 0.0) -> None:
        until = now() + timedelta(seconds=LEASE_S + clock_step_s)
        for name in names:
            await self.set(name, lease_owner=f"agent of {name}", lease_until=until, seen_at=now())

    async def pass_time(self, seconds: float, *alive: str) -> list[Any]:
        """In steps of a heartbeat, with a round of the failover after each."""
        moves = []
        while seconds > 0:
            self.seconds += min(seconds, 5.0)
            seconds -= 5.0
            await self.renew(*alive)
            moves += await self.failover.sweep()
        return moves

    async def rows(self, table: Any) -> list[Any]:
        return await self.store.read(lambda tx: list(tx.execute(select(table))))

    async def where(self) -> dict[str, str | None]:
        """Network or router -> its host."""
        found = await self.rows(schema.networks) + await self.rows(schema.routers)
        return {row.name: row.host for row in found if row.name != "public"}

    async def service(self, name: str) -> Any:
        return next(row for row in await self.rows(services) if row.host == name)


@pytest.fixture
async def cluster(store: Store, bus: LocalBus, config: Config) -> Cluster:
    network = replace(config.network, lease_s=LEASE_S, takeover_margin_s=MARGIN_S)
    return Cluster(store, bus, replace(config, network=network))


def add_network(tx: Connection, /, number: int, host: str | None, **values: Any) -> None:
    """`net<number>` with its service port; a guest's port on host "compute" and an address each."""
    row: dict[str, Any] = {"id": f"n{number}", "name": f"net{number}", "project_id": "p", "manager": "vlan"}
    row |= {"physical_network": "physnet1", "segmentation_id": number, "bridge": f"br{number}", "host": host}
    tx.execute(insert(schema.networks).values(**row | values))
    subnet = {"id": f"s{number}", "network_id": f"n{number}", "project_id": "p", "cidr": f"10.0.{number}.0/24"}
    tx.execute(insert(schema.subnets).values(**subnet))
    add_port(tx, f"d{number}", f"n{number}", "network:dhcp", host or "")
    add_port(tx, f"g{number}", f"n{number}", "compute:nova", "compute")


def add_router(tx: Connection, number: int, host: str | None, *legs: int, public: bool = False) -> None:
    tx.execute(insert(schema.routers).values(id=f"r{number}", name=f"router{number}", project_id="p", host=host))
    for network in legs:
        owner = "network:router_interface"
        add_port(tx, f"r{number}-{network}", f"n{network}", owner, host or "", device_id=f"r{number}")
    if public:
        add_port(tx, f"r{number}-public", "public", "network:router_gateway", host or "", device_id=f"r{number}")
        values = {"subnet_id": "range", "network_id": "public", "address": f"203.0.113.{number}"}
        tx.execute(insert(schema.addresses).values(port_id=f"r{number}-public", **values))


def add_range(tx: Connection, host: str) -> None:
    network = {"id": "public", "name": "public", "project_id": "", "manager": "flat", "physical_network": "public"}
    tx.execute(insert(schema.networks).values(bridge="br-public", external=True, **network))
    subnet = {"id": "range", "network_id": "public", "project_id": "", "cidr": "203.0.113.0/24"}
    tx.execute(insert(schema.subnets).values(host=host, **subnet))


def add_port(tx: Connection, name: str, network: str, owner: str, host: str, **values: Any) -> None:
    row = {"id": name, "network_id": network, "project_id": "p", "mac": name, "device_owner": owner, "host": host}
    tx.execute(insert(schema.ports).values(**row | values))


def project(tx: Connection, host: str | None) -> None:
    """A router that joins two networks, a network on its own, a floating range."""
    add_range(tx, host or "a")
    for number in (1, 2, 3):
        add_network(tx, number, host)
    add_router(tx, 1, host, 1, 2, public=True)


async def test_what_a_dead_host_had_is_moved_when_lease_and_margin_are_over(cluster: Cluster) -> None:
    await cluster.host("a")
    await cluster.host("b")
    await cluster.store.write(project, "a")
    await cluster.failover.sweep()
    assert await cluster.pass_time(LEASE_S + MARGIN_S - 0.01, "b") == []
    assert set((await cluster.where()).values()) == {"a"}

    (move,) = await cluster.pass_time(0.01, "b")

    assert (move.networks, move.routers, move.ranges, move.targets) == (3, 1, 1, {"b"})
    assert set((await cluster.where()).values()) == {"b"}
    assert {row.id: row.host for row in await cluster.rows(schema.ports)} == {
        **{f"d{number}": "b" for number in (1, 2, 3)},
        **{f"g{number}": "compute" for number in (1, 2, 3)},
        "r1-1": "b",
        "r1-2": "b",
        "r1-public": "b",
    }
    assert next(row.host for row in await cluster.rows(schema.subnets) if row.id == "range") == "b"
    assert await cluster.pass_time(60, "b") == []


async def test_new_hosts_and_those_with_ports_are_woken(cluster: Cluster) -> None:
    for name in ("a", "b", "compute", "stranger"):
        await cluster.host(name)
    await cluster.set("compute", enabled=False)
    await cluster.store.write(project, "a")
    await cluster.failover.sweep()
    await cluster.pass_time(LEASE_S + MARGIN_S, "b", "compute")
    await cluster.bus.close()
    assert set(cluster.woken) == {"b", "compute"}


async def test_a_host_that_renews_keeps_everything(cluster: Cluster) -> None:
    await cluster.host("a")
    await cluster.host("b")
    await cluster.store.write(project, "a")
    assert await cluster.pass_time(300, "a", "b") == []
    assert set((await cluster.where()).values()) == {"a"}


@pytest.mark.parametrize("step_s", [-7200.0, 7200.0])
async def test_a_wrong_clock_kills_no_host_and_keeps_no_dead_one(cluster: Cluster, step_s: float) -> None:
    await cluster.host("a")
    await cluster.host("b")
    await cluster.store.write(project, "a")
    for _ in range(20):
        cluster.seconds += 5
        await cluster.renew("a", clock_step_s=step_s)
        await cluster.renew("b")
        assert await cluster.failover.sweep() == []

    moves = await cluster.pass_time(LEASE_S + MARGIN_S + 5, "b")

    assert [move.host for move in moves] == ["a"]


async def test_a_process_that_just_started_believes_nobody_dead(cluster: Cluster) -> None:
    await cluster.host("a", lease_until=now() - timedelta(hours=1), seen_at=now() - timedelta(hours=1))
    await cluster.host("b")
    await cluster.store.write(project, "a")
    assert await cluster.failover.sweep() == []


async def test_the_only_network_host_keeps_its_networks_however_long_it_is_away(cluster: Cluster) -> None:
    await cluster.host("a")
    await cluster.store.write(project, "a")
    await cluster.failover.sweep()
    assert await cluster.pass_time(600) == []
    assert (await cluster.service("a")).lease_until is not None


async def test_a_host_that_may_still_answer_is_left_until_an_administrator_says_so(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    """It died before it knew that there is another one: its kernel has no dead man's switch."""
    await cluster.host("a", progress={})
    await cluster.host("b")
    await cluster.store.write(project, "a")
    await cluster.failover.sweep()
    assert await cluster.pass_time(60, "b") == []
    assert caplog.text.count("network host a is gone, but may still answer") == 1

    await cluster.set("a", enabled=False)

    assert [move.host for move in await cluster.pass_time(1, "b")] == ["a"]


async def test_a_drained_host_that_lives_keeps_its_lease_and_lets_go_first(cluster: Cluster) -> None:
    await cluster.host("a")
    await cluster.host("b")
    await cluster.store.write(project, "a")
    await cluster.set("a", enabled=False)

    (move,) = await cluster.pass_time(1, "a", "b")

    assert set((await cluster.where()).values()) == {"b"}
    assert (await cluster.service("a")).lease_owner == "agent of a"
    assert move.host == "a"
    await cluster.bus.close()
    assert cluster.woken[:2] == ["a", "b"]


async def test_a_host_that_is_back_has_nothing_and_is_given_new_things(cluster: Cluster) -> None:
    await cluster.host("a")
    await cluster.host("b")
    await cluster.store.write(project, "a")
    await cluster.failover.sweep()
    await cluster.pass_time(LEASE_S + MARGIN_S, "b")
    assert (await cluster.service("a")).lease_owner is None
    assert (await cluster.service("a")).lease_until is None

    await cluster.renew("a")
    await cluster.store.write(add_network, 9, None)
    await cluster.pass_time(5, "a", "b")

    assert (await cluster.where())["net9"] == "a"


async def test_what_was_placed_on_a_host_after_it_was_taken_over_moves_too(cluster: Cluster) -> None:
    await cluster.host("a", lease_owner=None, lease_until=None)
    await cluster.host("b")
    await cluster.store.write(add_network, 1, "a")
    await cluster.pass_time(1, "b")
    assert await cluster.where() == {"net1": "b"}


async def test_networks_of_a_host_that_is_no_more_move(cluster: Cluster) -> None:
    await cluster.host("b")
    await cluster.store.write(project, "long gone")
    await cluster.pass_time(1, "b")
    assert set((await cluster.where()).values()) == {"b"}


async def test_what_was_made_while_no_host_lived_is_placed(cluster: Cluster) -> None:
    await cluster.store.write(project, None)
    assert await cluster.failover.sweep() == []
    await cluster.host("a", capacity={"trunks": [], "tunnel": None, "flat_bridges": {}})

    await cluster.pass_time(1, "a")

    assert set((await cluster.where()).values()) == {"a"}
    assert {row.host for row in await cluster.rows(schema.ports) if row.id in ("d1", "r1-1")} == {"a"}


async def test_what_nobody_can_carry_stays_and_is_said_once(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    await cluster.host("a")
    await cluster.host("b", capacity={"trunks": [], "tunnel": None, "flat_bridges": {}})
    await cluster.store.write(add_network, 1, "a")
    await cluster.failover.sweep()
    await cluster.pass_time(120, "b")
    assert await cluster.where() == {"net1": "a"}
    assert caplog.text.count("network n1 can go nowhere: b: no trunk for physnet1; it stays with a") == 1

    await cluster.set("b", capacity=TRUNK)
    await cluster.pass_time(1, "b")
    assert await cluster.where() == {"net1": "b"}


async def test_addresses_that_a_dead_host_was_to_forget_are_the_new_ones_to_forget(cluster: Cluster) -> None:
    def released(tx: Connection) -> None:
        project(tx, "a")
        for subnet, network, address in (("s1", "n1", "10.0.1.9"), ("range", "public", "203.0.113.99")):
            row = {"subnet_id": subnet, "network_id": network, "address": address, "released_at": now()}
            tx.execute(insert(schema.addresses).values(released_host="a", **row))
        pool = {"physical_network": "physnet1", "bridge": "br9", "cidr": "10.9.0.0/24", "released_at": now()}
        tx.execute(insert(schema.pool_networks).values(id="pool", position=1, released_host="a", **pool))

    await cluster.host("a")
    await cluster.host("b")
    await cluster.store.write(released)
    await cluster.failover.sweep()
    await cluster.pass_time(LEASE_S + MARGIN_S, "b")

    waiting = [row for row in await cluster.rows(schema.addresses) if row.released_at is not None]
    assert {row.address: row.released_host for row in waiting} == {"10.0.1.9": "b", "203.0.113.99": "b"}
    assert [row.released_host for row in await cluster.rows(schema.pool_networks)] == ["b"]


async def test_a_lease_that_was_renewed_meanwhile_is_not_taken(cluster: Cluster) -> None:
    await cluster.host("a")
    await cluster.store.write(project, "a")
    row = await cluster.service("a")
    seen = Term(row.lease_owner, row.lease_until)
    await cluster.renew("a")

    move = await cluster.store.write(take_over, "a", [Candidate("b", 0, TRUNK)], term=seen, is_dead=True)

    assert move is None
    assert set((await cluster.where()).values()) == {"a"}


async def test_of_many_that_take_over_one_does(cluster: Cluster) -> None:
    await cluster.host("a")
    await cluster.host("b")
    await cluster.host("c")
    await cluster.store.write(project, "a")
    others = [cluster.new_failover() for _ in range(3)]
    for each in others:
        await each.sweep()
    await cluster.renew("b", "c")
    for each in others:
        await each.sweep()
    cluster.seconds += LEASE_S + MARGIN_S - 5
    await cluster.renew("b", "c")
    for each in others:
        await each.sweep()
    cluster.seconds += 5

    moves = [await each.sweep() for each in others]

    assert [len(found) for found in moves] == [1, 0, 0]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    homes=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=8, max_size=8),
    joined=st.sets(st.tuples(st.integers(1, 3), st.integers(1, 5)), max_size=8),
    dead=st.sets(st.sampled_from(["a", "b", "c"]), max_size=2),
)
async def test_every_network_has_one_live_host_and_no_group_of_a_dead_one_is_split(
    cluster: Cluster, homes: list[str | None], joined: set[tuple[int, int]], dead: set[str]
) -> None:
    def rows(tx: Connection) -> None:
        for table in (schema.addresses, schema.ports, schema.routers, schema.subnets, schema.networks, services):
            tx.execute(delete(table))
        for number in range(1, 6):
            add_network(tx, number, homes[number - 1])
        for number in range(1, 4):
            legs = [network for router, network in joined if router == number]
            add_router(tx, number, homes[4 + number], *legs)

    await cluster.store.write(rows)
    for name in ("a", "b", "c"):
        await cluster.host(name)
    cluster.failover = cluster.new_failover()
    before = await cluster.where()
    live = {"a", "b", "c"} - dead
    await cluster.renew("a", "b", "c")
    await cluster.failover.sweep()

    await cluster.pass_time(2 * (LEASE_S + MARGIN_S), *live)

    after = await cluster.where()
    assert set(after.values()) <= live
    for name, host in before.items():
        assert host not in live or after[name] == host, "what is on a live host stays"
    for router, network in joined:
        pair = before[f"router{router}"], before[f"net{network}"]
        if pair[0] == pair[1] and pair[0] in dead:
            assert after[f"router{router}"] == after[f"net{network}"]
    ports = {row.id: row.host for row in await cluster.rows(schema.ports)}
    assert all(ports[f"d{number}"] == after[f"net{number}"] for number in range(1, 6))
    assert all(ports[f"r{router}-{network}"] == after[f"router{router}"] for router, network in joined)
