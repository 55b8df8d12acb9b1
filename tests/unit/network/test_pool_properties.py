"""The pool by properties: what is added is disjoint; what is given is given once, and comes back."""

from __future__ import annotations

from functools import cache
from ipaddress import IPv4Network
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import Connection, create_engine, event, func, insert, select
from sqlalchemy.pool import StaticPool

from kilonova.cloud.pool_requests import LARGEST_PORT, SMALLEST_NETWORK, PoolRequest, plan_of
from kilonova.cloud.project_networks import release_network
from kilonova.config import Config
from kilonova.context import system_context
from kilonova.errors import BadRequest, Conflict, InUse, NoMoreNetworks
from kilonova.ids import new_id
from kilonova.network.assignment import ensure_project_network, make_port
from kilonova.network.errors import NotSupportedYet
from kilonova.network.managers.wires import wires_of
from kilonova.store import addresses as store_addresses
from kilonova.store import schema
from kilonova.store.ports import release_port

CONFIG = Config(Path("/nonexistent"))
HOST = wires_of("host1", {"trunks": [], "flat_bridges": {"lan": "br-lan"}, "tunnel": None})


@cache
def database() -> Connection:
    """Empty; one for all examples, which end in a rollback: a new one compiles every statement anew."""
    engine = create_engine("sqlite://", poolclass=StaticPool)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    schema.metadata.create_all(engine)
    return engine.connect()


numbers = st.one_of(st.none(), st.integers(-2, 70000), st.sampled_from([8, 16, 64, 256, 4094, 4095, 2**24]))
requests = st.builds(
    PoolRequest,
    fixed_range=st.one_of(
        st.none(),
        st.sampled_from(
            ["10.0.0.0/8", "192.0.2.0/24", "10.7.0.0/16", "0.0.0.0/0", "10.0.0.1/24", "fd00::/64", "words"]
        ),
    ),
    num_networks=st.one_of(st.none(), st.integers(-1, 300)),
    network_size=numbers,
    vlan_start=numbers,
    vpn_start=numbers,
    manager=st.sampled_from(["flat", "flat-dhcp", "vlan", "vxlan"]),
    physical_network=st.sampled_from(["", "lan", "physnet1", "public", "vxlan"]),
    gateway=st.sampled_from([None, None, "10.7.0.9", "192.0.2.255", "fd00::1"]),
)


@given(requests)
@settings(max_examples=200, deadline=None)
def test_a_pool_is_refused_or_fits_and_does_not_overlap(request: PoolRequest) -> None:
    try:
        with database().begin():
            plan = plan_of(database(), CONFIG, request, [HOST])
    except (BadRequest, Conflict, NotSupportedYet):
        return
    whole = IPv4Network(request.fixed_range or "10.0.0.0/8")
    cidrs = [item.cidr for item in plan.networks]
    assert all(cidr.subnet_of(whole) and cidr.num_addresses >= SMALLEST_NETWORK for cidr in cidrs)
    assert all(one.broadcast_address < other.network_address for one, other in pairwise(cidrs))
    assert len({item.bridge for item in plan.networks}) == len(cidrs)
    assert all(len(item.bridge) <= 15 for item in plan.networks)
    if plan.is_shared:
        assert len(cidrs) == 1
        return
    last_id = 4094 if plan.manager == "vlan" else 2**24 - 1
    assert all(1 <= (item.segmentation_id or 0) <= last_id for item in plan.networks)
    assert all(1 <= (item.vpn_port or 0) <= LARGEST_PORT for item in plan.networks)
    assert len({item.vpn_port for item in plan.networks}) == len(cidrs)


class Pool(RuleBasedStateMachine):
    """Three networks for five projects: first runs, ports, releases, and a host that forgets when it likes."""

    PROJECTS = st.sampled_from([f"p{i}" for i in range(5)])

    def __init__(self) -> None:
        super().__init__()
        self.tx = database()
        self.transaction = self.tx.begin()
        self.tx.execute(insert(schema.services).values(id=new_id(), kind="network", host="host1"))
        plan = plan_of(self.tx, CONFIG, PoolRequest("10.0.0.0/24", 3, 16), [HOST])
        for position, item in enumerate(plan.networks):
            row = {**vars(item), "cidr": str(item.cidr), "id": new_id(), "position": position}
            self.tx.execute(insert(schema.pool_networks).values(**row, physical_network="physnet1"))
        self.cidrs = {str(item.cidr) for item in plan.networks}
        self.given: dict[str, str] = {}
        self.ports: dict[str, list[str]] = {}
        self.held: set[str] = set()

    def teardown(self) -> None:
        self.transaction.rollback()

    def cidr_of(self, network_id: str) -> str:
        query = select(schema.pool_networks.c.cidr).where(schema.pool_networks.c.network_id == network_id)
        return str(self.tx.execute(query).scalar_one())

    @rule(project=PROJECTS)
    def run_a_server(self, project: str) -> None:
        if project not in self.given and not self.cidrs - set(self.given.values()) - self.held:
            with pytest.raises(NoMoreNetworks), self.tx.begin_nested():
                ensure_project_network(self.tx, CONFIG, project, system_context())
            return
        network = ensure_project_network(self.tx, CONFIG, project, system_context())
        cidr = self.cidr_of(network["id"])
        assert self.given.setdefault(project, cidr) == cidr
        assert cidr not in self.held
        if len(self.ports.setdefault(project, [])) < 5:
            self.ports[project].append(make_port(self.tx, network_id=network["id"], project_id=project).id)

    @precondition(lambda self: any(self.ports.values()))
    @rule(data=st.data())
    def end_a_server(self, data: st.DataObject) -> None:
        project = data.draw(st.sampled_from(sorted(name for name, ports in self.ports.items() if ports)))
        release_port(self.tx, self.ports[project].pop())

    @precondition(lambda self: self.given)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        project = data.draw(st.sampled_from(sorted(self.given)))
        if self.ports[project]:
            with pytest.raises(InUse) as refused:
                release_network(self.tx, project)
            assert self.ports[project][0] in refused.value.message
            return
        release_network(self.tx, project)
        self.held.add(self.given.pop(project))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        cidr = data.draw(st.sampled_from(sorted(self.held)))
        query = select(schema.pool_networks.c.id).where(schema.pool_networks.c.cidr == cidr)
        store_addresses.confirm_pool_network_forgotten(self.tx, self.tx.execute(query).scalar_one())
        self.held.remove(cidr)

    @invariant()
    def rows_are_as_the_model(self) -> None:
        pool = schema.pool_networks.c
        rows = self.tx.execute(select(pool.cidr, pool.project_id, pool.released_at)).all()
        assert {row.project_id: row.cidr for row in rows if row.project_id} == self.given
        assert {row.cidr for row in rows if row.released_at} == self.held

    @invariant()
    def nothing_is_left_of_what_was_released(self) -> None:
        def count(table: Any) -> int:
            return int(self.tx.execute(select(func.count()).select_from(table)).scalar_one())

        tables = (schema.networks, schema.subnets, schema.routers, schema.project_networks)
        assert {count(table) for table in tables} == {len(self.given)}
        assert count(schema.ports) == 2 * len(self.given) + sum(len(ports) for ports in self.ports.values())


Pool.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestPool = Pool.TestCase
