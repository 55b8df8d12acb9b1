"""For whatever plan follows whatever other: applied, the host is as planned, and applying it again does nothing."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kilonova.config import Config, HostConfig
from kilonova.network.fragments import Names, fragments
from kilonova.network.group_rules import GroupRule, compile_rules
from kilonova.network.host import namespaces
from kilonova.network.host.apply import KernelHost
from kilonova.network.host.inspect import relevant
from kilonova.network.host.removal import remove_everything
from kilonova.network.ipv6 import link_local
from kilonova.network.layout import Tunnel, VlanTag, difference, merge
from kilonova.network.plan import (
    AddressPair,
    BridgePlan,
    Filter,
    GroupPlan,
    HostEntry,
    HostPlan,
    InterfacePlan,
    Member,
    OutsidePlan,
    PortPlan,
    RouterPlan,
    ServicePlan,
    ServiceSubnet,
    StaticRoute,
    Uplink,
    tap_name,
)
from kilonova.network.tunnels import TunnelPlan
from kilonova.process import run

from .world import inspect_namespace

GROUPS = [f"{number:08x}-0000-4000-8000-00000000000a" for number in range(3)]


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    tmp_path.chmod(0o755)
    config = Config(state_dir=tmp_path, host=HostConfig(prefix="n" + secrets.token_hex(3)))
    yield config
    remove_everything(config)


@pytest.mark.parametrize("seed", range(6))
def test_applied_plan_is_what_is_found_and_a_second_time_does_nothing(config: Config, seed: int) -> None:
    dice = random.Random(seed)
    names = Names(config.host.prefix)
    host = KernelHost(config)
    host.open()
    namespaces.run_inside(names.switch, _administrator)
    try:
        for _ in range(5):
            plan = _plan(dice)
            assert host.apply(plan, look=dice.random() < 0.3).failures == {}

            _assert_as_planned(plan, names)
            assert host.apply(plan, look=False).changes == ()
            assert host.apply(plan, look=True).changes == ()
        assert host.apply(HostPlan(), look=False).failures == {}
        _assert_as_planned(HostPlan(), names)
        assert host.apply(HostPlan(), look=True).changes == ()
        assert inspect_namespace(names.switch).links.keys() == {"trunk0", "trunk1", "br4"}
    finally:
        host.close()


def test_another_agent_finds_everything_as_it_was_left(config: Config) -> None:
    plan = _plan(random.Random(99))
    first, second = KernelHost(config), KernelHost(config)
    first.open()
    namespaces.run_inside(Names(config.host.prefix).switch, _administrator)
    first.apply(plan, look=True)
    first.close()

    second.open()
    outcome = second.apply(plan, look=True)
    second.close()

    assert outcome.failures == {}
    assert outcome.changes == ()


def _administrator() -> None:
    """What is there and not the cloud's: the trunk's NIC, and the bridge of a flat network."""
    for words in ("add trunk0 type veth peer name trunk1", "add br4 type bridge"):
        run(["ip", "link", *words.split()])


def _assert_as_planned(plan: HostPlan, names: Names) -> None:
    parts: dict[str, list[object]] = {}
    for item in fragments(plan, names).values():
        parts.setdefault(item.namespace, []).append(item.layout)
    for name, layouts in parts.items():
        wanted = merge(layouts)  # type: ignore[arg-type]
        found = relevant(inspect_namespace(name), wanted, names.prefix)
        changes = difference(found, wanted)
        assert not changes, (name, changes)


def _id(kind: int, number: int) -> str:
    return f"{kind:02x}{number:06x}-0000-4000-8000-000000000000"


def _mac(kind: int, number: int) -> str:
    return f"fa:16:3e:{kind:02x}:00:{number:02x}"


def _plan(dice: random.Random) -> HostPlan:
    networks = dice.sample(range(1, 5), dice.randint(1, 4))
    mtus = {number: dice.choice([1400, 1450, 1500]) for number in networks}
    bridges = {f"br{number}": _bridge(number, mtus[number]) for number in networks}
    bridges["br-public"] = BridgePlan("br-public", _id(1, 99), 1500, 0)
    ports = [_port(dice, mtus, number) for number in dice.sample(range(3, 20), dice.randint(0, 8))]
    services = [_service(dice, number, mtus[number], ports) for number in networks if dice.random() < 0.6]
    routers = [_router(dice, number, mtus[number]) for number in networks if dice.random() < 0.5]
    return HostPlan(
        bridges=bridges,
        ports={port.port_id: port for port in ports},
        groups={group: _group(dice, group, networks) for group in GROUPS},
        services={service.network_id: service for service in services},
        routers={router.router_id: router for router in routers},
        uplinks=(Uplink("trunk0", address="192.0.2.1/24"),),
        tunnels={_id(1, 3): _tunnel(dice, mtus[3])} if 3 in networks else {},
        outside=OutsidePlan("br-public", "203.0.113.1/24", 1500) if dice.random() < 0.5 else None,
    )


def _bridge(number: int, mtu: int) -> BridgePlan:
    """The second network is a VLAN of the trunk, the fourth is on the administrator's bridge."""
    vlan = VlanTag("trunk0", 102) if number == 2 else None
    servers = (f"10.{number}.0.2",)
    return BridgePlan(f"br{number}", _id(1, number), mtu, number, vlan, servers, given=number == 4)


def _tunnel(dice: random.Random, mtu: int) -> TunnelPlan:
    addresses = dice.sample([f"192.0.2.{number}" for number in range(2, 6)], dice.randint(0, 4))
    remote = sorted((_mac(8, number), address) for number, address in enumerate(addresses) if dice.random() < 0.7)
    peers = sorted((f"host {address}", address) for address in addresses)
    tunnel = Tunnel(dice.choice([7, 8]), "192.0.2.1")
    return TunnelPlan(_id(1, 3), "br3", mtu, tunnel, tuple(peers), tuple(remote))


def _port(dice: random.Random, mtus: dict[int, int], number: int) -> PortPlan:
    network = dice.choice(list(mtus))
    mac, address = _mac(3, number), f"10.{network}.0.{number}"
    groups = tuple(sorted(dice.sample(GROUPS, dice.randint(0, 3))))
    port = PortPlan(
        port_id=_id(3, number),
        network_id=_id(1, network),
        device=tap_name(_id(3, number)),
        vif=("tap", "veth")[number % 2],
        bridge=f"br{network}",
        mac=mac,
        mtu=mtus[network],
        up=dice.random() < 0.8,
        secured=True,
        pairs=(AddressPair(mac, address), AddressPair(mac, link_local(mac))),
        filters=(Filter(address, groups), Filter(link_local(mac), groups)),
    )
    return port if dice.random() < 0.8 else replace(port, secured=False, pairs=(), filters=())


def _group(dice: random.Random, group: str, networks: list[int]) -> GroupPlan:
    possible = [
        GroupRule("ingress", "IPv4", "tcp", 22, 22),
        GroupRule("ingress", "IPv4", "udp", 1000, 2000, "10.0.0.0/8"),
        GroupRule("ingress", "IPv6", "icmp", 128),
        GroupRule("ingress", "IPv4", "icmp", 8, 0, None, dice.choice(GROUPS)),
        GroupRule("egress", "IPv4"),
        GroupRule("egress", "IPv6", "sctp", 5, 5, "2001:db8::/32"),
        GroupRule("egress", "IPv4", "112", None, None, None, dice.choice(GROUPS)),
    ]
    rules = dice.sample(possible, dice.randint(0, len(possible)))
    members = {Member(f"br{network}", f"10.{network}.0.{dice.randint(3, 9)}") for network in networks}
    members |= {Member(f"br{network}", link_local(_mac(3, 3))) for network in networks}
    return GroupPlan(group, compile_rules(rules, "ingress"), compile_rules(rules, "egress"), tuple(sorted(members)))


def _service(dice: random.Random, network: int, mtu: int, ports: list[PortPlan]) -> ServicePlan:
    base = f"10.{network}.0"
    gateway = f"{base}.1" if dice.random() < 0.8 else None
    subnet = ServiceSubnet(_id(2, network), f"{base}.0/24", f"{base}.2", gateway, (), (), dhcp=True)
    entries = tuple(
        HostEntry(port.port_id, port.mac, f"{base}.{number}", f"guest{number}")
        for number, port in enumerate(ports, 3)
        if port.network_id == _id(1, network)
    )
    return ServicePlan(_id(1, network), f"br{network}", _mac(5, network), mtu, "example.org", (subnet,), (), entries)


def _router(dice: random.Random, network: int, mtu: int) -> RouterPlan:
    leg = InterfacePlan(
        _id(6, network), _id(1, network), f"br{network}", _mac(6, network), mtu, (f"10.{network}.0.1/24",)
    )
    out = InterfacePlan(
        _id(7, network), _id(1, 99), "br-public", _mac(7, network), 1500, (f"203.0.113.{100 + network}/24",)
    )
    floating = [(f"203.0.113.{10 * network + number}", f"10.{network}.0.{number}") for number in range(3, 6)]
    external = dice.random() < 0.7
    return RouterPlan(
        router_id=_id(4, network),
        interfaces=(leg,),
        external=out if external else None,
        gateways=("203.0.113.1",) if external else (),
        floating=tuple(sorted(dice.sample(floating, dice.randint(0, 3)))) if external else (),
        inside=(f"10.{network}.0.0/24",),
        snat=dice.random() < 0.7,
        routes=(StaticRoute("172.16.0.0/16", f"10.{network}.0.7"),) if dice.random() < 0.5 else (),
    )
