"""`explain` over several hosts: it names the wire that is broken, on whichever host."""

from __future__ import annotations

from typing import Any

import pytest

from kilonova.cloud.controller import Cloud
from kilonova.cloud.explain import explain
from kilonova.cloud.explain.question import Question
from kilonova.context import system_context
from kilonova.store import schema

from .explaining import words
from .fabric import TRUNK, UNDERLAY, Fabric, columns
from .world import Guest, World, pings


async def ask(world: World, source: str, destination: str) -> dict[str, Any]:
    cloud = Cloud(world.store, world.bus, world.config)
    return await explain(cloud, system_context(), Question(source, destination))


async def guests_on_two_hosts(fabric: Fabric, kind: str) -> tuple[Guest, Guest, str]:
    """The network's router and services are on a third host."""
    first, second, third = fabric.hosts
    public = await first.public_network()
    network = await first.network(public=public, **columns(fabric, kind))
    group = await first.default_group(network.project_id)
    await first.rule(group, protocol="icmp")
    made: list[Guest] = []
    for host, offset in ((second, 3), (third, 4)):
        guest = await host.port(network, offset, [group])
        await host.wire(guest)
        await first.update(schema.instances, guest.instance_id, vm_state="active", power_state=1)
        made.append(guest)
    await fabric.look()
    for guest, host in zip(made, (second, third), strict=True):
        assert await host.dhcp(guest) == guest.address
    floating = await first.floating_ip(public, 50, made[0])
    await fabric.look()
    return made[0], made[1], floating


@pytest.mark.parametrize("kind", ["vlan", "vxlan", "flat-dhcp"])
async def test_a_broken_wire_is_named_with_its_host(fabric: Fabric, kind: str) -> None:
    one, other, floating = await guests_on_two_hosts(fabric, kind)
    _, second, third = fabric.hosts
    assert pings(one.namespace, other.address)
    found = await ask(second, one.instance_id, other.instance_id)
    assert found["verdict"] == "arrives", words(found)
    assert [hop["where"].split(":")[0] for hop in found["hops"] if hop["name"] == "wire"] == ["host2", "host3"]
    assert pings(fabric.outside, floating)
    found = await ask(second, "outside", floating)
    assert found["verdict"] == "arrives", words(found)

    for host, name in ((second, "host2"), (third, "host3")):
        device = {"vlan": f"{TRUNK}.{await segment(host, one)}", "flat-dhcp": "flat0"}.get(kind)
        device = device or f"vx{await segment(host, one)}"
        host.inside(host.switch, "ip", "link", "set", device, "nomaster" if kind == "flat-dhcp" else "down")
        assert not pings(one.namespace, other.address)
        found = await ask(second, one.instance_id, other.instance_id)
        assert (found["verdict"], found["hop"]) == ("dropped", "wire"), words(found)
        assert name in found["conclusion"]
        if kind == "flat-dhcp":
            host.inside(host.switch, "ip", "link", "set", device, "master", one.network.bridge)
        await host.look_at_host()


async def segment(world: World, guest: Guest) -> int:
    row = await world.row(schema.networks, guest.network.id)
    return int(row["segmentation_id"] or 0)


async def test_a_lost_forwarding_entry_and_a_dead_underlay(fabric: Fabric) -> None:
    one, other, _ = await guests_on_two_hosts(fabric, "vxlan")
    _, second, third = fabric.hosts
    device = f"vx{await segment(second, one)}"
    entry = next(
        line
        for line in second.inside(second.switch, "bridge", "fdb", "show", "dev", device).splitlines()
        if line.startswith(f"{other.mac} dst")
    )
    destination = entry.split("dst ")[1].split()[0]
    second.inside(second.switch, "bridge", "fdb", "del", other.mac, "dev", device, "dst", destination)
    found = await ask(second, one.instance_id, other.instance_id)
    assert (found["verdict"], found["hop"]) == ("dropped", "wire"), words(found)
    assert other.mac in found["conclusion"]
    await second.look_at_host()

    second.inside(fabric.rack, "ip", "link", "set", f"{UNDERLAY}-{third.config.host.prefix[-1]}", "down")
    found = await ask(second, one.instance_id, other.instance_id)
    assert (found["verdict"], found["hop"]) == ("dropped", "wire"), words(found)
    assert f"{UNDERLAY} has no carrier" in found["conclusion"]
    assert "host3" in found["conclusion"]


async def test_a_dead_agent_on_the_way_is_named_and_what_is_known_is_told(fabric: Fabric) -> None:
    one, other, floating = await guests_on_two_hosts(fabric, "vlan")
    first, second, _ = fabric.hosts
    await first.agent.stop()
    try:
        found = await ask(second, one.instance_id, other.instance_id)
        assert all(hop["verdict"] == "ok" for hop in found["hops"] if hop["where"].startswith(("host2", "host3"))), (
            words(found)
        )
        found = await ask(second, "outside", floating)
        assert found["verdict"] == "unknown", words(found)
        assert "the network agent of host1 does not answer" in found["conclusion"]
        assert all(hop["verdict"] == "ok" for hop in found["hops"] if hop["where"].startswith("host2")), words(found)
    finally:
        await first.restart_agent()
