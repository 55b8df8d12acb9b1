"""IPv6 hops broken in turn, on a real kernel: `explain` names each, and the packet tried beside it agrees."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import pytest

from .explaining import Scene, make_scene, tap, words
from .sixth import addresses6, default_routes6, give, subnet6
from .world import Guest, World, eventually, pings

NEAR, FAR = "fd00:1::/64", "fd00:2::/64"
WITHIN_S = 30.0


@dataclass
class Sixth:
    """The scene, its guests with IPv6 addresses that they made of their MACs."""

    scene: Scene
    rule: str
    web: str
    client: str
    far: str


@pytest.fixture
async def sixth(world: World) -> Sixth:
    scene = await make_scene(world)
    rule = await world.rule(scene.group, ethertype="IPv6", protocol="ipv6-icmp")
    router_id, other = scene.network.router_id, scene.far.network
    near = await subnet6(world, scene.network, NEAR, "slaac", router_id=router_id)
    beyond = await subnet6(world, other, FAR, "slaac", router_id=router_id)
    given = [
        (guest, await give(world, guest, subnet))
        for guest, subnet in ((scene.web, near), (scene.client, near), (scene.far, beyond))
    ]
    await world.look()
    for guest, address in given:
        await _addressed(guest, address)
    return Sixth(scene, rule, *(address for _, address in given))


async def test_what_works_over_ipv6_should_arrive(sixth: Sixth) -> None:
    scene = sixth.scene
    for source, address in ((scene.client, sixth.web), (scene.web, sixth.client)):
        assert pings(source.namespace, address)
        await scene.arrives(source, address)
    for source, address in ((scene.client, sixth.far), (scene.far, sixth.client)):
        await eventually(partial(pings, source.namespace, address), WITHIN_S)
        found = await scene.arrives(source, address)
        assert "route" in [hop["name"] for hop in found["hops"]], words(found)
    # Nobody heard of it: then who makes its address of the prefix is not said to have failed to ask for a lease.
    for namespace in (scene.router_namespace, f"{scene.world.config.host.prefix}-s-{scene.network.id[:11]}"):
        scene.world.inside(namespace, "ip", "-6", "neigh", "flush", "all")
    found = await scene.arrives(scene.client, sixth.web)
    told = [hop for hop in found["hops"] if hop["name"].endswith(" address")]
    assert {hop["intent"].partition(") ")[2] for hop in told} == {"by SLAAC"}, words(found)
    assert not [hop for hop in told if "lease" in hop["why"]], words(found)


async def test_groups_of_ipv6(sixth: Sixth) -> None:
    scene = sixth.scene
    chain = f"g_{scene.group.replace('-', '')}_in"
    await scene.world.regroup(scene.client, [await scene.world.group(scene.network.project_id)])
    await scene.world.look()
    assert pings(scene.client.namespace, sixth.web)
    await scene.arrives(scene.client, sixth.web)

    scene.switch("nft", "flush", "chain", "inet", "kn_sg", chain)
    assert not pings(scene.client.namespace, sixth.web)
    await scene.dropped("ingress group", chain, scene.client, sixth.web)
    await _mend(sixth)

    scene.nft("delete", f'inet kn_sg ingress6 {{ "{scene.network.bridge}" . {sixth.web} }}')
    await scene.dropped("ingress group", "kn_sg ingress6", scene.client, sixth.web)
    await _mend(sixth)

    await scene.world.remove_rule(sixth.rule)
    await scene.world.look()
    assert not pings(scene.client.namespace, sixth.web)
    found = await scene.dropped("ingress group", "no rule of its groups", scene.client, sixth.web)
    assert "--ethertype IPv6" in found["command"], words(found)


async def test_filters_devices_and_routers_of_ipv6(sixth: Sixth) -> None:
    scene, client, web = sixth.scene, sixth.scene.client, sixth.scene.web
    await scene.dropped("anti-spoofing", "fd00:1::9", client, sixth.web, source_address="fd00:1::9")
    scene.nft("delete", f'bridge kn_l2 ip6_ok {{ "{tap(client)}" . {client.mac} . {sixth.client} }}')
    assert not pings(client.namespace, sixth.web)
    await scene.dropped("anti-spoofing", "kn_l2 ip6_ok", client, sixth.web)
    await _mend(sixth)

    scene.nft("delete", f'bridge kn_l2 dst6_ok {{ "{tap(web)}" . {sixth.web} }}')
    assert not pings(client.namespace, sixth.web)
    await scene.dropped("destination device", "kn_l2 dst6_ok", client, sixth.web)
    await _mend(sixth)

    scene.switch("ip", "link", "set", tap(client), "down")
    assert not pings(client.namespace, sixth.web)
    await scene.dropped("source device", f"link {tap(client)}", client, sixth.web)
    await _mend(sixth)

    scene.router("sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=0")
    assert not pings(scene.client.namespace, sixth.far)
    await scene.dropped("router", "net.ipv6.conf.all.forwarding", scene.client, sixth.far)
    await scene.world.look_at_host()
    await eventually(lambda: pings(scene.client.namespace, sixth.far), WITHIN_S)
    await scene.arrives(scene.client, sixth.far)

    scene.router("ip", "-6", "route", "add", "blackhole", f"{sixth.far}/128")
    assert not pings(scene.client.namespace, sixth.far)
    await scene.dropped("route", f"no route to {sixth.far}", scene.client, sixth.far)


async def test_a_guest_that_never_asked_for_its_ipv6_address(world: World) -> None:
    """With DHCPv6 the server would know; nothing is said of a lease where there is none to have."""
    scene = await make_scene(world)
    subnet = await subnet6(world, scene.network, NEAR, "dhcpv6-stateful", router_id=scene.network.router_id)
    await world.rule(scene.group, ethertype="IPv6", protocol="ipv6-icmp")
    await give(world, scene.web, subnet, "fd00:1::77")
    await give(world, scene.client, subnet, "fd00:1::78")
    await world.look()
    found = await scene.ask(scene.client, "fd00:1::77")
    assert any("no lease of fd00:1::77" in hop["why"] for hop in found["hops"]), words(found)
    assert found["verdict"] != "dropped", words(found)


async def _addressed(guest: Guest, address: str) -> None:
    await eventually(lambda: address in addresses6(guest) and default_routes6(guest) != set(), WITHIN_S)


async def _mend(sixth: Sixth) -> None:
    await sixth.scene.world.look_at_host()
    await eventually(lambda: pings(sixth.scene.client.namespace, sixth.web), WITHIN_S)
    await sixth.scene.arrives(sixth.scene.client, sixth.web)
