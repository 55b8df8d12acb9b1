"""Breaks each hop of a packet's way in turn, on a real kernel: `explain` names it every time.

Whether the packet really arrives is tried with the real thing beside it, so that an explanation that is wrong fails.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from kilonova.errors import Conflict, NotFound
from kilonova.network.host import namespaces
from kilonova.network.vpn_plan import device_name
from kilonova.store import schema

from .explaining import Scene, make_scene, tap, words
from .vpn_world import client, connect, disconnect_all, vpn
from .world import World, connects, pings


@pytest.fixture
async def scene(world: World) -> Scene:
    return await make_scene(world)


async def test_what_works_should_arrive(scene: Scene) -> None:
    world, web, client, far = scene.world, scene.web, scene.client, scene.far
    for source, destination, address in (
        (client, web, web.address),
        (client, far, far.address),
        (client, scene.floating, scene.floating),
        (web, scene.floating, scene.floating),
    ):
        assert pings(source.namespace, address)
        await scene.arrives(source, destination)
    assert pings(world.outside, scene.floating)
    await scene.arrives("outside", web)
    await scene.arrives("outside", scene.floating, "80/tcp")
    for guest in (web, client):
        assert pings(guest.namespace, "203.0.113.1")
        await scene.arrives(guest, "outside")
        await scene.arrives(guest, "198.51.100.7", "443/tcp")
    found = await scene.arrives(client, web, "80/tcp")
    assert [hop["verdict"] for hop in found["hops"] if hop["name"] == "listener"] == ["unknown"]
    await scene.arrives(client, "10.0.0.2", "53/udp")
    await scene.arrives(client, "169.254.169.254", "80/tcp")
    await scene.arrives(client, "10.0.1.1")
    await scene.dropped("router", "nothing but ICMP", client, "10.0.1.1", "22/tcp")


async def test_groups(scene: Scene) -> None:
    world, web, client = scene.world, scene.web, scene.client
    found = await scene.dropped("ingress group", "allows 22/tcp from 203.0.113.1", "outside", web, "22/tcp")
    assert (
        found["command"] == f"openstack security group rule create --ingress --protocol tcp --dst-port 22 {scene.group}"
    )
    await scene.dropped("ingress group", "80/udp", "outside", web, "80/udp")

    await world.remove_rule(scene.tcp_rule)
    await world.look()
    await scene.dropped("ingress group", "allows 80/tcp", "outside", web, "80/tcp")
    await scene.arrives(client, web, "80/tcp")

    guarded = await world.group(scene.network.project_id, egress=False)
    await world.store.write(
        lambda tx: (
            tx.execute(
                schema.port_security_groups.delete().where(schema.port_security_groups.c.port_id == client.port_id)
            ).rowcount
        )
    )
    await scene.dropped("egress group", "no security group", client, web)
    await world.store.write(
        lambda tx: (
            tx.execute(
                schema.port_security_groups.insert().values(port_id=client.port_id, security_group_id=guarded)
            ).rowcount
        )
    )
    await world.look()
    assert not pings(client.namespace, web.address)
    found = await scene.dropped("egress group", "allows icmp to 10.0.0.3", client, web)
    assert "--egress --protocol icmp --remote-ip 10.0.0.3/32" in found["command"]


async def test_rules_and_elements_of_groups_that_were_removed_by_hand(scene: Scene) -> None:
    web, client, bridge = scene.web, scene.client, scene.network.bridge
    chain = f"g_{scene.group.replace('-', '')}"
    ping = ("outside", web, "icmp")

    scene.switch("nft", "flush", "chain", "inet", "kn_sg", f"{chain}_in")
    assert not pings(scene.world.outside, scene.floating)
    await scene.dropped("ingress group", f"kn_sg {chain}_in", *ping)
    await scene.mend()

    scene.switch("nft", "flush", "chain", "inet", "kn_sg", f"{chain}_out")
    assert not pings(client.namespace, web.address)
    await scene.dropped("egress group", f"{chain}_out", client, web)
    await scene.mend()

    members = f'inet kn_sg {chain}_m4 {{ "{bridge}" . {client.address} }}'
    scene.nft("delete", members)
    await scene.dropped("ingress group", f"{chain}_m4", client, web, "22/tcp")
    await scene.mend()

    scene.nft("delete", f'inet kn_sg egress {{ "{bridge}" . {client.address} }}')
    await scene.dropped("egress group", "kn_sg egress", client, web)
    await scene.mend()

    scene.nft("delete", f'inet kn_sg ingress {{ "{bridge}" . {web.address} }}')
    await scene.dropped("ingress group", "kn_sg ingress", client, web)
    await scene.mend()

    scene.switch("nft", "insert", "rule", "inet", "kn_sg", "forwarded", "ip", "saddr", client.address, "drop")
    assert not pings(client.namespace, web.address)
    found = await scene.ask(client, web)
    assert (found["verdict"], found["hop"]) == ("unknown", "egress group"), words(found)
    assert "planned by nobody" in found["conclusion"]
    await scene.mend()

    scene.switch("nft", "add", "table", "inet", "firewalld")
    found = await scene.ask(client, web)
    assert (found["verdict"], found["hop"]) == ("unknown", "other filters"), words(found)
    assert "firewalld" in found["conclusion"]


async def test_filters_against_spoofing(scene: Scene) -> None:
    web, client = scene.web, scene.client
    found = await scene.dropped("anti-spoofing", "10.0.0.9", client, web, source_address="10.0.0.9")
    assert found["command"] == f"openstack port set --allowed-address ip-address=10.0.0.9 {client.port_id}"
    for name in ("ip_ok", "arp_ok"):
        scene.nft("delete", f'bridge kn_l2 {name} {{ "{tap(client)}" . {client.mac} . {client.address} }}')
        await scene.dropped("anti-spoofing", f"kn_l2 {name}", client, web)
        await scene.mend()
    scene.nft("delete", f'bridge kn_l2 mac_ok {{ "{tap(client)}" . {client.mac} }}')
    await scene.dropped("anti-spoofing", "kn_l2 mac_ok", client, web)
    await scene.mend()
    scene.nft("delete", f'bridge kn_l2 ip_ok {{ "{tap(web)}" . {web.mac} . {web.address} }}')
    assert not pings(client.namespace, web.address)
    found = await scene.dropped("anti-spoofing", "the answer to it", client, web)
    await scene.mend()
    scene.nft("delete", f'bridge kn_l2 dst_ok {{ "{tap(web)}" . {web.address} }}')
    assert not pings(client.namespace, web.address)
    await scene.dropped("destination device", "kn_l2 dst_ok", client, web)
    await scene.mend()
    scene.nft("delete", f'bridge kn_l2 dst_ok {{ "{tap(client)}" . {client.address} }}')
    assert not pings(client.namespace, web.address)
    await scene.dropped("destination device", "the answer to it", client, web)


async def test_devices(scene: Scene) -> None:
    world, web, client, bridge = scene.world, scene.web, scene.client, scene.network.bridge
    scene.switch("ip", "link", "set", tap(client), "down")
    found = await scene.dropped("source device", f"link {tap(client)} in {world.switch} is down, not up", client, web)
    assert found["command"] == "kilonova doctor --mend"
    await scene.mend()
    scene.switch("ip", "link", "set", tap(web), "nomaster")
    await scene.dropped("destination device", "on no bridge", client, web)
    await scene.mend()
    scene.switch("ip", "link", "set", bridge, "down")
    await scene.dropped("bridge", f"link {bridge}", client, web)
    await scene.mend()
    web.run("ip", "link", "set", "eth0", "down")
    await scene.dropped("destination device", "the guest's device is down", client, web)
    web.run("ip", "link", "set", "eth0", "up")
    scene.switch("ip", "link", "delete", tap(client))
    await scene.dropped("source device", "missing", client, web)


async def test_ports_and_guests(scene: Scene) -> None:
    world, web, client = scene.world, scene.web, scene.client
    await world.update(schema.ports, client.port_id, admin_state_up=False)
    await world.look()
    assert not pings(client.namespace, web.address)
    found = await scene.dropped("source port", "set down", client, web)
    assert found["command"] == f"openstack port set --enable {client.port_id}"
    await scene.dropped("destination port", "set down", web, client)
    await world.update(schema.ports, client.port_id, admin_state_up=True)
    await scene.mend()

    await world.update(schema.instances, web.instance_id, vm_state="stopped", power_state=4)
    found = await scene.dropped("destination guest", "does not run", client, web)
    assert found["command"] == f"openstack server start {web.instance_id}"
    await world.update(schema.instances, web.instance_id, vm_state="paused", power_state=3)
    found = await scene.dropped("source guest", "paused", web, client)
    assert found["command"] == f"openstack server unpause {web.instance_id}"
    await world.update(schema.instances, web.instance_id, vm_state="active", power_state=1)

    await world.update(schema.ports, client.port_id, host="")
    await scene.dropped("source port", "bound to no host", client, web)


async def test_leases(scene: Scene) -> None:
    world, network = scene.world, scene.network
    lessee = await world.port(network, 20, [scene.group])
    await world.wire(lessee)
    await world.update(schema.instances, lessee.instance_id, vm_state="active", power_state=1)
    await scene.dropped("source address", "never asked", lessee, scene.web)
    assert await world.dhcp(lessee) == lessee.address
    await scene.arrives(lessee, scene.web)

    service = f"{world.config.host.prefix}-s-{network.id[:11]}"
    forget = ("dhcp_release", "svc0", lessee.address, lessee.mac)
    world.inside(service, *forget)
    for namespace in (service, scene.router_namespace):
        world.inside(namespace, "ip", "neigh", "flush", "all")
    await scene.dropped("source address", f"no lease of {lessee.address}", lessee, scene.web)

    entry = world.config.state_dir / "network" / network.id / "hosts" / f"{lessee.port_id}-{lessee.address}"
    entry.unlink()
    await scene.dropped("source address", f"does not know {lessee.address}", lessee, scene.web)

    pid = (world.config.state_dir / "network" / network.id / "pid").read_text().strip()
    world.inside(service, "kill", pid)
    await scene.dropped("source address", "DHCP server does not run", lessee, scene.web)
    await world.look_at_host()
    assert await world.dhcp(lessee) == lessee.address
    await scene.arrives(lessee, scene.web)


async def test_a_guest_that_does_not_answer_or_whose_address_another_one_has(scene: Scene) -> None:
    web = scene.web
    assert pings(web.namespace, "10.0.0.1")
    device = next(line.split()[2] for line in scene.router("ip", "neigh").splitlines() if line.startswith(web.address))
    change = ("ip", "neigh", "replace", web.address, "dev", device)
    scene.router(*change, "lladdr", "fa:16:3e:99:99:99", "nud", "reachable")
    await scene.dropped("destination address", "fa:16:3e:99:99:99 answers for 10.0.0.3", "outside", web)


async def test_routers(scene: Scene) -> None:
    world, client, far = scene.world, scene.client, scene.far
    router_id = scene.network.router_id
    await world.update(schema.routers, router_id, admin_state_up=False)
    found = await scene.dropped("router", "set down", client, far)
    assert found["command"] == f"openstack router set --enable {router_id}"
    await world.update(schema.routers, router_id, admin_state_up=True)

    inside = next(
        line.split(":")[1].split("@")[0].strip()
        for line in scene.router("ip", "-o", "link").splitlines()
        if ": int" in line
    )
    scene.router("ip", "link", "set", inside, "down")
    assert not pings(client.namespace, far.address)
    await scene.dropped("router", f"link {inside}", client, far)
    await scene.mend()

    scene.router("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
    assert not pings(client.namespace, far.address)
    await scene.dropped("router", "net.ipv4.ip_forward", client, far)
    scene.router("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")

    namespaces.delete(scene.router_namespace)
    await scene.dropped("router", scene.router_namespace, client, far)
    await scene.mend()


async def test_routes(scene: Scene) -> None:
    world, client, far = scene.world, scene.client, scene.far
    scene.router("ip", "route", "replace", "default", "via", "203.0.113.77")
    await scene.dropped("route", "via 203.0.113.77", client, "198.51.100.7")
    await scene.dropped("route", "the answer to it", "198.51.100.7", scene.floating)
    await scene.mend()
    scene.router("ip", "route", "del", "default")
    await scene.dropped("route", "no route to 198.51.100.7", client, "198.51.100.7")
    await scene.mend()
    scene.router("ip", "route", "add", "blackhole", f"{far.address}/32")
    assert not pings(client.namespace, far.address)
    await scene.dropped("route", f"no route to {far.address}", client, far)
    scene.router("ip", "route", "del", "blackhole", f"{far.address}/32")
    await scene.arrives(client, far)

    transit = [{"destination": "172.16.0.0/16", "nexthop": "10.0.1.9"}]
    await world.update(schema.routers, scene.network.router_id, routes=transit)
    await world.look()
    found = await scene.dropped("next hop", "10.0.1.9", client, "172.16.5.5")
    assert any("static route to 172.16.0.0/16" in hop["intent"] for hop in found["hops"]), words(found)

    await world.update(schema.subnets, scene.network.subnet_id, gateway_ip=None)
    await scene.dropped("guest's route", "no subnet of it has a gateway", client, far)


async def test_floating_ips(scene: Scene) -> None:
    world, web, client = scene.world, scene.web, scene.client
    found = await scene.dropped("floating IP", "no floating IP", "outside", client)
    assert found["command"].startswith(f"openstack floating ip create --port {client.port_id}")

    scene.router("nft", "delete", "element", "ip", "kn_nat", "fip", "{", scene.floating, "}")
    world.listen(web, 80)
    assert not connects(world.outside, scene.floating, 80)
    await scene.dropped("floating IP", "kn_nat fip", "outside", web)
    await scene.mend()
    scene.router("ip", "addr", "del", f"{scene.floating}/32", "dev", "pub0")
    await scene.dropped("floating IP", f"without {scene.floating}/32", "outside", web)
    await scene.mend()
    scene.router("nft", "delete", "element", "ip", "kn_nat", "fip_rev", "{", web.address, "}")
    await scene.dropped("source NAT", "kn_nat fip_rev", web, "outside")
    await scene.mend()
    scene.router("nft", "flush", "chain", "ip", "kn_nat", "snat_default")
    await scene.dropped("source NAT", "snat_default", client, "outside")
    await scene.mend()

    world.inside(world.outside, "ip", "link", "set", "eth0", "down")
    await scene.dropped("outside gateway", "eth0", client, "outside")
    await scene.mend()

    (row,) = await world.rows(schema.floating_ips)
    await world.update(schema.floating_ips, row["id"], fixed_port_id=None, fixed_address=None, router_id=None)
    found = await scene.dropped("floating IP", "given to no port", "outside", scene.floating)
    assert "openstack floating ip set --port" in found["command"]


async def test_a_dead_agent(scene: Scene) -> None:
    world = scene.world
    await world.agent.stop()
    try:
        found = await scene.ask(scene.client, scene.web)
        assert (found["verdict"], found["hop"]) == ("unknown", "source port"), words(found)
        assert "network agent of host1 does not answer (its last heartbeat was" in found["conclusion"]

        (service,) = await world.rows(schema.services)
        await world.update(schema.services, service["id"], seen_at=schema.now() - timedelta(seconds=100))
        found = await scene.ask(scene.client, scene.web)
        assert "network agent of host1 is dead: its last heartbeat was 100 s ago" in found["conclusion"]
        assert "no change since then is applied" in found["conclusion"]
        await scene.dropped("ingress group", "22/tcp", "outside", scene.web, "22/tcp")
    finally:
        await world.restart_agent()
    await scene.arrives(scene.client, scene.web)


async def test_other_projects(scene: Scene) -> None:
    client, stranger = scene.client, scene.stranger
    assert not pings(client.namespace, stranger.address)
    await scene.dropped("isolation", "no router joins", client, stranger)
    await scene.dropped("isolation", "no router joins", stranger, client)

    mine = scene.network.project_id
    for question in ((client, stranger), (stranger, client), (client, stranger.port_id)):
        with pytest.raises(NotFound):
            await scene.ask(*question, member=mine)
    told = [await scene.ask(client, address, member=mine) for address in (stranger.address, "10.99.0.3")]
    same = [words(item).replace(stranger.address, "X").replace("10.99.0.3", "X") for item in told]
    assert same[0] == same[1]
    assert stranger.network.id not in words(told[0])
    assert "host1" not in words(told[0])
    with pytest.raises(NotFound):
        await scene.ask("outside", stranger.address, member=mine)


async def test_ambiguous_addresses_need_a_project(scene: Scene) -> None:
    world = scene.world
    twin = await world.network("10.0.0.0/24")
    await world.port(twin, 3)
    with pytest.raises(Conflict, match="--project"):
        await scene.ask(scene.client, "10.0.0.3")
    found = await scene.ask(scene.client, "10.0.0.3", member=scene.network.project_id)
    assert found["verdict"] == "arrives", words(found)


async def test_connections_agree(scene: Scene) -> None:
    """What is explained about TCP is what TCP does."""
    scene.world.listen(scene.web, 80)
    scene.world.listen(scene.web, 22)
    for port in (80, 22):
        found = await scene.ask("outside", scene.web, f"{port}/tcp")
        assert (found["verdict"] == "arrives") == bool(connects(scene.world.outside, scene.floating, port)), port


async def test_clients_of_the_vpn(scene: Scene) -> None:
    world, web = scene.world, scene.web
    made = await vpn(world, scene.network)
    laptop = await client(world, made, 200, [scene.group])
    await world.look()
    connect(world, laptop, number=1)
    try:
        assert pings(laptop.namespace, web.address, wait_s=5)
        for ends in (
            (laptop.port_id, web),
            (web, laptop.address),
            (laptop.port_id, scene.far),
            (scene.far, laptop.address),
        ):
            found = await scene.arrives(*ends)
            assert "VPN" in [hop["name"] for hop in found["hops"]]
        chain = f"g_{scene.group.replace('-', '')}_out"
        scene.switch("nft", "flush", "chain", "inet", "kn_sg", chain)
        assert not pings(laptop.namespace, web.address)
        await scene.dropped("egress group", chain, laptop.port_id, web)
        await scene.mend()
        scene.router("ip", "link", "set", device_name(world.config.host.prefix, made.id), "down")
        assert not pings(laptop.namespace, web.address)
        await scene.dropped("VPN", device_name(world.config.host.prefix, made.id), laptop.port_id, web)
    finally:
        disconnect_all(world)
