"""IPv6 on a host: announcements, addresses by SLAAC and DHCPv6, routing, groups, anti-spoofing, and names."""

from __future__ import annotations

import struct
from functools import partial
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from sqlalchemy import Connection, insert, update

from kilonova.network.host.processes import processes_in
from kilonova.network.ipv6 import link_local
from kilonova.store import schema

from .frames import IPV6, checksum, ethernet, hears, icmp6, send
from .sixth import Subnet6, addresses6, ask_dhcp6, default_routes6, gateway6, give, lookup, subnet6
from .world import Guest, Network, World, pings, until

CIDR, OTHER = "fd00:1::/64", "fd00:2::/64"
MARK = b"believe me"


async def test_guest_makes_its_address_of_the_prefix_and_is_routed_by_the_routers_link_local(world: World) -> None:
    network, other = await _routed(world)
    near = await subnet6(world, network, CIDR, "slaac", router_id=network.router_id)
    far = await subnet6(world, other, OTHER, "slaac", router_id=network.router_id)
    group = await world.default_group(network.project_id)
    await world.rule(group, ethertype="IPv6", protocol="ipv6-icmp")
    first, second = await world.port(network, 3, [group]), await world.port(other, 3, [group])
    addresses = [await give(world, first, near), await give(world, second, far)]
    await world.wire(first)
    await world.wire(second)

    for guest, address in ((first, addresses[0]), (second, addresses[1])):
        until(partial(_has_address, guest, address), "address", 10)
        assert addresses6(guest) == {address}
    assert default_routes6(first) == {link_local(await _leg_mac(world, near.at(1)))}
    until(lambda: pings(first.namespace, addresses[1]), "way through the router", 10)
    assert _mtu6(first) == "1500"

    found = await world.call("audit")
    assert (found["drift"], found["leaks"]) == ([], [])


async def test_guest_asks_for_its_address_and_gives_it_back(world: World) -> None:
    network, _ = await _routed(world)
    subnet = await subnet6(world, network, CIDR, "dhcpv6-stateful", router_id=network.router_id)
    group = await world.default_group(network.project_id)
    guest = await world.port(network, 3, [group])
    await give(world, guest, subnet, "fd00:1::77")
    await world.wire(guest)
    until(lambda: default_routes6(guest) != set(), "announcement", 10)

    given = ask_dhcp6(guest, "solicit")

    assert given == {"address": "fd00:1::77", "dns": ["fd00:1::2"], "domain": "kilonova.internal"}
    assert addresses6(guest) == set()  # the prefix is not for guests to make addresses of
    assert await world.dhcp(guest) == guest.address
    await world.delete_port(guest.port_id)
    await world.look()
    assert [row for row in await world.rows(schema.addresses) if row["released_at"]] == []
    again = await world.port(network, 4, [group])
    await give(world, again, subnet, "fd00:1::77")
    await world.wire(again)
    until(lambda: default_routes6(again) != set(), "announcement", 10)
    assert ask_dhcp6(again, "solicit")["address"] == "fd00:1::77"


async def test_guest_of_automatic_addresses_asks_for_the_rest(world: World) -> None:
    network, _ = await _routed(world)
    subnet = await subnet6(
        world, network, CIDR, "dhcpv6-stateless", router_id=network.router_id, dns_nameservers=["2001:db8::53"]
    )
    guest = await world.port(network, 3)
    address = await give(world, guest, subnet)
    await world.wire(guest)
    until(lambda: address in addresses6(guest), "address", 10)

    assert ask_dhcp6(guest, "inform") == {"address": "", "dns": ["2001:db8::53"], "domain": "kilonova.internal"}
    assert ask_dhcp6(guest, "solicit") == {}


async def test_groups_decide_about_ipv6(world: World) -> None:
    network, _ = await _routed(world)
    subnet = await subnet6(world, network, CIDR, None)
    group = await world.group(network.project_id)
    first, second = await _static(world, network, subnet, 3, group), await _static(world, network, subnet, 4, group)

    assert not pings(first.namespace, "fd00:1::4")
    rule = await world.rule(group, ethertype="IPv6", remote_group_id=group)
    await world.look()
    assert pings(first.namespace, "fd00:1::4")
    await world.remove_rule(rule)
    await world.look()
    assert not pings(first.namespace, "fd00:1::4")
    await world.rule(group, ethertype="IPv6", protocol="ipv6-icmp", port_range_min=128, remote_ip_prefix="fd00:1::3")
    await world.look()
    assert pings(first.namespace, "fd00:1::4")
    assert not pings(second.namespace, "fd00:1::3")


async def test_guest_sends_from_its_own_addresses_only(world: World) -> None:
    network, _ = await _routed(world)
    subnet = await subnet6(world, network, CIDR, None)
    group = await world.group(network.project_id)
    await world.rule(group, ethertype="IPv6")
    first = await _static(world, network, subnet, 3, group)
    await _static(world, network, subnet, 4, group)

    assert pings(first.namespace, "fd00:1::4")
    first.run("ip", "addr", "add", "fd00:1::99/64", "dev", "eth0", "nodad")
    assert first.run("ping", "-c", "1", "-W", "1", "-I", "fd00:1::99", "fd00:1::4").returncode != 0
    assert first.run("ping", "-c", "1", "-W", "1", "-I", "fd00:1::3", "fd00:1::4").returncode == 0


@pytest.mark.parametrize("kind", ["announcement in fragments", "answer of DHCPv6"])
async def test_what_only_routers_and_servers_say_is_not_heard_from_a_guest(world: World, kind: str) -> None:
    network, _ = await _routed(world)
    subnet = await subnet6(world, network, CIDR, None)
    group = await world.group(network.project_id)
    await world.rule(group, ethertype="IPv6")
    first = await _static(world, network, subnet, 3, group)
    second = await _static(world, network, subnet, 4, group)

    def say() -> None:
        for packet in _lies(kind, link_local(first.mac), link_local(second.mac)):
            send(first.namespace, ethernet(first.mac, second.mac, IPV6, packet))

    assert not hears(second.namespace, MARK, say)
    await world.update(schema.ports, first.port_id, port_security_enabled=False)
    await world.look()
    assert hears(second.namespace, MARK, say)


async def test_ipv6_goes_through_the_gateway_untranslated(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    subnet = await subnet6(world, network, CIDR, "slaac", router_id=network.router_id)
    outside = await subnet6(world, public, "2001:db8:f::/64", None)
    gateway = await gateway6(world, network, outside, 20)
    group = await world.group(network.project_id)
    guest = await world.port(network, 3, [group])
    address = await give(world, guest, subnet)
    await world.wire(guest)
    for words in ("addr add 2001:db8:f::1/64 dev eth0 nodad", f"-6 route add {CIDR} via {gateway}"):
        world.inside(world.outside, "ip", *words.split())

    until(lambda: address in addresses6(guest), "address", 10)
    until(lambda: pings(guest.namespace, "2001:db8:f::1"), "answer from outside", 10)
    assert not pings(world.outside, address)
    await world.rule(group, ethertype="IPv6", protocol="ipv6-icmp")
    await world.look()
    assert pings(world.outside, address)


async def test_names_are_known_in_the_network_both_ways(world: World) -> None:
    network = await world.network()
    await world.update(schema.networks, network.id, dns_domain="example.org.")
    subnet = await subnet6(world, network, CIDR, None)
    group = await world.default_group(network.project_id)
    guest = await _static(world, network, subnet, 3, group)
    await _static(world, network, subnet, 4, group, dns_name="db")

    for server in (network.address(2), "fd00:1::2"):
        until(partial(_resolves, guest, server), "name", 5)
        assert "fd00:1::4" in lookup(guest, "db.example.org", server, "AAAA")
        assert "10.0.0.4" in lookup(guest, "guest-4.example.org", server)
        assert "db.example.org" in lookup(guest, "10.0.0.4", server, "")
        assert "db.example.org" in lookup(guest, "fd00:1::4", server, "")


async def test_names_go_with_their_port(world: World) -> None:
    network = await world.network()
    group = await world.default_group(network.project_id)
    guest, gone = await world.guest(network, 3, [group]), await world.guest(network, 4, [group])
    until(lambda: "10.0.0.4" in lookup(guest, "guest-4.kilonova.internal", network.address(2)), "name", 5)
    await world.delete_port(gone.port_id)
    await world.look()

    until(lambda: not lookup(guest, "guest-4.kilonova.internal", network.address(2)), "end of the name", 5)


async def test_ipv6_changes_under_its_guests(world: World) -> None:
    network, _ = await _routed(world)
    subnet = await subnet6(world, network, CIDR, "dhcpv6-stateful", router_id=network.router_id)
    guest = await world.port(network, 3)
    await give(world, guest, subnet, "fd00:1::77")
    await world.wire(guest)
    until(lambda: default_routes6(guest) != set(), "announcement", 10)
    assert ask_dhcp6(guest, "solicit")["address"] == "fd00:1::77"

    def rows(tx: Connection) -> None:
        addresses = schema.addresses
        here = addresses.c.address == "fd00:1::77"
        tx.execute(update(addresses).where(here).values(port_id=None, released_at=schema.now(), released_mac=guest.mac))
        tx.execute(insert(addresses).values(**_row(subnet, "fd00:1::88"), port_id=guest.port_id))

    await world.store.write(rows)
    await world.update(schema.subnets, subnet.id, dns_nameservers=["2001:db8::53"])
    await world.look()
    assert ask_dhcp6(guest, "solicit") == {
        "address": "fd00:1::88",
        "dns": ["2001:db8::53"],
        "domain": "kilonova.internal",
    }
    assert [row for row in await world.rows(schema.addresses) if row["released_at"]] == []

    leg = next(row["port_id"] for row in await world.rows(schema.addresses) if row["address"] == subnet.at(1))
    await world.delete_port(leg)
    await world.look()
    assert not _radvd(world, f"{world.config.host.prefix}-r-{network.router_id[:11]}")


async def test_radvd_outlives_the_agent_is_started_again_and_ends_with_its_router(world: World) -> None:
    network, _ = await _routed(world)
    await subnet6(world, network, CIDR, "slaac", router_id=network.router_id)
    await world.call("realise", network_id=network.id)
    namespace = f"{world.config.host.prefix}-r-{network.router_id[:11]}"
    first = _radvd(world, namespace)
    assert first

    await world.restart_agent()
    assert _radvd(world, namespace) == first
    for process in sorted(first, reverse=True):
        world.inside(namespace, "kill", "-9", str(process), check=False)
    until(lambda: not _radvd(world, namespace), "end of radvd")
    await world.look_at_host()
    again = _radvd(world, namespace)
    assert again
    await world.update(schema.networks, network.id, mtu=1400)
    await world.look()
    assert _radvd(world, namespace)
    assert not _radvd(world, namespace) & again
    await world.update(schema.routers, network.router_id, admin_state_up=False)
    await world.look()
    assert not _radvd(world, namespace)
    assert not (world.config.state_dir / "routers" / network.router_id).exists()


def _lies(kind: str, source: str, target: str) -> list[bytes]:
    """IPv6 packets with `MARK` in them."""
    ends = IPv6Address(source).packed + IPv6Address(target).packed

    def packet(following: int, payload: bytes) -> bytes:
        return struct.pack("!IHBB", 6 << 28, len(payload), following, 255) + ends + payload

    if kind == "answer of DHCPv6":
        message = struct.pack("!HHHH", 547, 546, 8 + len(MARK), 0) + MARK
        value = checksum(ends + struct.pack("!II", len(message), 17) + message)
        return [packet(17, message[:6] + struct.pack("!H", value) + message[8:])]
    # What follows the fragment's header is a header of options: only behind that is the announcement.
    announcement = icmp6(source, target, 134, struct.pack("!BBHII", 64, 0, 1800, 0, 0) + MARK)[40:]
    options = struct.pack("!BBBB4x", 58, 0, 1, 4)
    return [
        packet(44, struct.pack("!BBHI", 60, 0, 1, 7) + options + announcement[:8]),
        packet(44, struct.pack("!BBHI", 60, 0, 16, 7) + announcement[8:]),
    ]


def _row(subnet: Subnet6, address: str) -> dict[str, str]:
    return {"subnet_id": subnet.id, "network_id": subnet.network.id, "address": address}


async def _routed(world: World) -> tuple[Network, Network]:
    """Two networks and a router that has legs on both."""
    public = await world.public_network()
    network = await world.network("10.0.0.0/24", public=public)
    other = await world.network("10.0.1.0/24", project=network.project_id)
    await world.attach(other, network.router_id)
    return network, other


async def _static(world: World, network: Network, subnet: Subnet6, offset: int, group: str, **values: str) -> Guest:
    """A guest with addresses of both versions configured by hand."""
    guest = await world.port(network, offset, [group], **values)
    address = await give(world, guest, subnet, f"fd00:1::{offset}")
    await world.wire(guest)
    guest.run("ip", "addr", "add", f"{guest.address}/24", "dev", "eth0")
    guest.run("ip", "addr", "add", f"{address}/64", "dev", "eth0", "nodad")
    return guest


async def _leg_mac(world: World, address: str) -> str:
    port_id = next(row["port_id"] for row in await world.rows(schema.addresses) if row["address"] == address)
    return str((await world.row(schema.ports, port_id))["mac"])


def _has_address(guest: Guest, address: str) -> bool:
    return address in addresses6(guest)


def _resolves(guest: Guest, server: str) -> bool:
    return "10.0.0.4" in lookup(guest, "db.example.org", server)


def _mtu6(guest: Guest) -> str:
    return guest.run("cat", "/proc/sys/net/ipv6/conf/eth0/mtu").stdout.strip()


def _radvd(world: World, namespace: str) -> set[int]:
    found = set()
    for process in processes_in(namespace):
        name = Path(f"/proc/{process}/comm")
        if name.exists() and name.read_text().strip() == "radvd":
            found.add(process)
    return found
