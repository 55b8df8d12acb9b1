"""Allocation: never twice, never reserved, reuse only after release is confirmed, every address before giving up."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import Connection, RowMapping, create_engine, event, insert, select, update
from sqlalchemy.pool import StaticPool

from kilonova.errors import AlreadyExists, BadRequest, NoMoreAddresses
from kilonova.ids import new_id
from kilonova.network.addresses import allocate, allocate_specific, default_ranges, define_pools, edges
from kilonova.store import addresses as store_addresses
from kilonova.store.schema import addresses, metadata, networks, ports, subnets


@contextmanager
def database() -> Iterator[Connection]:
    engine = create_engine("sqlite://", poolclass=StaticPool)

    @event.listens_for(engine, "connect")
    def _configure(connection: object, _record: object) -> None:
        connection.execute("PRAGMA foreign_keys=ON")  # type: ignore[attr-defined]

    metadata.create_all(engine)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def make_subnet(tx: Connection, cidr: str, gateway: str | None) -> RowMapping:
    network_id, subnet_id = new_id(), new_id()
    network = ip_network(cidr)
    tx.execute(
        insert(networks).values(
            id=network_id, project_id="p", manager="vlan", physical_network="physnet1", bridge=network_id[:15]
        )
    )
    tx.execute(
        insert(subnets).values(
            id=subnet_id,
            network_id=network_id,
            project_id="p",
            cidr=cidr,
            gateway_ip=gateway,
            ip_version=network.version,
        )
    )
    define_pools(tx, subnet_id, default_ranges(network, None if gateway is None else ip_address(gateway)))
    return tx.execute(select(subnets).where(subnets.c.id == subnet_id)).mappings().one()


def make_port(tx: Connection, subnet: RowMapping) -> str:
    port_id = new_id()
    mac = "fa:16:3e:" + ":".join(port_id[i : i + 2] for i in (0, 2, 4))
    tx.execute(insert(ports).values(id=port_id, network_id=subnet["network_id"], project_id="p", mac=mac))
    return port_id


class Allocator(RuleBasedStateMachine):
    """A /28 with its gateway in the middle, against a model of who holds what."""

    GATEWAY = "192.0.2.7"

    def __init__(self) -> None:
        super().__init__()
        self.context = database()
        self.tx = self.context.__enter__()
        self.subnet = make_subnet(self.tx, "192.0.2.0/28", self.GATEWAY)
        hosts = {str(host) for host in ip_network("192.0.2.0/28").hosts()}
        self.usable = hosts - {self.GATEWAY}
        self.held: dict[str, str] = {}
        self.released: set[str] = set()

    def teardown(self) -> None:
        self.context.__exit__(None, None, None)

    @rule()
    def take_any(self) -> None:
        port = make_port(self.tx, self.subnet)
        free = self.usable - self.held.keys() - self.released
        if not free:
            with pytest.raises(NoMoreAddresses):
                allocate(self.tx, self.subnet, port)
            return
        address = allocate(self.tx, self.subnet, port)
        assert address in free
        self.held[address] = port

    @rule(last=st.integers(0, 16))
    def take_specific(self, last: int) -> None:
        port = make_port(self.tx, self.subnet)
        wanted = f"192.0.2.{last}"
        if wanted not in self.usable:
            with pytest.raises(BadRequest):
                allocate_specific(self.tx, self.subnet, port, wanted)
        elif wanted in self.held or wanted in self.released:
            with pytest.raises(AlreadyExists):
                allocate_specific(self.tx, self.subnet, port, wanted)
        else:
            assert allocate_specific(self.tx, self.subnet, port, wanted) == wanted
            self.held[wanted] = port

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(sorted(self.held)))
        store_addresses.release(self.tx, self.held.pop(address), mac="fa:16:3e:00:00:00", host="host1")
        self.released.add(address)

    @rule(data=st.data(), times=st.integers(1, 2))
    def confirm(self, data: st.DataObject, times: int) -> None:
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.usable))))
        forgotten = chosen & self.released
        for _ in range(times):
            store_addresses.confirm_forgotten(self.tx, [(self.subnet["id"], address) for address in sorted(chosen)])
        self.released -= forgotten

    @rule(first=st.integers(1, 6), last=st.integers(8, 14))
    def redefine_pools(self, first: int, last: int) -> None:
        """What is outside of the pools is handed out only by name; the model follows."""
        define_pools(self.tx, self.subnet["id"], [(1, 6), (8, 14)])

    @invariant()
    def rows_are_as_the_model(self) -> None:
        rows = self.tx.execute(select(addresses.c.address, addresses.c.port_id)).all()
        assert {row.address: row.port_id for row in rows if row.port_id} == self.held
        assert {row.address for row in rows if row.port_id is None} == self.released


Allocator.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestAllocator = Allocator.TestCase


@pytest.mark.parametrize(
    ("cidr", "gateway", "count"),
    [("10.0.0.0/30", "10.0.0.1", 1), ("10.0.0.0/29", None, 6), ("10.0.0.0/31", None, 2), ("10.0.0.4/32", None, 1)],
)
def test_every_address_is_handed_out_before_there_are_no_more(cidr: str, gateway: str | None, count: int) -> None:
    with database() as tx:
        subnet = make_subnet(tx, cidr, gateway)
        given = {allocate(tx, subnet, make_port(tx, subnet)) for _ in range(count)}
        assert len(given) == count
        assert not {ip_address(address) for address in given} & edges(ip_network(cidr))
        with pytest.raises(NoMoreAddresses, match=cidr):
            allocate(tx, subnet, make_port(tx, subnet))


def test_addresses_are_reused_oldest_first_and_only_after_confirmation() -> None:
    with database() as tx:
        subnet = make_subnet(tx, "10.0.0.0/29", "10.0.0.1")
        held = {}
        for _ in range(5):
            port = make_port(tx, subnet)
            held[allocate(tx, subnet, port)] = port
        for address in ("10.0.0.4", "10.0.0.2"):
            store_addresses.release(tx, held[address], mac="fa:16:3e:00:00:01", host="h")
        with pytest.raises(NoMoreAddresses):
            allocate(tx, subnet, make_port(tx, subnet))
        store_addresses.confirm_forgotten(tx, [(subnet["id"], "10.0.0.4")])
        store_addresses.confirm_forgotten(tx, [(subnet["id"], "10.0.0.2")])
        assert [allocate(tx, subnet, make_port(tx, subnet)) for _ in range(2)] == ["10.0.0.4", "10.0.0.2"]


def test_an_ipv6_subnet_is_served_by_the_same_code() -> None:
    with database() as tx:
        subnet = make_subnet(tx, "2001:db8::/64", "2001:db8::1")
        assert allocate(tx, subnet, make_port(tx, subnet)) == "2001:db8::2"
        assert allocate_specific(tx, subnet, make_port(tx, subnet), "2001:db8::3") == "2001:db8::3"
        assert allocate(tx, subnet, make_port(tx, subnet)) == "2001:db8::4"


def test_cost_is_flat_to_the_last_address_of_a_slash_16() -> None:
    """The last hundred of 65000 used addresses take the steps of SQLite's machine that the first hundred did."""
    with database() as tx:
        subnet = make_subnet(tx, "10.8.0.0/16", "10.8.0.1")

        driver: Any = tx.connection.driver_connection
        steps = 0

        def count_step() -> int:
            nonlocal steps
            steps += 1
            return 0

        def cost(count: int) -> int:
            nonlocal steps
            made = [make_port(tx, subnet) for _ in range(count)]
            steps = 0
            driver.set_progress_handler(count_step, 1)
            for port in made:
                allocate(tx, subnet, port)
            driver.set_progress_handler(None, 1)
            return steps

        first = cost(100)
        used = 65_000
        base = int(ip_address("10.8.0.0"))
        rows = [
            {"subnet_id": subnet["id"], "address": str(ip_address(base + i)), "network_id": subnet["network_id"]}
            for i in range(102, used)
        ]
        tx.execute(insert(addresses), rows)
        from kilonova.store.schema import allocation_pools

        tx.execute(update(allocation_pools).values(next_offset=used))
        assert first > 1000
        assert cost(100) < first * 1.2
