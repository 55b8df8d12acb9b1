"""What is changed by hand is mended by the next look, said once, and nothing that is right is touched meanwhile."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from kilonova.network.host import namespaces
from kilonova.network.host.inspect import Survey, survey
from kilonova.network.host.processes import processes_in
from kilonova.network.layout import Layout
from kilonova.network.plan import tap_name

from .traffic import Pings, Stream
from .world import Guest, Network, World, pings, until


@dataclass
class Scene:
    """A network with two guests, one of them reached from outside."""

    world: World
    network: Network
    first: Guest
    second: Guest
    floating: str
    caplog: pytest.LogCaptureFixture

    @property
    def router(self) -> str:
        return f"{self.world.config.host.prefix}-r-{self.network.router_id[:11]}"

    @property
    def service(self) -> str:
        return f"{self.world.config.host.prefix}-s-{self.network.id[:11]}"

    @property
    def tap(self) -> str:
        return tap_name(self.first.port_id)

    @property
    def leg(self) -> str:
        """The router's device inside."""
        return next(name for name in survey(self.router).layout.links if name.startswith("int"))

    @property
    def uplink(self) -> str:
        """The switch's end of the router's inner leg."""
        return f"rtr{self.leg[3:]}"

    def state(self) -> dict[str, Survey]:
        found = {name: survey(name) for name in (self.world.switch, self.router, self.service)}
        # The kernel may list routes in another order than before.
        return {name: Survey(item.layout, tuple(sorted(item.routes))) for name, item in found.items()}

    async def mended(self) -> list[str]:
        """What a look at the host says it mended."""
        self.caplog.clear()
        await self.world.look_at_host()
        return [
            record.getMessage() for record in self.caplog.records if record.getMessage().startswith("drift mended: ")
        ]

    def run(self, namespace: str, command: str) -> None:
        self.world.inside(namespace, "sh", "-ec", command)


@pytest.fixture
async def scene(world: World, caplog: pytest.LogCaptureFixture) -> Scene:
    caplog.set_level(logging.WARNING)
    public = await world.public_network()
    network = await world.network(public=public)
    group = await world.default_group(network.project_id)
    await world.rule(group, protocol="icmp")
    await world.rule(group, protocol="tcp")
    first, second = await world.guest(network, 3, [group]), await world.guest(network, 4, [group])
    floating = await world.floating_ip(public, 50, first)
    await world.look()
    await world.look_at_host()
    return Scene(world, network, first, second, floating, caplog)


@contextmanager
def stream(scene: Scene) -> Iterator[None]:
    """From outside through the floating address to the first guest; whole at the end."""
    flow = Stream(scene.world.outside, scene.first.namespace, scene.floating)
    try:
        yield
        assert flow.whole() > 0
    finally:
        flow.close()


SWITCH: dict[str, Callable[[Scene], str]] = {
    "an element is removed": lambda scene: "nft flush set bridge kn_l2 mac_ok",
    "an element is added": lambda scene: "nft add element bridge kn_l2 trusted '{ \"tapstranger\" }'",
    "a verdict is changed": lambda scene: (
        f"nft delete element inet kn_sg ingress '{{ \"{scene.network.bridge}\" . {scene.second.address} }}';"
        f"nft add element inet kn_sg ingress '{{ \"{scene.network.bridge}\" . {scene.second.address} : accept }}'"
    ),
    "a chain is emptied": lambda scene: "nft flush chain inet kn_sg sg_ingress",
    "a rule is added": lambda scene: "nft insert rule inet kn_sg forwarded counter accept",
    "a chain is added": lambda scene: (
        "nft add chain inet kn_sg intruder '{ type filter hook forward priority 10; policy accept; }'"
    ),
    "a set is added": lambda scene: "nft add set bridge kn_l2 intruder '{ type ifname; }'",
    "a policy is changed": lambda scene: "nft add chain inet kn_sg forwarded '{ policy accept; }'",
    "a setting is changed": lambda scene: "echo 1 > /proc/sys/net/bridge/bridge-nf-call-arptables",
    "an address is added to a bridge": lambda scene: f"ip addr add 10.0.0.77/24 dev {scene.network.bridge}",
    "a guest's MTU is changed": lambda scene: f"ip link set {tap_name(scene.second.port_id)} mtu 1400",
    "a guest's port is down": lambda scene: f"ip link set {tap_name(scene.second.port_id)} down",
    "a guest's port is off its bridge": lambda scene: f"ip link set {tap_name(scene.second.port_id)} nomaster",
    "a guest's port is renamed": lambda scene: f"ip link set {tap_name(scene.second.port_id)} name stranger",
}
ROUTER: dict[str, Callable[[Scene], str]] = {
    "a default route is changed": lambda scene: "ip route replace default via 203.0.113.77 dev pub0",
    "a default route of another metric is added": lambda scene: (
        "ip route add default via 203.0.113.77 dev pub0 metric 5"
    ),
    "a route is added": lambda scene: "ip route add 192.0.2.0/24 via 203.0.113.77",
    "a route to a device is added": lambda scene: "ip route add 192.0.2.0/24 dev pub0",
    "a black hole is added": lambda scene: "ip route add blackhole 192.0.2.0/24",
    "a route in another table is added": lambda scene: "ip route add 192.0.2.0/24 dev pub0 table 77",
    "an IPv6 route is added": lambda scene: "ip -6 route add 2001:db8:77::/48 dev pub0",
    "an address is added": lambda scene: "ip addr add 203.0.113.78/32 dev pub0",
    "a NAT element is added": lambda scene: "nft add element ip kn_nat fip '{ 203.0.113.99 : 10.0.0.99 }'",
    "a rule of the router is added": lambda scene: "nft add rule inet kn_rt forwarded counter drop",
    "a router's policy is changed": lambda scene: "nft add chain inet kn_rt received '{ policy accept; }'",
    "an MTU is changed": lambda scene: f"ip link set {scene.leg} mtu 1450",
    "a redirect setting is changed": lambda scene: "echo 1 > /proc/sys/net/ipv4/conf/all/accept_redirects",
}
BREAKING: dict[str, tuple[str, Callable[[Scene], str]]] = {
    "forwarding is switched off": ("router", lambda scene: "echo 0 > /proc/sys/net/ipv4/ip_forward"),
    "the default route is removed": ("router", lambda scene: "ip route del default"),
    "a connected route is removed": ("router", lambda scene: f"ip route del {scene.network.cidr}"),
    "a floating address is removed": ("router", lambda scene: f"ip addr del {scene.floating}/32 dev pub0"),
    "a gateway address is removed": (
        "router",
        lambda scene: f"ip addr del {scene.network.address(1)}/24 dev {scene.leg}",
    ),
    "the inner leg is down": ("router", lambda scene: f"ip link set {scene.leg} down"),
    "the public leg is removed": ("router", lambda scene: "ip link del pub0"),
    "the router's tables are removed": ("router", lambda scene: "nft flush ruleset"),
    "the services' way out is removed": ("service", lambda scene: "ip route del default"),
    "the services' address is removed": (
        "service",
        lambda scene: f"ip addr del {scene.network.address(2)}/24 dev svc0",
    ),
    "the services' device is removed": ("service", lambda scene: "ip link del svc0"),
    "the filters are removed": ("switch", lambda scene: "nft flush ruleset"),
    "a guard is removed": ("switch", lambda scene: "nft delete table bridge kn_l2"),
    "the bridge is down": ("switch", lambda scene: f"ip link set {scene.network.bridge} down"),
    "the router's port is off its bridge": ("switch", lambda scene: f"ip link set {scene.uplink} nomaster"),
    "the router's port is removed": ("switch", lambda scene: f"ip link del {scene.uplink}"),
}


@pytest.mark.parametrize("what", SWITCH)
async def test_drift_in_the_switch_is_mended_under_an_established_flow(scene: Scene, what: str) -> None:
    before = scene.state()
    with stream(scene):
        scene.run(scene.world.switch, SWITCH[what](scene))
        mended = await scene.mended()
        assert len(mended) == 1, mended
        assert scene.state() == before
        assert await scene.mended() == []
    assert pings(scene.first.namespace, scene.second.address)


@pytest.mark.parametrize("what", ROUTER)
async def test_drift_in_a_router_is_mended_under_an_established_flow(scene: Scene, what: str) -> None:
    before = scene.state()
    with stream(scene):
        scene.run(scene.router, ROUTER[what](scene))
        mended = await scene.mended()
        assert len(mended) == 1, mended
        assert scene.state() == before
        assert await scene.mended() == []
    assert pings(scene.first.namespace, "203.0.113.1")


@pytest.mark.parametrize("what", BREAKING)
async def test_what_drift_has_broken_works_again(scene: Scene, what: str) -> None:
    where, command = BREAKING[what]
    before = scene.state()
    namespace = {"router": scene.router, "service": scene.service, "switch": scene.world.switch}[where]
    scene.run(namespace, command(scene))

    mended = await scene.mended()

    assert mended
    after = scene.state()
    for name in before:
        assert _comparable(after[name]) == _comparable(before[name])
    assert await scene.mended() == []
    until(lambda: pings(scene.world.outside, scene.floating), "answer from outside")
    until(lambda: pings(scene.second.namespace, "203.0.113.1"), "way out")
    assert await scene.world.dhcp(scene.second) == scene.second.address


async def test_a_killed_dnsmasq_and_its_edited_files_are_mended(scene: Scene) -> None:
    directory = scene.world.config.state_dir / "network" / scene.network.id
    os.kill(next(iter(processes_in(scene.service))), signal.SIGKILL)
    until(lambda: not list(processes_in(scene.service)), "end of dnsmasq")
    assert await scene.mended() == [f"drift mended: network {scene.network.id}: started dnsmasq"]

    (config,) = directory.glob("dnsmasq-*.conf")
    text = config.read_text()
    config.write_text(text + "dhcp-option=3,10.0.0.66\n")
    assert await scene.mended() == [f"drift mended: network {scene.network.id}: started dnsmasq"]
    assert config.read_text() == text

    host = next((directory / "hosts").iterdir())
    line = host.read_text()
    host.write_text(line.replace(scene.first.address, "10.0.0.99").replace(scene.second.address, "10.0.0.99"))
    (directory / "hosts" / "stranger").write_text("fa:16:3e:00:00:99,10.0.0.98,stranger\n")
    assert await scene.mended()
    assert host.read_text() == line
    assert not (directory / "hosts" / "stranger").exists()
    assert await scene.mended() == []
    assert await scene.world.dhcp(scene.first) == scene.first.address


async def test_links_and_routes_of_the_administrator_stay(scene: Scene) -> None:
    """In the switch namespace there may be NICs, and what an underlay needs, that this cloud did not make."""
    world = scene.world
    for command in (
        "ip link add foreign0 type veth peer name foreign1",
        "ip addr add 198.51.100.2/24 dev foreign0",
        "ip link set foreign0 up",
        "ip link set foreign1 up",
        "ip route add 192.0.2.0/24 via 198.51.100.1",
        "ip route add 192.0.3.0/24 dev foreign0",
        "nft add table inet administrator",
    ):
        scene.run(world.switch, command)
    before = world.inside(world.switch, "ip", "-br", "addr", "show", "foreign0")
    routes = world.inside(world.switch, "ip", "route")

    assert await scene.mended() == []
    await world.restart_agent()

    assert world.inside(world.switch, "ip", "-br", "addr", "show", "foreign0") == before
    assert world.inside(world.switch, "ip", "route") == routes
    assert "administrator" in world.inside(world.switch, "nft", "list", "tables")


async def test_routes_that_people_add_outside_are_theirs(scene: Scene) -> None:
    """A sandbox's outside stands for the internet: who looks from there sets up what he likes."""
    world = scene.world
    scene.run(world.outside, "ip route add 10.0.0.0/8 via 203.0.113.2")
    routes = world.inside(world.outside, "ip", "route")

    assert await scene.mended() == []

    assert world.inside(world.outside, "ip", "route") == routes
    scene.run(world.outside, "ip route del 10.0.0.0/8")


@pytest.mark.parametrize("agent", ["runs", "is down"])
async def test_an_emptied_kernel_is_rebuilt_with_200_ports(world: World, agent: str) -> None:
    public = await world.public_network()
    networks = [await world.network(f"10.{number}.0.0/24", public=public) for number in range(4)]
    groups = [await world.default_group(network.project_id) for network in networks]
    for group in groups:
        await world.rule(group, protocol="icmp")
    guests = [
        await world.port(network, offset, [group])
        for network, group in zip(networks, groups, strict=True)
        for offset in range(10, 60)
    ]
    await world.look()
    floating = await world.floating_ip(public, 250, guests[0])
    await world.look()
    prefix = world.config.host.prefix
    before = {name: survey(name).layout for name in namespaces.names(prefix)}
    assert sum(name.startswith("tap") for name in before[world.switch].links) == 200

    if agent == "is down":
        await world.agent.stop()
    for name in namespaces.names(prefix):
        _empty(world, name)
        namespaces.delete(name)
    if agent == "is down":
        await world.restart_agent()
    else:
        await world.look_at_host()

    after = {name: survey(name).layout for name in namespaces.names(prefix)}
    assert after.keys() == before.keys()
    for name, layout in before.items():
        assert _without_chosen_macs(after[name]) == _without_chosen_macs(layout), name
    for guest in (guests[0], guests[1], guests[199]):
        world.plug(guest)
        assert await world.dhcp(guest) == guest.address
    assert pings(guests[0].namespace, guests[1].address)
    assert pings(world.outside, floating)
    assert not pings(guests[0].namespace, guests[199].address), "another project's"


async def test_a_restart_under_traffic_loses_no_packet_and_no_byte(scene: Scene) -> None:
    world = scene.world
    dnsmasq = list(processes_in(scene.service))
    third = await world.guest(scene.network, 5)
    inside = Pings(scene.second.namespace, scene.first.address)
    outside = Pings(scene.world.outside, scene.floating)
    try:
        with stream(scene):
            for _ in range(3):
                await world.restart_agent()
                await world.look_at_host()
            assert inside.going_on
            assert outside.going_on
            assert await world.dhcp(third) == third.address
        assert (inside.lost(), outside.lost()) == (0, 0)
    finally:
        inside.close()
        outside.close()
    assert list(processes_in(scene.service)) == dnsmasq


def _empty(world: World, name: str) -> None:
    """Everything in a namespace is deleted by hand; dnsmasq is killed."""
    for process in processes_in(name):
        if Path(f"/proc/{process}/comm").read_text().strip() == "dnsmasq":
            os.kill(process, signal.SIGKILL)
    world.inside(name, "nft", "flush", "ruleset")
    links = world.inside(name, "ip", "-o", "link").splitlines()
    for line in links:
        device = line.split(":")[1].strip().partition("@")[0]
        if device != "lo":
            world.inside(name, "ip", "link", "del", device, check=False)


def _comparable(found: Survey) -> object:
    return _without_chosen_macs(found.layout), [str(record) for record in found.routes]


def _without_chosen_macs(layout: Layout) -> Layout:
    """MACs that no plan says are the kernel's to choose, anew for a new device."""
    links = {
        name: replace(
            link, mac="" if name.startswith(("tap", "rtr", "svc", "gst", "br", "outside", "eth")) else link.mac
        )
        for name, link in layout.links.items()
    }
    return replace(layout, links=links)
