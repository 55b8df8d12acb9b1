"""One kind of wire each: what is mended, what is never touched, and what a guest must not reach by it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from typing import Any

import pytest

from kilonova.errors import CommandFailed
from kilonova.network.host import namespaces
from kilonova.network.host.removal import let_go
from kilonova.network.host.vlans import kernel_has_8021q
from kilonova.network.layout import FLOOD, Forward
from kilonova.store import schema

from .fabric import FLAT, TRUNK, UNDERLAY, Fabric
from .world import Guest, Network, World, eventually, inspect_namespace, pings

VNI = 9999
VXLAN: dict[str, Any] = {
    "manager": "vxlan",
    "physical_network": "vxlan",
    "segmentation_id": VNI,
    "bridge": f"bv{VNI}",
    "mtu": 1500,
}
FLAT_DHCP: dict[str, Any] = {
    "manager": "flat-dhcp",
    "physical_network": "flat1",
    "segmentation_id": None,
    "bridge": "br-flat",
}
needs_tc = pytest.mark.skipif(kernel_has_8021q(), reason="this kernel has 8021q: VLAN devices are the kernel's own")


async def pair(fabric: Fabric, **values: Any) -> tuple[Network, Guest, Guest]:
    """A network whose services are on the first host, and two guests of one group: on the second and on the third."""
    first, second, third = fabric.hosts
    network = await first.network(**values)
    group = await first.default_group(network.project_id)
    guests = await second.guest(network, 3, [group]), await third.guest(network, 4, [group])
    await fabric.look()
    return network, *guests


# ------------------------------------------------------------------------------------------------ VLAN
@pytest.mark.parametrize("vlan_backend", ["tc", "8021q"])
async def test_frames_of_a_vlan_are_tagged_on_the_trunk(fabric: Fabric, vlan_backend: str) -> None:
    if vlan_backend == "8021q" and not kernel_has_8021q():
        pytest.skip("this kernel has no 8021q")
    for host in fabric.hosts:
        host.configure(vlan_backend=vlan_backend)
        await host.restart_agent()
    network, one, two = await pair(fabric)
    seen = namespaces.run_inside(fabric.rack, capture, TRUNK)

    assert pings(one.namespace, two.address)
    assert tags(seen) == {int(network.bridge[2:])}


@needs_tc
@pytest.mark.parametrize("harm", ["filter del dev {trunk} ingress", "qdisc del dev {trunk} clsact"])
@pytest.mark.parametrize("device", ["{trunk}", "{vlan}~"])
async def test_lost_tag_program_is_mended(fabric: Fabric, harm: str, device: str) -> None:
    network, one, two = await pair(fabric)
    _, apart, far = await pair(fabric)
    second = fabric.hosts[1]
    vlan = f"{TRUNK}.{network.bridge[2:]}"
    words = harm.format(trunk=device.format(trunk=TRUNK, vlan=vlan))
    second.inside(second.switch, "tc", *words.split())
    assert not pings(one.namespace, two.address)

    await second.look_at_host()

    await eventually(lambda: pings(one.namespace, two.address))
    assert pings(apart.namespace, far.address)


@needs_tc
async def test_trunk_hears_every_mac_and_is_mended_when_it_does_not(fabric: Fabric) -> None:
    await pair(fabric)
    second = fabric.hosts[1]
    show = ("ip", "link", "show", TRUNK)
    assert "PROMISC" in second.inside(second.switch, *show)
    second.inside(second.switch, "ip", "link", "set", TRUNK, "promisc", "off")

    await second.look_at_host()

    assert "PROMISC" in second.inside(second.switch, *show)


@needs_tc
async def test_trunk_is_let_go_as_it_came(fabric: Fabric) -> None:
    await pair(fabric)
    second = fabric.hosts[1]

    namespaces.run_inside(second.switch, let_go, [TRUNK, "nosuchnic"])

    assert "PROMISC" not in second.inside(second.switch, "ip", "link", "show", TRUNK)


@needs_tc
async def test_restart_of_the_agent_leaves_vlan_devices_as_they_are(fabric: Fabric) -> None:
    network, one, two = await pair(fabric)
    second = fabric.hosts[1]
    programs = (
        "sh",
        "-c",
        f"tc filter show dev {TRUNK} ingress; tc filter show dev {TRUNK}.{network.bridge[2:]}~ ingress",
    )
    before = second.inside(second.switch, *programs)
    flow = second.background(one.namespace, "ping", "-i", "0.02", "-c", "40", "-q", two.address)

    await second.restart_agent()

    assert second.inside(second.switch, *programs) == before
    assert "id" in before
    assert await asyncio.to_thread(flow.wait, 10) == 0


@needs_tc
async def test_trunk_that_comes_back_as_another_device_carries_its_vlans_again(fabric: Fabric) -> None:
    _, one, two = await pair(fabric)
    second = fabric.hosts[1]
    second.inside(second.switch, "ip", "link", "del", TRUNK)
    fabric.plug_in(second, TRUNK)

    await second.look_at_host()

    await eventually(lambda: pings(one.namespace, two.address))


@needs_tc
async def test_device_that_goes_takes_its_tag_from_the_trunk(fabric: Fabric) -> None:
    """Its index may be another device's one day."""
    network, one, _ = await pair(fabric)
    await pair(fabric)
    second = fabric.hosts[1]
    await second.delete_port(one.port_id)
    await second.look()

    assert f"{TRUNK}.{network.bridge[2:]}" not in inspect_namespace(second.switch).links
    listing = second.inside(second.switch, "tc", "-j", "filter", "show", "dev", TRUNK, "ingress")
    (program,) = [item["options"]["prog"]["id"] for item in json.loads(listing) if item.get("options", {}).get("prog")]
    assert mapped(program, int(network.bridge[2:])) == 0


async def test_guest_cannot_hop_to_another_vlan(fabric: Fabric) -> None:
    mine, one, _ = await pair(fabric)
    theirs, apart, _ = await pair(fabric)
    heard = namespaces.run_inside(apart.namespace, capture, "eth0")
    trunk = namespaces.run_inside(fabric.rack, capture, TRUNK)
    own, other = (int(network.bridge[2:]) for network in (mine, theirs))
    for outer in ([other], [own, other], [0, other]):
        send_tagged(one, outer)

    assert pings(one.namespace, one.network.address(4))
    assert tags(trunk, one.mac) == {own}
    assert bytes.fromhex(one.mac.replace(":", "")) not in b"".join(frames(heard))


# ------------------------------------------------------------------------------------------------ VXLAN
async def test_forwarding_names_every_host_of_the_network_and_no_other(fabric: Fabric) -> None:
    first, second, third = fabric.hosts
    network = await first.network(**VXLAN)
    guest = await second.guest(network, 3)
    await fabric.look()
    service = next(port["mac"] for port in await first.rows(schema.ports) if port["device_owner"] == "network:dhcp")
    device = f"vx{VNI}"

    assert forwarding(first) == {Forward(device, FLOOD, "192.0.2.2"), Forward(device, guest.mac, "192.0.2.2")}
    assert forwarding(second) == {Forward(device, FLOOD, "192.0.2.1"), Forward(device, service, "192.0.2.1")}
    assert forwarding(third) == set()


async def test_host_that_joins_or_leaves_a_tunnelled_network_tells_the_others(fabric: Fabric) -> None:
    """No other host is asked to look: the one with the new port sees to it."""
    first, second, third = fabric.hosts
    network = await first.network(**VXLAN)
    group = await first.default_group(network.project_id)
    one = await second.guest(network, 3, [group])
    two = await third.guest(network, 4, [group])
    await eventually(lambda: Forward(f"vx{VNI}", two.mac, "192.0.2.3") in forwarding(second))
    assert pings(one.namespace, two.address)

    await third.delete_port(two.port_id)
    await third.look()

    await eventually(lambda: all(entry.destination != "192.0.2.3" for entry in forwarding(second)))


@pytest.mark.parametrize("command", ["del", "append"])
async def test_forwarding_changed_by_hand_is_mended(fabric: Fabric, command: str) -> None:
    await pair(fabric, **VXLAN)
    second = fabric.hosts[1]
    before = forwarding(second)
    entry = sorted(before)[0]
    destination = entry.destination if command == "del" else "192.0.2.77"
    words = ["fdb", command, entry.mac, "dev", entry.device, "dst", destination]
    second.inside(second.switch, "bridge", *words)
    assert forwarding(second) != before

    await second.look_at_host()

    assert forwarding(second) == before


async def test_tunnel_with_another_identifier_is_made_anew_with_its_forwarding(fabric: Fabric) -> None:
    _, one, two = await pair(fabric, **VXLAN)
    second = fabric.hosts[1]
    before = forwarding(second)
    for words in (f"del vx{VNI}", f"add vx{VNI} type vxlan id 7 dstport 4789 local 192.0.2.2"):
        second.inside(second.switch, "ip", "link", *words.split())

    await second.look_at_host()

    assert forwarding(second) == before
    assert pings(one.namespace, two.address)


async def test_guest_reaches_no_tunnel_address_behind_its_bridge(fabric: Fabric) -> None:
    """Whoever can talk to it can put frames into every network."""
    _, one, two = await pair(fabric, **VXLAN)
    second = fabric.hosts[1]
    links = second.inside(second.switch, "ip", "-j", "link", "show", f"bv{VNI}")
    bridge_mac = json.loads(links)[0]["address"]
    one.run("ip", "route", "add", "192.0.2.2", "dev", "eth0")

    with namespaces.run_inside(second.switch, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("192.0.2.2", 5000))
        listener.setblocking(False)
        knock(fabric.hosts[2].switch)
        await eventually(lambda: heard_from(listener) == {"192.0.2.3"})

        knock(one.namespace)
        assert not pings(one.namespace, "192.0.2.2")
        assert "lladdr" not in one.run("ip", "neigh", "show", "192.0.2.2").stdout
        one.run("ip", "neigh", "replace", "192.0.2.2", "lladdr", bridge_mac, "dev", "eth0")
        knock(one.namespace)
        assert not pings(one.namespace, "192.0.2.2")
        assert heard_from(listener) == set()
    assert pings(one.namespace, two.address)


async def test_frames_follow_services_and_router_that_move_to_another_host(fabric: Fabric) -> None:
    first, second, third = fabric.hosts
    public = await first.public_network()
    network = await first.network(public=public, **VXLAN)
    one = await third.guest(network, 3, [await first.group(network.project_id)])
    assert pings(one.namespace, network.address(1))

    await first.update(schema.networks, network.id, host=second.name)
    await first.update(schema.routers, network.router_id, host=second.name)
    await second.look()

    await eventually(lambda: all(entry.destination == "192.0.2.2" for entry in forwarding(third)))
    await eventually(lambda: pings(one.namespace, network.address(1)))
    assert await third.dhcp(one) == one.address


async def test_tunnel_nic_gets_its_address_back(fabric: Fabric) -> None:
    _, one, two = await pair(fabric, **VXLAN)
    second = fabric.hosts[1]
    second.inside(second.switch, "ip", "addr", "flush", "dev", UNDERLAY)
    assert not pings(one.namespace, two.address)

    await second.look_at_host()

    await eventually(lambda: pings(one.namespace, two.address))


# ------------------------------------------------------------------------------------------------ flat
async def test_missing_flat_bridge_is_named_and_breaks_nothing_else(fabric: Fabric) -> None:
    first = fabric.hosts[0]
    flat, network = await first.network(**FLAT_DHCP), await first.network()

    with pytest.raises(CommandFailed, match="bridge br-flat is not there: make it"):
        await first.call("realise", network_id=flat.id)
    guest = await first.port(network, 3)
    await first.wire(guest)
    assert await first.dhcp(guest) == guest.address

    fabric.flat_bridge(first)
    lucky = await first.port(flat, 3)
    await first.wire(lucky)
    assert await first.dhcp(lucky) == lucky.address


async def test_administrators_bridge_is_filtered_and_stays_when_the_last_port_leaves(fabric: Fabric) -> None:
    second = fabric.hosts[1]
    for host in fabric.hosts:
        fabric.flat_bridge(host)
    before = second.inside(second.switch, "ip", "-j", "link", "show", "br-flat")
    _, one, two = await pair(fabric, **FLAT_DHCP)
    detail = second.inside(second.switch, "ip", "-d", "-j", "link", "show", "br-flat")
    assert json.loads(detail)[0]["linkinfo"]["info_data"]["nf_call_iptables"] == 1
    assert pings(one.namespace, two.address)

    await second.delete_port(one.port_id)
    await second.look()
    await second.look_at_host()

    kept = json.loads(second.inside(second.switch, "ip", "-j", "link", "show", "br-flat"))[0]
    assert kept["ifindex"] == json.loads(before)[0]["ifindex"]
    assert "master br-flat" in second.inside(second.switch, "ip", "link", "show", FLAT)


async def test_uplink_that_the_administrator_adds_later_is_trusted_at_the_next_pass(fabric: Fabric) -> None:
    second = fabric.hosts[1]
    for host in fabric.hosts:
        fabric.flat_bridge(host)
    second.inside(second.switch, "ip", "link", "set", FLAT, "nomaster")
    _, one, two = await pair(fabric, **FLAT_DHCP)
    second.inside(second.switch, "ip", "link", "set", FLAT, "master", "br-flat")
    assert not pings(one.namespace, two.address)

    await second.look_at_host()

    await eventually(lambda: pings(one.namespace, two.address))


async def test_guest_of_a_flat_network_sends_from_its_own_addresses_only(fabric: Fabric) -> None:
    for host in fabric.hosts:
        fabric.flat_bridge(host)
    _, one, two = await pair(fabric, **FLAT_DHCP)
    two.run("ip", "route", "add", "10.0.0.77", "dev", "eth0")
    assert pings(one.namespace, two.address)

    one.run("ip", "addr", "add", "10.0.0.77/24", "dev", "eth0")
    one.run("ip", "route", "replace", two.address, "dev", "eth0", "src", "10.0.0.77")
    assert not pings(one.namespace, two.address)
    one.run("ip", "route", "replace", two.address, "dev", "eth0", "src", one.address)
    assert pings(one.namespace, two.address)


async def test_flat_network_without_dhcp_gives_no_lease(fabric: Fabric) -> None:
    first, second, _ = fabric.hosts
    for host in fabric.hosts:
        fabric.flat_bridge(host)
    network = await first.network(**{**FLAT_DHCP, "manager": "flat"})
    await first.update(schema.subnets, network.subnet_id, enable_dhcp=False, service_address=None)
    for host in (first, second):
        guest = await host.port(network, 3 if host is first else 4)
        await host.wire(guest)
        assert await host.dhcp(guest) == ""


# ------------------------------------------------------------------------------------------------ what there is
@pytest.mark.parametrize("values", [{}, VXLAN, FLAT_DHCP], ids=["vlan", "vxlan", "flat-dhcp"])
async def test_host_whose_kernel_was_emptied_is_as_before(fabric: Fabric, values: dict[str, Any]) -> None:
    for host in fabric.hosts:
        fabric.flat_bridge(host)
    network, one, two = await pair(fabric, **values)
    second = fabric.hosts[1]
    port = f"tap{one.port_id[:11]}"
    for name, link in inspect_namespace(second.switch).links.items():
        if link.owner and name != port:  # what the guest has taken cannot be given to it again
            second.inside(second.switch, "ip", "link", "del", name, check=False)
    second.inside(second.switch, "nft", "flush", "ruleset")

    await second.look_at_host()

    await eventually(lambda: pings(one.namespace, two.address))
    assert second.inside(second.switch, "ip", "link", "show", "master", network.bridge).count(port) == 1


async def test_heartbeat_tells_the_wires_that_are_there(fabric: Fabric) -> None:
    first = fabric.hosts[0]
    first.configure(
        trunks={"physnet1": TRUNK, "physnet2": "nosuchnic"}, flat_bridges={"flat1": "br-flat", "flat2": "none"}
    )
    fabric.flat_bridge(first)
    await first.restart_agent()

    (row,) = [row for row in await first.rows(schema.services) if row["host"] == first.name]
    assert row["capacity"] == {
        "trunks": ["physnet1"],
        "flat_bridges": {"flat1": "br-flat"},
        "tunnel": {"address": "192.0.2.1", "mtu": 1600},
        "groups": True,
    }


def forwarding(world: World) -> set[Forward]:
    return set(inspect_namespace(world.switch).forwarding)


def knock(namespace: str) -> None:
    with namespaces.run_inside(namespace, socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("192.0.2.2", 5000))


def heard_from(listener: socket.socket) -> set[str]:
    found: set[str] = set()
    with contextlib.suppress(BlockingIOError):
        while True:
            found.add(listener.recvfrom(2048)[1][0])
    return found


def mapped(program: int, index: int) -> int:
    from kilonova.network.host.bpf import array_of

    with array_of(program) as array:
        return array.get(index)


def capture(device: str) -> socket.socket:
    """Hears every frame of a device from now on, its tag included."""
    heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    heard.bind((device, 3))
    heard.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA: the tag, which the kernel takes off
    heard.setblocking(False)
    return heard


def tags(heard: socket.socket, source: str = "") -> set[int]:
    """The VLAN ids of what was heard (from a MAC); 0: no tag."""
    found: set[int] = set()
    with contextlib.suppress(BlockingIOError), heard:
        while True:
            frame, ancillary, _, _ = heard.recvmsg(2048, 256)
            status, _, _, _, _, tci, _ = struct.unpack("=IIIHHHH", ancillary[0][2])
            if frame[6:12].hex(":") == (source or frame[6:12].hex(":")):
                found.add(tci & 0xFFF if status & 0x10 else 0)
    return found


def frames(heard: socket.socket) -> list[bytes]:
    found: list[bytes] = []
    with contextlib.suppress(BlockingIOError), heard:
        while True:
            found.append(heard.recv(2048))
    return found


def send_tagged(guest: Guest, vids: list[int]) -> None:
    """A broadcast ARP question and a packet from the guest's own addresses, behind these tags."""
    mac, address = bytes.fromhex(guest.mac.replace(":", "")), socket.inet_aton(guest.address)
    headers = b"".join(struct.pack("!HH", 0x8100, vid) for vid in vids)
    target = socket.inet_aton(guest.network.address(9))
    arp = struct.pack("!HHHBBH", 0x0806, 1, 0x0800, 6, 4, 1) + mac + address + bytes(6) + target
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, address, target) + struct.pack(
        "!HHHH", 9, 9, 8, 0
    )
    raw = namespaces.run_inside(guest.namespace, socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
    with raw:
        raw.bind(("eth0", 0))
        for payload in (arp, struct.pack("!H", 0x0800) + header):
            raw.send(b"\xff" * 6 + mac + headers + payload)
