"""The network agent's loop with a host that only remembers: who is answered when, and what is written back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Table, insert, update

from kilonova.bus.local import LocalBus
from kilonova.config import Config, HostConfig
from kilonova.context import system_context
from kilonova.errors import CommandFailed, Conflict, InternalError, NotFound, Unavailable
from kilonova.network.agent import NetworkAgent, make_host
from kilonova.network.host.interface import Outcome
from kilonova.network.host.simulated import SimulatedHost
from kilonova.network.plan import HostPlan
from kilonova.network.results import Results, record
from kilonova.network.rows import ReleasedRow
from kilonova.store import schema
from kilonova.store.database import Store
from kilonova.store.schema import now

HOST = "host1"
NETWORK, SUBNET, PORT, ROUTER, EXTERNAL, RANGE = (f"{kind:08x}-0000-4000-8000-000000000000" for kind in range(1, 7))
LEG, GATEWAY, SERVICE, FLOATING_PORT, FLOATING, GROUP, INSTANCE = (
    f"{kind:08x}-0000-4000-8000-000000000000" for kind in range(11, 18)
)


class RememberingHost(SimulatedHost):
    """Applies by writing down; fails and waits as told."""

    def __init__(self) -> None:
        super().__init__()
        self.plans: list[tuple[HostPlan, bool]] = []
        self.failures: dict[str, str] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.devices = True
        self.defect: Exception | None = None
        self.opened = self.closed = False

    def open(self) -> None:
        self.opened = True

    def close(self) -> None:
        self.closed = True

    def has_device(self, device: str) -> bool:
        return self.devices

    def apply(self, plan: HostPlan, *, look: bool) -> Outcome:
        self.entered.set()
        self.gate.wait(5)
        if self.defect is not None:
            raise self.defect
        self.plans.append((plan, look))
        return Outcome(dict(self.failures), () if self.failures else plan.forget, ("did something",))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(state_dir=tmp_path, host=HostConfig(name=HOST, simulate=True, poll_interval_s=3600))


@pytest.fixture
def host() -> RememberingHost:
    return RememberingHost()


@pytest.fixture
async def agent(store: Store, bus: LocalBus, config: Config, host: RememberingHost) -> AsyncIterator[NetworkAgent]:
    await store.write(write_rows)
    agent = NetworkAgent(store, bus, config, host)
    await agent.start()
    yield agent
    host.gate.set()
    await agent.stop()


def write_rows(tx: Connection) -> None:
    """A network with a server, its router, a floating IP on the server's port."""
    network = {"project_id": "p", "manager": "vlan", "physical_network": "physnet1"}
    _insert(tx, schema.networks, id=NETWORK, segmentation_id=101, bridge="br101", host=HOST, **network)
    external = {"bridge": "br-public", "external": True, **network, "physical_network": "public"}
    _insert(tx, schema.networks, id=EXTERNAL, **external)
    subnet = {"network_id": NETWORK, "project_id": "p", "cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.1"}
    _insert(tx, schema.subnets, id=SUBNET, service_address="10.0.0.2", **subnet)
    _insert(
        tx,
        schema.subnets,
        id=RANGE,
        network_id=EXTERNAL,
        project_id="p",
        cidr="203.0.113.0/24",
        gateway_ip="203.0.113.1",
        host=HOST,
    )
    values = {"user_id": "u", "project_id": "p", "name": "web", "hostname": "web", "flavor_id": "1", "vcpus": 1}
    _insert(tx, schema.instances, id=INSTANCE, ram_mb=1, disk_gb=1, reservation_id="r", **values)
    _insert(tx, schema.routers, id=ROUTER, project_id="p", external_network_id=EXTERNAL, host=HOST, status="DOWN")
    _insert(tx, schema.security_groups, id=GROUP, project_id="p", name="default")
    rule = {"id": GROUP, "security_group_id": GROUP, "project_id": "p", "direction": "ingress", "ethertype": "IPv4"}
    _insert(tx, schema.security_group_rules, remote_group_id=GROUP, **rule)
    for number, (port_id, network_id, subnet_id, address, owner, device, vif) in enumerate(
        [
            (PORT, NETWORK, SUBNET, "10.0.0.3", "compute:nova", INSTANCE, "tap"),
            (SERVICE, NETWORK, SUBNET, "10.0.0.2", "network:dhcp", "", "none"),
            (LEG, NETWORK, SUBNET, "10.0.0.1", "network:router_interface", ROUTER, "none"),
            (GATEWAY, EXTERNAL, RANGE, "203.0.113.20", "network:router_gateway", ROUTER, "none"),
            (FLOATING_PORT, EXTERNAL, RANGE, "203.0.113.50", "network:floatingip", "", "none"),
        ]
    ):
        port = {"id": port_id, "network_id": network_id, "project_id": "p", "mac": f"fa:16:3e:00:00:{number:02x}"}
        where = {"host": HOST if owner.startswith("compute") else "", "vif": vif}
        _insert(tx, schema.ports, device_owner=owner, device_id=device, **port, **where)
        _insert(tx, schema.addresses, subnet_id=subnet_id, network_id=network_id, address=address, port_id=port_id)
    _insert(tx, schema.port_security_groups, port_id=PORT, security_group_id=GROUP)
    floating = {"floating_network_id": EXTERNAL, "floating_port_id": FLOATING_PORT, "address": "203.0.113.50"}
    fixed = {"fixed_port_id": PORT, "fixed_address": "10.0.0.3", "router_id": ROUTER}
    _insert(tx, schema.floating_ips, id=FLOATING, project_id="p", **floating, **fixed)


def _insert(tx: Connection, table: Table, **values: Any) -> None:
    tx.execute(insert(table).values(**values))


async def _status(store: Store, table: Table, row_id: str) -> str:
    return await store.read(lambda tx: str(tx.execute(table.select().where(table.c.id == row_id)).one().status))


async def _update(store: Store, table: Table, row_id: str, **values: Any) -> None:
    await store.write(lambda tx: tx.execute(update(table).where(table.c.id == row_id).values(**values)).rowcount)


async def _call(bus: LocalBus, method: str, **args: str) -> Any:
    return await bus.call(f"network.{HOST}", method, args, context=system_context(), deadline_s=5)


async def test_start_applies_everything_and_writes_the_states(
    agent: NetworkAgent, host: RememberingHost, store: Store
) -> None:
    ((plan, look),) = host.plans

    assert look
    assert host.opened
    assert set(plan.ports) == {PORT}
    assert set(plan.routers) == {ROUTER}
    assert [entry.hostname for entry in plan.services[NETWORK].entries] == ["web"]
    assert plan.groups[GROUP].members[0].address == "10.0.0.3"
    for port_id in (PORT, SERVICE, LEG, GATEWAY):
        assert await _status(store, schema.ports, port_id) == "ACTIVE"
    assert await _status(store, schema.routers, ROUTER) == "ACTIVE"
    assert await _status(store, schema.floating_ips, FLOATING) == "ACTIVE"


async def test_wire_names_the_device(agent: NetworkAgent, bus: LocalBus) -> None:
    assert await _call(bus, "wire", port_id=PORT) == {"port_id": PORT, "device": f"tap{PORT[:11]}"}


async def test_wire_of_a_lost_device_looks_at_the_host(
    agent: NetworkAgent, bus: LocalBus, host: RememberingHost
) -> None:
    await _call(bus, "wire", port_id=PORT)
    assert not host.plans[-1][1]
    host.devices = False

    await _call(bus, "wire", port_id=PORT)

    assert host.plans[-1][1]


async def test_port_that_needs_no_device_is_active_and_has_none(
    agent: NetworkAgent, bus: LocalBus, store: Store
) -> None:
    await _update(store, schema.ports, PORT, vif="none", status="BUILD")

    assert (await _call(bus, "wire", port_id=PORT))["device"] is None
    assert await _status(store, schema.ports, PORT) == "ACTIVE"


async def test_unknown_port_and_network_are_not_found(agent: NetworkAgent, bus: LocalBus) -> None:
    with pytest.raises(NotFound, match="nowhere"):
        await _call(bus, "wire", port_id="nowhere")
    with pytest.raises(NotFound, match="nowhere"):
        await _call(bus, "realise", network_id="nowhere")


async def test_failure_is_told_to_whom_it_concerns(
    agent: NetworkAgent, bus: LocalBus, host: RememberingHost, store: Store
) -> None:
    host.failures = {ROUTER: "no such luck"}

    with pytest.raises(CommandFailed, match="no such luck"):
        await _call(bus, "realise", network_id=NETWORK)
    assert (await _call(bus, "wire", port_id=PORT))["device"]
    assert await _status(store, schema.routers, ROUTER) == "ERROR"
    assert await _status(store, schema.floating_ips, FLOATING) == "ERROR"

    host.failures = {NETWORK: "not this time"}
    with pytest.raises(CommandFailed, match="not this time"):
        await _call(bus, "wire", port_id=PORT)
    host.failures = {}
    await _call(bus, "realise", network_id=NETWORK)
    assert await _status(store, schema.floating_ips, FLOATING) == "ACTIVE"


async def test_failure_is_retried_by_itself(
    agent: NetworkAgent, bus: LocalBus, host: RememberingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "_retry_s", 0.01)
    host.failures = {ROUTER: "no such luck"}
    await _call(bus, "look_again")
    host.failures = {}
    before = len(host.plans)

    async with asyncio.timeout(5):
        while len(host.plans) == before or agent._last is None or agent._last.outcome.failures:
            await asyncio.sleep(0.01)

    assert host.plans[-1][1]


async def test_requests_during_a_pass_are_served_together_by_the_next(
    agent: NetworkAgent, bus: LocalBus, host: RememberingHost
) -> None:
    host.gate.clear()
    host.entered.clear()
    first = asyncio.create_task(_call(bus, "look_again"))
    assert await asyncio.to_thread(host.entered.wait, 5)
    more = [asyncio.create_task(_call(bus, "wire", port_id=PORT)) for _ in range(20)]
    async with asyncio.timeout(5):
        while len(agent._waiters) < 20:
            await asyncio.sleep(0.005)
    host.gate.set()

    await asyncio.gather(first, *more)

    assert len(host.plans) == 3


async def test_defect_of_a_pass_reaches_the_caller_and_the_loop_goes_on(
    agent: NetworkAgent, bus: LocalBus, host: RememberingHost
) -> None:
    host.defect = RuntimeError("bug")
    with pytest.raises((CommandFailed, InternalError)):
        await _call(bus, "look_again")
    host.defect = None

    assert (await _call(bus, "look_again"))["failures"] == {}
    assert host.plans[-1][1]


async def test_start_that_cannot_work_fails_and_lets_go(
    store: Store, bus: LocalBus, config: Config, host: RememberingHost
) -> None:
    host.defect = CommandFailed("no root")
    agent = NetworkAgent(store, bus, config, host)

    with pytest.raises(CommandFailed, match="no root"):
        await agent.start()

    assert host.closed


async def test_heartbeat_tells_that_the_host_lives_and_what_it_has(
    agent: NetworkAgent, store: Store, config: Config
) -> None:
    await store.write(
        lambda tx: tx.execute(update(schema.services).values(seen_at=schema.now() - timedelta(1))).rowcount
    )
    agent._config = replace(config, host=replace(config.host, heartbeat_interval_s=0.01))
    await agent._beat()

    row = await store.read(lambda tx: tx.execute(schema.services.select()).one())

    assert (row.kind, row.host) == ("network", HOST)
    assert row.progress["ports"] == 1
    assert schema.now() - row.seen_at < timedelta(minutes=1)


async def test_released_address_is_reusable_once_forgotten(
    agent: NetworkAgent, bus: LocalBus, store: Store, host: RememberingHost
) -> None:
    released = {
        "port_id": None,
        "released_at": schema.now(),
        "released_mac": "fa:16:3e:00:00:00",
        "released_host": HOST,
    }
    await store.write(
        lambda tx: (
            tx.execute(
                update(schema.addresses).where(schema.addresses.c.address == "10.0.0.3").values(**released)
            ).rowcount
        )
    )
    host.failures = {NETWORK: "not yet"}
    await _call(bus, "look_again")
    assert host.plans[-1][0].forget == (ReleasedRow(SUBNET, NETWORK, "10.0.0.3", "fa:16:3e:00:00:00", None),)
    assert "10.0.0.3" in await _addresses(store)

    host.failures = {}
    await _call(bus, "look_again")

    assert "10.0.0.3" not in await _addresses(store)


async def _addresses(store: Store) -> set[str]:
    return await store.read(lambda tx: {row.address for row in tx.execute(schema.addresses.select())})


async def test_metadata_is_the_instances_of_the_network_and_address_that_ask(agent: NetworkAgent, store: Store) -> None:
    found = await agent._metadata_answer(NETWORK, "10.0.0.3", "/openstack/latest/meta_data.json")

    assert found is not None
    assert INSTANCE.encode() in found[0]
    assert found[1] == "application/json"
    assert await agent._metadata_answer(NETWORK, "10.0.0.3", "/nothing/here") is None
    assert await agent._metadata_answer(NETWORK, "10.0.0.99", "/openstack/latest/meta_data.json") is None
    assert await agent._metadata_answer(EXTERNAL, "10.0.0.3", "/openstack/latest/meta_data.json") is None
    await store.write(lambda tx: tx.execute(schema.instances.delete()).rowcount)
    assert await agent._metadata_answer(NETWORK, "10.0.0.3", "/openstack/latest/meta_data.json") is None


async def test_address_that_another_host_holds_too_is_handed_on(store: Store) -> None:
    await store.write(write_rows)
    mine = {"port_id": None, "released_at": schema.now(), "released_host": HOST}
    await store.write(
        lambda tx: (
            tx.execute(update(schema.addresses).where(schema.addresses.c.address == "10.0.0.3").values(**mine)).rowcount
        )
    )

    row = ReleasedRow(SUBNET, NETWORK, "10.0.0.3", "", "elsewhere")
    await store.write(record, Results(forgotten=(row,)))

    found = await store.read(
        lambda tx: tx.execute(schema.addresses.select().where(schema.addresses.c.port_id.is_(None))).one()
    )
    assert found.released_host == "elsewhere"


async def test_released_pool_network_is_free_after_a_pass(agent: NetworkAgent, bus: LocalBus, store: Store) -> None:
    values = {"id": RANGE, "physical_network": "physnet1", "bridge": "br102", "cidr": "10.1.0.0/24", "position": 0}
    released = {"project_id": "p", "released_at": schema.now(), "released_host": HOST}
    await store.write(lambda tx: tx.execute(insert(schema.pool_networks).values(**values, **released)).rowcount)

    await _call(bus, "look_again")

    pool = await store.read(lambda tx: tx.execute(schema.pool_networks.select()).one())
    assert (pool.project_id, pool.released_at, pool.released_host) == (None, None, None)


async def test_pass_without_news_writes_nothing(
    agent: NetworkAgent, bus: LocalBus, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a write")

    monkeypatch.setattr(store, "write", refuse)

    assert (await _call(bus, "look_again"))["failures"] == {}


async def test_states_of_what_failed_are_not_said_to_be_active(
    store: Store, agent: NetworkAgent, bus: LocalBus, host: RememberingHost
) -> None:
    for port_id in (PORT, SERVICE, LEG):
        await _update(store, schema.ports, port_id, status="BUILD")
    host.failures = {PORT: "a", ROUTER: "b", NETWORK: "c"}

    await _call(bus, "look_again")

    assert await _status(store, schema.ports, PORT) == "BUILD"
    assert await _status(store, schema.ports, SERVICE) == "DOWN"
    assert await _status(store, schema.ports, LEG) == "DOWN"

    await _update(store, schema.ports, PORT, status="BUILD")
    host.failures = {"": "everything"}
    await _call(bus, "look_again")
    assert await _status(store, schema.ports, PORT) == "BUILD"


async def test_things_that_are_switched_off_are_down(store: Store, agent: NetworkAgent, bus: LocalBus) -> None:
    await _update(store, schema.ports, PORT, admin_state_up=False)
    await _update(store, schema.routers, ROUTER, admin_state_up=False)

    await _call(bus, "look_again")

    assert await _status(store, schema.ports, PORT) == "DOWN"
    assert await _status(store, schema.routers, ROUTER) == "DOWN"
    assert await _status(store, schema.floating_ips, FLOATING) == "DOWN"


def test_simulated_host_has_no_kernel(config: Config) -> None:
    host = make_host(config)

    assert isinstance(host, SimulatedHost)
    assert host.apply(HostPlan(), look=True) == Outcome()
    assert host.service_namespaces(HostPlan()) == {}
    assert host.has_device("tap1")


# ---------------------------------------------------------------------------------------------- the lease
class HoldingHost(RememberingHost):
    """Writes down what the kernel is told of the lease, and how many passes came before."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[tuple[bool, int]] = []

    def hold(self, seconds: float) -> None:
        self.held.append((seconds > 0, len(self.plans)))


def _quick(config: Config, **network: Any) -> Config:
    values = {"lease_s": 0.5, **network}
    host = replace(config.host, heartbeat_interval_s=0.05)
    return replace(config, host=host, network=replace(config.network, **values))


async def _service(store: Store, **values: Any) -> Any:
    if values:
        await store.write(lambda tx: tx.execute(update(schema.services).values(**values)).rowcount)
    return await store.read(lambda tx: tx.execute(schema.services.select()).one())


async def _until(condition: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what


async def test_a_second_agent_of_the_same_host_is_refused_while_the_first_lives(
    store: Store, bus: LocalBus, config: Config
) -> None:
    first = NetworkAgent(store, bus, _quick(config), HoldingHost())
    host = HoldingHost()
    await first.start()

    with pytest.raises(Conflict, match="Host host1 is served by another network agent"):
        await NetworkAgent(store, bus, _quick(config), host).start()

    await first.stop()
    assert (host.opened, host.plans, host.held) == (False, [], [])


async def test_an_agent_whose_lease_was_taken_touches_nothing_until_it_has_it_again(
    store: Store, bus: LocalBus, config: Config
) -> None:
    host = HoldingHost()
    agent = NetworkAgent(store, bus, _quick(config), host)
    await agent.start()
    owner = (await _service(store)).lease_owner
    await _service(store, lease_owner="elsewhere", lease_until=now() + timedelta(seconds=60))
    await _until(lambda: not host.held[-1][0], "cut off")
    passes = len(host.plans)

    with pytest.raises(Unavailable, match="has no lease"):
        await _call(bus, "look_again")
    assert len(host.plans) == passes

    await _service(store, lease_owner=None, lease_until=None)
    await _until(lambda: host.held[-1][0], "holds again")
    await agent.stop()

    assert (await _service(store)).lease_owner is None
    assert owner == agent._lease.owner
    assert host.plans[passes][1], "it compares with the kernel first"
    cut = host.held.index((False, passes))
    assert host.held[cut + 1] == (True, passes + 1), "and only then lets routers and services speak"


async def test_a_restart_does_not_interrupt_what_nobody_took_over(store: Store, bus: LocalBus, config: Config) -> None:
    first, host = NetworkAgent(store, bus, config, HoldingHost()), HoldingHost()
    await first.start()
    await first.stop()

    second = NetworkAgent(store, bus, config, host)
    await second.start()
    await second.stop()

    assert host.held[0] == (True, 0)


async def test_the_dead_mans_switch_is_armed_while_there_are_other_network_hosts(
    store: Store, bus: LocalBus, config: Config
) -> None:
    host = HoldingHost()
    agent = NetworkAgent(store, bus, _quick(config, lease_s=30.0), host)
    await agent.start()
    assert not host.plans[-1][0].guarded
    other = {"id": NETWORK, "kind": "network", "host": "host2", "lease_owner": "x", "lease_until": now()}
    await store.write(lambda tx: _insert(tx, schema.services, **other))

    await _until(lambda: host.plans[-1][0].guarded, "armed")
    await store.write(
        lambda tx: (
            tx.execute(
                update(schema.services).where(schema.services.c.host == "host2").values(lease_until=None)
            ).rowcount
        )
    )
    await _until(lambda: not host.plans[-1][0].guarded, "disarmed")
    await agent.stop()
