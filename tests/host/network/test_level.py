"""Level-triggered: a restart changes nothing that is right, drift is mended, one failure stays one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kilonova.errors import CommandFailed
from kilonova.network.host import namespaces
from kilonova.network.host.processes import processes_in
from kilonova.network.host.vlans import kernel_has_8021q
from kilonova.network.plan import tap_name
from kilonova.store import schema

from .world import World, inspect_namespace, pings, until


async def test_restart_of_the_agent_restarts_nothing_and_drops_no_packet(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    group = await world.default_group(network.project_id)
    first, second = await world.guest(network, 3, [group]), await world.guest(network, 4, [group])
    await world.rule(group, protocol="icmp")
    floating = await world.floating_ip(public, 50, first)
    await world.look()
    assert pings(world.outside, floating)
    assert pings(first.namespace, second.address)
    service = f"{world.config.host.prefix}-s-{network.id[:11]}"
    before = {name: inspect_namespace(name) for name in (world.switch, service)}
    dnsmasq = list(processes_in(service))
    ping = world.background(world.outside, "ping", "-q", "-i", "0.01", "-W", "1", floating)

    await world.restart_agent()
    await world.look()

    assert {name: inspect_namespace(name) for name in (world.switch, service)} == before
    assert list(processes_in(service)) == dnsmasq
    assert world.agent._last is not None
    assert world.agent._last.outcome.changes == ()
    ping.send_signal(2)
    assert ping.wait(5) == 0


async def test_drift_is_mended(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    group = await world.default_group(network.project_id)
    await world.rule(group, protocol="icmp")
    first, second = await world.guest(network, 3, [group]), await world.guest(network, 4, [group])
    floating = await world.floating_ip(public, 50, first)
    await world.look()
    router = f"{world.config.host.prefix}-r-{network.router_id[:11]}"
    world.inside(world.switch, "nft", "flush", "set", "bridge", "kn_l2", "mac_ok")
    world.inside(world.switch, "nft", "flush", "chain", "inet", "kn_sg", "sg_ingress")
    world.inside(world.switch, "ip", "link", "set", tap_name(second.port_id), "nomaster")
    world.inside(world.switch, "nft", "add", "element", "bridge", "kn_l2", "trusted", '{ "tapstranger" }')
    world.inside(router, "ip", "addr", "del", f"{floating}/32", "dev", "pub0")
    world.inside(router, "ip", "route", "del", "default")
    world.inside(router, "nft", "flush", "map", "ip", "kn_nat", "fip")
    world.inside(world.switch, "ip", "link", "del", f"svc{network.id[:11]}")
    assert not pings(first.namespace, second.address)

    await world.restart_agent()

    until(lambda: pings(first.namespace, second.address), "answer")
    assert pings(world.outside, floating)
    assert await world.dhcp(second) == second.address
    assert "tapstranger" not in str(inspect_namespace(world.switch).elements)


async def test_everything_deleted_by_hand_comes_back(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    group = await world.default_group(network.project_id)
    guest = await world.port(network, 3, [group])
    await world.wire(guest)
    for name in namespaces.names(world.config.host.prefix):
        namespaces.delete(name)

    await world.look_at_host()

    namespaces.create(guest.namespace, lambda: None)
    world.plug(guest)
    assert await world.dhcp(guest) == guest.address


async def test_names_that_a_crash_left_without_a_namespace_are_no_hindrance(world: World) -> None:
    """A kill between the making of the name and the mount on it."""
    network = await world.network(public=await world.public_network())
    group = await world.default_group(network.project_id)
    prefix = world.config.host.prefix
    for name in (f"{prefix}-s-{network.id[:11]}", f"{prefix}-r-{network.router_id[:11]}", f"{prefix}-r-stranger"):
        namespaces.path(name).touch(mode=0)

    guest = await world.guest(network, 3, [group])

    assert await world.dhcp(guest) == guest.address
    await world.look_at_host()
    assert f"{prefix}-r-stranger" not in namespaces.names(prefix)


async def test_lost_device_is_made_anew_by_wire(world: World) -> None:
    network = await world.network()
    guest = await world.port(network, 3, vif="tap")
    answer = await world.call("wire", port_id=guest.port_id)
    world.inside(world.switch, "ip", "link", "del", answer["device"])

    await world.call("wire", port_id=guest.port_id)

    assert answer["device"] in inspect_namespace(world.switch).links


async def test_failure_of_one_network_is_its_own(world: World) -> None:
    broken, sound = await world.network(), await world.network()
    await world.update(schema.networks, broken.id, bridge="a-name-too-long")
    await world.update(schema.networks, broken.id, bridge="bad name/")

    with pytest.raises(CommandFailed, match="bad name"):
        await world.call("realise", network_id=broken.id)
    await world.call("realise", network_id=sound.id)
    guest = await world.port(sound, 3)
    await world.wire(guest)

    assert await world.dhcp(guest) == guest.address
    await world.update(schema.networks, broken.id, bridge=broken.bridge)
    await world.call("realise", network_id=broken.id)


async def test_refused_group_rule_leaves_the_other_groups_working(world: World) -> None:
    network = await world.network()
    group = await world.default_group(network.project_id)
    first, second = await world.guest(network, 3, [group]), await world.guest(network, 4, [group])
    bad = await world.group(
        network.project_id,
        [
            {
                "direction": "ingress",
                "ethertype": "IPv4",
                "protocol": "tcp",
                "port_range_min": 99999,
                "port_range_max": 99999,
            }
        ],
    )
    await world.port(network, 5, [bad])

    answer = await world.call("look_again")

    assert answer["failures"].keys() == {bad}
    assert pings(first.namespace, second.address)


async def test_uplink_of_the_public_bridge_carries_floating_addresses(world: World) -> None:
    public = await world.public_network()
    world.inside(world.switch, "ip", "link", "add", "nic0", "type", "veth", "peer", "name", "nic1")
    await world.restart_agent(replace(world.config, host=replace(world.config.host, public_interface="nic0")))
    network = await world.network(public=public)
    group = await world.group(network.project_id)
    await world.rule(group, protocol="icmp")
    guest = await world.guest(network, 3, [group])
    floating = await world.floating_ip(public, 50, guest)
    await world.look()
    upstream = f"{world.config.host.prefix}-g-upstream"
    world.guests.append(upstream)
    namespaces.create(upstream, lambda: None)
    world.inside(world.switch, "ip", "link", "set", "nic1", "netns", upstream)
    world.inside(upstream, "ip", "link", "set", "nic1", "up")
    world.inside(upstream, "ip", "addr", "add", "203.0.113.9/24", "dev", "nic1")

    assert pings(upstream, floating)


async def test_missing_uplink_is_named_and_breaks_nothing_else(world: World) -> None:
    await world.restart_agent(replace(world.config, host=replace(world.config.host, public_interface="nosuchnic")))
    network = await world.network()
    guest = await world.port(network, 3)

    answer = await world.call("look_again")

    assert answer["failures"].keys() == {"nosuchnic"}
    await world.wire(guest)
    assert await world.dhcp(guest) == guest.address


async def test_vlan_device_of_a_backend_that_the_kernel_lacks_is_a_clear_error(world: World) -> None:
    if kernel_has_8021q():
        pytest.skip("this kernel has 8021q")
    network = await world.network()
    world.inside(world.switch, "ip", "link", "add", "trunk0", "type", "veth", "peer", "name", "trunk1")
    world.configure(trunks={"physnet1": "trunk0"}, vlan_backend="8021q")
    await world.restart_agent()

    with pytest.raises(CommandFailed, match=r"802\.1Q"):
        await world.call("realise", network_id=network.id)


async def test_trunk_that_is_too_small_for_a_network_is_a_clear_error(world: World) -> None:
    network = await world.network()
    words = "add trunk0 mtu 1400 type veth peer name trunk1"
    world.inside(world.switch, "ip", "link", *words.split())
    world.configure(trunks={"physnet1": "trunk0"})
    await world.restart_agent()

    with pytest.raises(CommandFailed, match="trunk0, whose MTU is 1400"):
        await world.call("realise", network_id=network.id)
