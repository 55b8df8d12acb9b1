"""What a guest may not do: pretend to be another, serve addresses, send tags."""

from __future__ import annotations

import socket
import struct
from functools import partial

from kilonova.network.host import namespaces

from .world import Guest, World, pings


async def test_foreign_mac_is_not_heard(world: World) -> None:
    first, second = await _pair(world)
    assert pings(first.namespace, second.address)

    first.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:99")

    assert not pings(first.namespace, second.address)


async def test_foreign_address_is_not_heard(world: World) -> None:
    first, second = await _pair(world)
    first.run("ip", "addr", "add", "10.0.0.99/24", "dev", "eth0")
    # the answer could come back only to the claimed address: ask what the other one hears
    heard = _hears(second, lambda: first.run("ping", "-c", "2", "-W", "1", "-I", "10.0.0.99", second.address))

    assert "10.0.0.99" not in heard


async def test_foreign_arp_is_not_believed(world: World) -> None:
    first, second = await _pair(world)
    assert pings(second.namespace, first.address)
    second.run("ip", "neigh", "flush", "all")

    namespaces.run_inside(first.namespace, _claim, first.mac, "10.0.0.1")
    namespaces.run_inside(first.namespace, _claim, first.mac, "10.0.0.77")
    assert pings(first.namespace, second.address)

    assert "10.0.0.77" not in second.run("ip", "neigh").stdout
    assert "10.0.0.1 " not in second.run("ip", "neigh").stdout


async def test_dhcp_server_of_a_guest_is_not_heard(world: World) -> None:
    first, second = await _pair(world)
    heard = _hears(second, lambda: namespaces.run_inside(first.namespace, _offer))

    assert "10.0.0.3" not in heard


async def test_tagged_frames_of_a_guest_go_nowhere(world: World) -> None:
    """Not even such as would pass without their tag: the kernel strips it before the filters look."""
    first, second = await _pair(world)

    def act(tag: bytes) -> None:
        namespaces.run_inside(first.namespace, _send_datagram, first, second, tag)

    assert "marked" in _hears(second, partial(act, b""))
    for tag in (0, 5, 0x2000):  # no VLAN, some VLAN, a priority alone
        heard = _hears(second, partial(act, struct.pack("!HH", 0x8100, tag)))
        assert "marked" not in heard, tag


async def test_port_without_port_security_may_send_from_anything(world: World) -> None:
    network = await world.network()
    group = await world.default_group(network.project_id)
    free = await world.guest(network, 3, [], port_security_enabled=False)
    other = await world.guest(network, 4, [group])
    await world.rule(group, protocol="icmp")
    await world.look()
    free.run("ip", "addr", "add", "10.0.0.99/24", "dev", "eth0")

    assert pings(free.namespace, other.address)
    assert free.run("ping", "-c", "1", "-W", "1", "-I", "10.0.0.99", other.address).returncode == 0


async def test_allowed_address_pair_is_heard_and_reached(world: World) -> None:
    network = await world.network()
    group = await world.default_group(network.project_id)
    first = await world.guest(network, 3, [group], allowed_address_pairs=[{"ip_address": "10.0.0.50"}])
    second = await world.guest(network, 4, [group])
    await world.rule(group, protocol="icmp")
    await world.look()

    first.run("ip", "addr", "add", "10.0.0.50/24", "dev", "eth0")

    assert pings(second.namespace, "10.0.0.50")


async def _pair(world: World) -> tuple[Guest, Guest]:
    network = await world.network()
    group = await world.default_group(network.project_id)
    first, second = await world.guest(network, 3, [group]), await world.guest(network, 4, [group])
    return first, second


def _hears(guest: Guest, act: object) -> str:
    """The IPv4 senders (and marked payloads) that a guest's interface receives while something is done."""
    assert callable(act)
    packet: socket.socket = namespaces.run_inside(guest.namespace, _open)
    act()
    heard: list[str] = []
    packet.settimeout(0.3)
    try:
        while True:
            frame = packet.recv(2048)
            if frame[12:14] == b"\x08\x00":
                heard.append(socket.inet_ntoa(frame[26:30]))
            if b"marked datagram" in frame:
                heard.append("marked")
    except TimeoutError:
        packet.close()
        return " ".join(heard)


def _open() -> socket.socket:
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    packet.bind(("eth0", 0))
    return packet


def _claim(mac: str, address: str) -> None:
    from kilonova.network.host.arp import Announcement, announce

    announce([Announcement("eth0", mac, (address,))])


def _offer() -> None:
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    server.bind(("10.0.0.3", 67))
    server.sendto(b"\x02\x01\x06\x00" + bytes(236), ("255.255.255.255", 68))
    server.sendto(b"\x02\x01\x06\x00" + bytes(236), ("10.0.0.4", 68))
    server.close()


def _send_datagram(source: Guest, target: Guest, tag: bytes) -> None:
    """UDP over IPv4 that is right in all but the tag (a checksum of zero is none)."""
    payload = struct.pack("!HHHH", 5, 6, 8 + 15, 0) + b"marked datagram"
    addresses = socket.inet_aton(source.address) + socket.inet_aton(target.address)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, 17, 0) + addresses
    total = sum(struct.unpack("!10H", header))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    packet = header[:10] + struct.pack("!H", checksum) + header[12:] + payload
    macs = bytes.fromhex((target.mac + source.mac).replace(":", ""))
    with _open() as interface:
        interface.send(macs + tag + struct.pack("!H", 0x0800) + packet)
