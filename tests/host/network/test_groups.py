"""Security groups rule by rule: what each kind lets through, what its removal ends, and what it leaves alone."""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from kilonova.network.flows import Cut, Flow
from kilonova.network.group_rules import PROTOCOL_NUMBERS, chain_name
from kilonova.network.host import namespaces, netlink
from kilonova.network.host.conntrack import Conntrack
from kilonova.network.host.nftables import Nft

from .world import Guest, World, connects, inspect_namespace, pings

EXPERIMENT = 253
"""A protocol number for experiments (RFC 3692): it has no ports."""


async def test_kernel_takes_a_rule_of_every_protocol(world: World) -> None:
    network = await world.network()
    group, remote = await world.group(network.project_id), await world.group(network.project_id)
    for ethertype, prefix in (("IPv4", "192.0.2.0/24"), ("IPv6", "2001:db8::/32")):
        for protocol in (*PROTOCOL_NUMBERS, "0", "1", "58", "253", "255"):
            await world.rule(group, ethertype=ethertype, protocol=protocol)
            await world.rule(group, ethertype=ethertype, protocol=protocol, direction="egress", remote_ip_prefix=prefix)
            await world.rule(group, ethertype=ethertype, protocol=protocol, remote_group_id=remote)
            for least, most in ((8, None), (3, 200)):
                values = {"port_range_min": least, "port_range_max": most}
                await world.rule(group, ethertype=ethertype, protocol=protocol, **values)
        await world.rule(group, ethertype=ethertype, protocol="icmp", port_range_min=8, port_range_max=0)
    await world.guest(network, 3, [group])

    await world.look()

    chains = inspect_namespace(world.switch).chains
    rules = [chain for key, chain in chains.items() if key.name == chain_name(group, "ingress")]
    assert len(rules[0].digests) > 100


async def test_range_of_udp_ports_opens_its_ends_and_no_more(world: World) -> None:
    _, group, server, client = await _server_and_client(world)
    await world.rule(group, protocol="17", port_range_min=5001, port_range_max=5003)
    await world.look()

    heard = [port for port in (5000, 5001, 5002, 5003, 5004) if _udp_arrives(client, server, port)]

    assert heard == [5001, 5002, 5003]


async def test_icmp_type_opens_that_type_alone(world: World) -> None:
    _, group, server, client = await _server_and_client(world)
    await world.rule(group, protocol="icmp", port_range_min=13)
    await world.look()
    assert not pings(client.namespace, server.address)

    await world.rule(group, protocol="icmp", port_range_min=8, port_range_max=0)
    await world.look()

    assert pings(client.namespace, server.address)


async def test_protocol_without_a_name_is_opened_by_its_number(world: World) -> None:
    _, group, server, client = await _server_and_client(world)
    await world.rule(group, protocol="252")
    await world.look()
    assert not _raw_arrives(client, server)

    await world.rule(group, protocol=str(EXPERIMENT))
    await world.look()

    assert _raw_arrives(client, server)


async def test_protocol_zero_is_every_protocol(world: World) -> None:
    _, group, server, client = await _server_and_client(world)
    await world.rule(group, protocol="0")
    await world.look()

    assert pings(client.namespace, server.address)
    assert _udp_arrives(client, server, 5000)


async def test_prefix_opens_for_those_within(world: World) -> None:
    network, group, server, client = await _server_and_client(world)
    neighbour = await world.guest(network, 20, [await world.group(network.project_id)])
    world.listen(server, 80)
    await world.rule(group, protocol="tcp", port_range_min=80, port_range_max=80, remote_ip_prefix="10.0.0.16/28")
    await world.look()

    assert connects(neighbour.namespace, server.address, 80)
    assert not connects(client.namespace, server.address, 80)


async def test_without_an_egress_rule_nothing_leaves_and_one_rule_lets_out_what_it_says(world: World) -> None:
    network = await world.network()
    opened = await world.group(network.project_id)
    await world.rule(opened)
    silent = await world.group(network.project_id, egress=False)
    server, client = await world.guest(network, 3, [opened]), await world.guest(network, 4, [silent])
    for port in (80, 81):
        world.listen(server, port)
    await world.look()
    assert not pings(client.namespace, server.address)
    assert not connects(client.namespace, server.address, 80)

    await world.rule(silent, direction="egress", protocol="tcp", port_range_min=80, port_range_max=80)
    await world.look()

    assert connects(client.namespace, server.address, 80)
    assert not connects(client.namespace, server.address, 81)
    assert not pings(client.namespace, server.address)
    assert await world.dhcp(client) == client.address  # addresses are no group's to refuse


async def test_rules_of_all_groups_of_a_port_count(world: World) -> None:
    network = await world.network()
    web, ssh = await world.group(network.project_id), await world.group(network.project_id)
    await world.rule(web, protocol="tcp", port_range_min=80, port_range_max=80)
    await world.rule(ssh, protocol="tcp", port_range_min=22, port_range_max=22)
    both, one = await world.guest(network, 3, [web, ssh]), await world.guest(network, 4, [ssh])
    for guest in (both, one):
        for port in (22, 80):
            world.listen(guest, port)
    client = await world.guest(network, 5, [await world.group(network.project_id)])

    def opened(guest: Guest) -> list[int]:
        return [port for port in (22, 80) if connects(client.namespace, guest.address, port)]

    assert (opened(both), opened(one)) == ([22, 80], [22])


async def test_port_that_leaves_a_group_loses_what_the_group_gave(world: World) -> None:
    network, group, server, client = await _server_and_client(world)
    await world.rule(group, protocol="tcp", port_range_min=80, port_range_max=80)
    await world.look()
    with _connected(client, server, 80) as (near, far):
        assert _hears(near, far)
        await world.regroup(server, [await world.group(network.project_id)])
        await world.look()

        assert not _hears(near, far)


@pytest.mark.parametrize("who", ["server", "client"])
async def test_udp_stream_that_a_removed_rule_cut_is_resumed_from_neither_side(world: World, who: str) -> None:
    """The server's next datagram would be the first of a flow that its own group lets out."""
    network = await world.network()
    group = await world.group(network.project_id)
    server = await world.guest(network, 3, [group])
    client = await world.guest(network, 4, [], port_security_enabled=False)
    rule = await world.rule(group, protocol="udp", port_range_min=5000, port_range_max=5000)
    await world.look()
    with _datagrams(server, 5000) as far, _datagrams(client, 6000) as near, _datagrams(server, 5001) as other:
        near.sendto(b"subscribe", (server.address, 5000))
        assert _received(far) == b"subscribe"
        far.sendto(b"stream", (client.address, 6000))
        assert _received(near) == b"stream"

        await world.remove_rule(rule)
        await world.look()
        for _ in range(3):
            if who == "server":
                far.sendto(b"stream", (client.address, 6000))
            near.sendto(b"more", (server.address, 5000))

        assert _received(near) == b""
        assert _received(far) == b""
        # What the server begins itself is its own affair, to the same peer too.
        other.sendto(b"a new one", (client.address, 6000))
        assert _received(near) == b"a new one"
        near.sendto(b"answer", (server.address, 5001))
        assert _received(other) == b"answer"


async def test_restored_rule_lets_a_cut_stream_go_on(world: World) -> None:
    _, group, server, client = await _server_and_client(world)
    values: dict[str, Any] = {"protocol": "udp", "port_range_min": 5000, "port_range_max": 5000}
    rule = await world.rule(group, **values)
    await world.look()
    with _datagrams(server, 5000) as far, _datagrams(client, 6000) as near:
        near.sendto(b"one", (server.address, 5000))
        assert _received(far) == b"one"
        await world.remove_rule(rule)
        await world.look()
        near.sendto(b"two", (server.address, 5000))
        assert _received(far) == b""

        await world.rule(group, **values)
        await world.look()
        near.sendto(b"three", (server.address, 5000))

        assert _received(far) == b"three"
        far.sendto(b"answer", (client.address, 6000))
        assert _received(near) == b"answer"


async def test_protocol_without_ports_is_cut_and_not_resumed(world: World) -> None:
    network = await world.network()
    group = await world.group(network.project_id)
    server = await world.guest(network, 3, [group])
    client = await world.guest(network, 4, [], port_security_enabled=False)
    rule = await world.rule(group, protocol=str(EXPERIMENT))
    await world.look()
    assert _raw_arrives(client, server)
    assert _raw_arrives(server, client)

    await world.remove_rule(rule)
    await world.look()

    assert not _raw_arrives(server, client)
    assert not _raw_arrives(client, server)


async def test_removal_of_a_rule_leaves_every_other_flow_as_it_is(world: World) -> None:
    """Also with so many members that cutting by protocol would be cheaper."""
    network = await world.network()
    group, other_group = await world.group(network.project_id), await world.group(network.project_id)
    for each in (group, other_group):
        await world.rule(each, protocol="tcp", port_range_min=80, port_range_max=80)
    rule = await world.rule(group, protocol="tcp", port_range_min=81, port_range_max=81)
    server = await world.guest(network, 3, [group])
    for offset in range(30, 40):
        await world.port(network, offset, [group])
    bystander = await world.guest(network, 4, [other_group])
    client = await world.guest(network, 5, [await world.group(network.project_id)])
    await world.look()
    with (
        _connected(client, server, 80) as kept,
        _connected(client, server, 81) as lost,
        _connected(client, bystander, 80) as untouched,
    ):
        before = _flows(world, network.bridge)
        await world.remove_rule(rule)
        await world.look()

        after = _flows(world, network.bridge)
        assert {(flow.target, flow.target_port) for flow in before - after} == {(server.address, 81)}
        assert not _hears(*lost)
        assert _hears(*kept)
        assert _hears(*untouched)


async def test_change_of_a_group_is_one_transaction_of_that_group_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = await world.network()
    group, other = await world.group(network.project_id), await world.default_group(network.project_id)
    server = await world.guest(network, 3, [group])
    bystanders = [await world.guest(network, offset, [other]) for offset in (4, 5)]
    assert pings(bystanders[0].namespace, bystanders[1].address)
    sent = _sent(monkeypatch)
    before = inspect_namespace(world.switch)
    counters = _counters(world, bystanders[0])

    await world.rule(group, protocol="tcp", port_range_min=80, port_range_max=80)
    await world.look()

    chain = chain_name(group, "ingress")
    assert len(sent) == 1
    assert all(
        f"chain inet kn_sg {chain}" in line or f"rule inet kn_sg {chain} " in line for line in sent[0].splitlines()
    )
    after = inspect_namespace(world.switch)
    assert after.links == before.links
    assert after.elements == before.elements
    assert {key.name for key, item in after.chains.items() if before.chains[key] != item} == {chain}
    assert _counters(world, bystanders[0]) == counters
    assert server.address in str(after.elements)


async def test_new_member_is_one_element_of_the_remote_group_and_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = await world.network()
    group = await world.default_group(network.project_id)
    for offset in range(3, 9):
        await world.port(network, offset, [group])
    await world.look()
    sent = _sent(monkeypatch)

    newcomer = await world.port(network, 20, [group])
    await world.look()

    (commands,) = sent
    assert all(line.startswith("add element ") for line in commands.splitlines())
    assert len(commands.splitlines()) <= 12
    assert not any(f"10.0.0.{offset} " in commands for offset in range(3, 9))
    assert newcomer.address in commands


async def test_flow_allowed_by_membership_ends_with_it(world: World) -> None:
    network = await world.network()
    group = await world.default_group(network.project_id)
    server, client = await world.guest(network, 3, [group]), await world.guest(network, 4, [group])
    friend = await world.guest(network, 5, [group])
    with _connected(client, server, 80) as lost, _connected(friend, server, 81) as kept:
        await world.regroup(client, [await world.group(network.project_id)])
        await world.look()

        assert not _hears(*lost)
        assert _hears(*kept)


async def test_flows_of_a_deleted_port_are_read_at_once_and_not_at_all_where_there_are_none(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reading walks through the table of the whole machine."""
    reads: list[object] = []
    dump = netlink.Socket.dump

    def counted(self: netlink.Socket, kind: int, body: bytes, what: str) -> list[netlink.Message]:
        reads.extend([kind] if what == "connection tracking" else [])
        return dump(self, kind, body, what)

    monkeypatch.setattr(netlink.Socket, "dump", counted)
    network = await world.network()
    group = await world.default_group(network.project_id)
    first, second = await world.guest(network, 3, [group]), await world.guest(network, 4, [group])
    third = await world.port(network, 5, [group])
    await world.look()
    await world.delete_port(third.port_id)
    await world.look()
    assert reads == []
    assert pings(first.namespace, second.address)

    await world.delete_port(second.port_id)
    await world.look()

    assert len(reads) == 1
    assert not [flow for flow in _flows(world, network.bridge) if second.address in flow]


async def _server_and_client(world: World) -> tuple[Any, str, Guest, Guest]:
    """A server in a group without an ingress rule, a client that may send anything."""
    network = await world.network()
    group = await world.group(network.project_id)
    server = await world.guest(network, 3, [group])
    return network, group, server, await world.guest(network, 4, [await world.group(network.project_id)])


@contextlib.contextmanager
def _connected(client: Guest, server: Guest, port: int) -> Iterator[tuple[socket.socket, socket.socket]]:
    listener = namespaces.run_inside(server.namespace, socket.create_server, ("", port))
    with listener, namespaces.run_inside(client.namespace, socket.create_connection, (server.address, port), 5) as near:
        far, _ = listener.accept()
        with far:
            yield near, far


def _hears(near: socket.socket, far: socket.socket) -> bool:
    """Does what one end says now reach the other, either way?"""
    near.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while near.recv(4096):
            pass
    far.send(b"more")
    return bool(select.select([near], [], [], 0.7)[0])


@contextlib.contextmanager
def _datagrams(guest: Guest, port: int) -> Iterator[socket.socket]:
    def opened() -> socket.socket:
        end = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        end.bind(("", port))
        return end

    with namespaces.run_inside(guest.namespace, opened) as end:
        yield end


def _received(end: socket.socket) -> bytes:
    """The next datagram; nothing when none comes."""
    return end.recv(4096) if select.select([end], [], [], 0.4)[0] else b""


def _udp_arrives(client: Guest, server: Guest, port: int) -> bool:
    with _datagrams(server, port) as far, _datagrams(client, 0) as near:
        near.sendto(b"hello", (server.address, port))
        return _received(far) == b"hello"


def _raw_arrives(client: Guest, server: Guest) -> bool:
    def opened() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, EXPERIMENT)

    with (
        namespaces.run_inside(server.namespace, opened) as far,
        namespaces.run_inside(client.namespace, opened) as near,
    ):
        near.sendto(b"hello", (server.address, 0))
        return _received(far).endswith(b"hello")


def _flows(world: World, bridge: str) -> set[Flow]:
    assert world.agent._last is not None
    zone = world.agent._last.plan.bridges[bridge].zone

    def look() -> set[Flow]:
        with Conntrack() as table:
            return set(table.flows([Cut(zone)]))

    return namespaces.run_inside(world.switch, look)


def _sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is sent to nft from now on."""
    sent: list[str] = []
    run = Nft.run

    def record(nft: Nft, commands: str) -> None:
        sent.append(commands)
        run(nft, commands)

    monkeypatch.setattr(Nft, "run", record)
    return sent


def _counters(world: World, guest: Guest) -> str:
    return guest.run("cat", "/sys/class/net/eth0/statistics/rx_packets").stdout
