"""A project's VPN: a client far outside is a member of the project's network, and of nothing else."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kilonova.cloud.controller import Cloud
from kilonova.cloud.explain import explain
from kilonova.cloud.explain.question import Question, parse_traffic
from kilonova.context import system_context
from kilonova.errors import CommandFailed
from kilonova.network.fragments import Names
from kilonova.network.host import namespaces, wireguard
from kilonova.network.host.removal import remove_everything
from kilonova.network.vpn_plan import device_name
from kilonova.store import schema

from .vpn_world import (
    Vpn,
    VpnClient,
    client,
    connect,
    delete_vpn,
    disconnect_all,
    reaches,
    revoke,
    vpn,
    wireguard_processes,
)
from .world import Guest, Network, World, connects, pings, until


class Project:
    """A network with a VPN, a guest that listens on port 80, and a connected client; all in the default group."""

    def __init__(self, world: World, public: Network, network: Network, group: str) -> None:
        self.world, self.public, self.network, self.group = world, public, network, group
        self.guest: Guest
        self.vpn: Vpn
        self.client: VpnClient
        self.router = Names(world.config.host.prefix).router(network.router_id)

    async def joined(self, offset: int, number: int) -> VpnClient:
        """One more client."""
        more = await client(self.world, self.vpn, offset, [self.group])
        await self.world.look()
        connect(self.world, more, number=number)
        return more

    def route_into_the_tunnel(self, *targets: str) -> None:
        """As a client with a file of its own making would."""
        namespace, device = self.client.namespace, self.client.device
        for target in targets:
            self.world.inside(namespace, "ip", "route", "add", target, "dev", device)
        self.world.inside(namespace, "wg", "set", device, "peer", self.vpn.keys.public, "allowed-ips", "0.0.0.0/0")

    def has_socket(self) -> bool:
        return Path(f"/var/run/wireguard/{self.device}.sock").exists()

    @property
    def device(self) -> str:
        return device_name(self.world.config.host.prefix, self.vpn.id)

    def in_router(self, *argv: str) -> str:
        return self.world.inside(self.router, *argv)


@pytest.fixture
async def project(world: World) -> AsyncIterator[Project]:
    public = await world.public_network()
    network = await world.network(public=public)
    made = Project(world, public, network, await world.default_group(network.project_id))
    made.guest = await world.guest(network, 3, [made.group])
    world.listen(made.guest, 80)
    made.vpn = await vpn(world, network)
    made.client = await client(world, made.vpn, 7, [made.group])
    await world.look()
    try:
        connect(world, made.client)
        assert reaches(made.client, made.guest.address, 80) == made.client.address
        yield made
    finally:
        disconnect_all(world)


async def test_guest_and_client_of_one_group_reach_each_other_with_large_packets(project: Project) -> None:
    assert pings(project.guest.namespace, project.client.address)
    argv = ["ping", "-M", "do", "-s", "1392", "-c", "1", "-W", "2", project.guest.address]
    assert " 0% packet loss" in project.world.inside(project.client.namespace, *argv)
    # A guest that sends more than the tunnel carries is told so by its router.
    too_much = project.guest.run("ping", "-M", "do", "-s", "1472", "-c", "2", project.client.address)
    assert "mtu" in (too_much.stdout + too_much.stderr).lower()


async def test_names_of_the_project_resolve_for_a_client(project: Project) -> None:
    service = project.network.address(2)
    assert await project.world.dhcp(project.guest) == project.guest.address
    found = project.world.inside(project.client.namespace, "busybox", "nslookup", "guest-3.kilonova.internal", service)
    assert project.guest.address in found


async def test_security_groups_rule_what_a_client_reaches(project: Project) -> None:
    world = project.world
    closed = await world.group(project.network.project_id)
    alone = await world.guest(project.network, 4, [closed])
    world.listen(alone, 80)
    await world.look()
    assert not connects(project.client.namespace, alone.address, 80)

    rule = await world.rule(closed, protocol="tcp", port_range_min=80, port_range_max=80, remote_group_id=project.group)
    await world.look()
    assert connects(project.client.namespace, alone.address, 80) == project.client.address

    await world.remove_rule(rule)
    await world.look()
    assert not connects(project.client.namespace, alone.address, 80)


async def test_a_guest_outside_the_clients_groups_does_not_reach_the_client(project: Project) -> None:
    world = project.world
    stranger = await world.guest(project.network, 4, [await world.group(project.network.project_id)])
    second = await world.network("10.0.9.0/24", project.network.project_id)
    await world.attach(second, project.network.router_id)
    neighbour = await world.guest(second, 4, [await world.group(project.network.project_id)])
    friend = await world.guest(second, 5, [project.group])
    await world.look()
    project.route_into_the_tunnel(second.cidr)

    assert pings(friend.namespace, project.client.address)
    assert not pings(stranger.namespace, project.client.address)
    assert not pings(neighbour.namespace, project.client.address)


async def test_a_client_reaches_nothing_but_its_projects_networks(project: Project) -> None:
    world = project.world
    other = await world.network("10.0.1.0/24", public=project.public)
    open_group = await world.group(other.project_id, [{"direction": "ingress", "ethertype": "IPv4"}])
    foreign = await world.guest(other, 3, [open_group])
    world.listen(foreign, 80)
    floating = await world.floating_ip(project.public, 50, foreign)
    mine_outside = await world.floating_ip(project.public, 51, project.guest)
    await world.look()
    world.listen_in(world.outside, 8080)
    targets = [foreign.address, other.address(1), floating, mine_outside, "203.0.113.1", "169.254.169.254"]
    targets.append(project.vpn.address)
    project.route_into_the_tunnel(*targets)
    # The walls are tried while the tunnel works: else they would prove nothing.
    assert connects(project.client.namespace, project.guest.address, 80) == project.client.address
    assert not connects(project.client.namespace, foreign.address, 80)
    assert not connects(project.client.namespace, floating, 80)
    assert not connects(project.client.namespace, mine_outside, 80)
    assert not connects(project.client.namespace, "203.0.113.1", 8080)
    assert not connects(project.client.namespace, "169.254.169.254", 80)
    assert not pings(project.client.namespace, other.address(1))
    assert not pings(project.client.namespace, project.vpn.address)


async def test_a_client_cannot_send_from_another_address(project: Project) -> None:
    world = project.world
    world.inside(
        project.client.namespace, "ip", "addr", "add", project.network.address(9), "dev", project.client.device
    )

    argv = ["ping", "-c", "1", "-W", "1", "-I", project.network.address(9), project.guest.address]
    assert "100% packet loss" in world.inside(project.client.namespace, *argv, check=False)


async def test_revoked_client_loses_access_and_its_open_flows_and_others_keep_theirs(project: Project) -> None:
    world = project.world
    other = await project.joined(8, number=1)
    assert reaches(other, project.guest.address, 80) == other.address
    kept = _pinging(other, project.guest)
    assert pings(project.client.namespace, project.guest.address)
    flows = ["conntrack", "-L", "-s", project.client.address]
    assert project.client.address in world.inside(world.switch, *flows) + project.in_router(*flows)

    await revoke(world, project.client)
    await world.look()

    assert not pings(project.client.namespace, project.guest.address)
    assert project.client.address not in world.inside(world.switch, *flows) + project.in_router(*flows)
    assert _lost(kept) == 0
    held = {row["address"] for row in await world.rows(schema.addresses)}
    assert other.address in held
    assert project.client.address not in held
    assert project.client.address not in project.in_router("ip", "neigh", "show", "proxy")


async def test_a_restarted_agent_drops_no_packet_of_a_client_and_keeps_its_process(project: Project) -> None:
    traffic = _pinging(project.client, project.guest)
    processes = wireguard_processes(project.router)

    for _ in range(2):
        await project.world.restart_agent()
        await project.world.look_at_host()

    assert wireguard_processes(project.router) == processes
    assert _lost(traffic) == 0


async def test_a_killed_wireguard_comes_back_when_the_agent_hears_nothing_of_it(project: Project) -> None:
    killed = wireguard_processes(project.router)
    if not killed:
        pytest.skip("this kernel has WireGuard itself: there is no process to kill")
    for process in killed:
        os.kill(process, signal.SIGKILL)
    until(lambda: wireguard_processes(project.router) == [], "end of the process")

    await project.world.agent._vpn_watch.look()
    await project.world.look()

    assert len(wireguard_processes(project.router)) == 1
    # The client's side asks for a new session when nothing was answered for fifteen seconds.
    reaches(project.client, project.guest.address, 80, within_s=40.0)


async def test_what_was_changed_by_hand_is_mended(project: Project) -> None:
    device, leg = project.device, project.in_router("ip", "neigh", "show", "proxy").split()[2]
    project.in_router("ip", "route", "del", project.client.address, "dev", device)
    project.in_router("ip", "neigh", "del", "proxy", project.client.address, "dev", leg)
    [key] = re.findall(r"^peer: (.*)$", project.in_router("wg", "show", device), re.MULTILINE)
    project.in_router("wg", "set", device, "peer", key, "allowed-ips", "10.0.0.99/32")
    project.in_router("ip", "link", "set", device, "mtu", "1300")
    assert not pings(project.client.namespace, project.guest.address)

    await project.world.look_at_host()

    assert pings(project.client.namespace, project.guest.address)
    assert "mtu 1420" in project.in_router("ip", "link", "show", device)


async def test_explain_knows_the_way_to_a_client_and_back(project: Project) -> None:
    world = project.world
    cloud = Cloud(world.store, world.bus, world.config)
    await world.update(schema.instances, project.guest.instance_id, vm_state="active", power_state=1)

    async def asked(source: str, destination: str) -> dict[str, Any]:
        return await explain(cloud, system_context(), Question(source, destination, parse_traffic("80/tcp")))

    for ends in (
        (project.client.address, project.guest.instance_id),
        (project.guest.instance_id, project.client.address),
    ):
        found = await asked(*ends)
        assert found["verdict"] == "arrives", found["conclusion"]

    project.in_router("ip", "route", "del", project.client.address, "dev", project.device)
    found = await asked(project.client.address, project.guest.instance_id)
    assert (found["verdict"], found["hop"]) == ("dropped", "VPN"), found["conclusion"]
    assert f"route {project.client.address}/32 is missing" in found["conclusion"]


async def test_an_audit_finds_nothing_wrong_and_leaves_clients_outside_alone(project: Project) -> None:
    arguments: dict[str, Any] = {"mend": True}
    found = await project.world.call("audit", **arguments)

    assert (found["drift"], found["leaks"], found["failures"]) == ([], [], {})
    assert connects(project.client.namespace, project.guest.address, 80) == project.client.address


async def test_handshakes_and_states_are_written_down(project: Project) -> None:
    assert (await project.world.row(schema.vpns, project.vpn.id))["status"] == "ACTIVE"

    await project.world.agent._vpn_watch.look()

    row = await project.world.row(schema.vpn_clients, project.client.id)
    assert abs((schema.now() - row["handshake_at"]).total_seconds()) < 60


async def test_a_stopped_vpn_leaves_nothing_and_the_router_stays(project: Project) -> None:
    world = project.world
    await delete_vpn(world, project.vpn, [project.client])
    await world.look()

    until(lambda: wireguard_processes(project.router) == [], "end of the process")
    assert "wg" not in project.in_router("ip", "-br", "link")
    assert project.in_router("ip", "neigh", "show", "proxy") == ""
    assert not project.has_socket()
    assert not pings(project.client.namespace, project.guest.address)
    assert pings(project.guest.namespace, project.network.address(1))
    world.listen_in(project.router, 1000)  # nothing of the port's rule is left either
    assert not connects(world.outside, project.vpn.address, 1000)


async def test_a_cloud_that_is_taken_down_ends_its_wireguard_processes(project: Project) -> None:
    processes = wireguard_processes(project.router)
    await project.world.agent.stop()

    remove_everything(project.world.config)

    until(lambda: not any(os.path.exists(f"/proc/{process}") for process in processes), "end of the processes")
    assert not project.has_socket()


async def test_a_device_that_cannot_be_configured_is_an_error_of_the_vpn_alone_and_holds_its_addresses(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = await world.network(public=await world.public_network())
    group = await world.default_group(network.project_id)
    guest = await world.guest(network, 3, [group])
    of = await vpn(world, network)
    gone = await client(world, of, 7, [group])
    await world.look()

    def broken(device: str) -> None:
        raise CommandFailed(f"wg: {device} does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(wireguard, "_found", broken)
        await revoke(world, gone)
        answer = await world.call("look_again")
        assert list(answer["failures"]) == [of.id]
        assert (await world.row(schema.vpns, of.id))["status"] == "ERROR"
        assert pings(guest.namespace, network.address(1))
        assert gone.address in {row["address"] for row in await world.rows(schema.addresses)}

    await world.look()
    assert (await world.row(schema.vpns, of.id))["status"] == "ACTIVE"
    assert gone.address not in {row["address"] for row in await world.rows(schema.addresses)}


async def test_without_wireguard_a_router_works_and_its_vpn_says_what_is_missing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = await world.network(public=await world.public_network())
    guest = await world.guest(network, 3, [await world.default_group(network.project_id)])
    with monkeypatch.context() as patch:
        patch.setattr(wireguard, "_make", _no_wireguard)
        of = await vpn(world, network)
        await client(world, of, 7, [])
        answer = await world.call("look_again")
        assert "kilonova doctor" in answer["failures"][of.id]
        assert pings(guest.namespace, "203.0.113.1")
    await world.look()
    assert (await world.row(schema.vpns, of.id))["status"] == "ACTIVE"


def _no_wireguard(device: str) -> bool:
    raise CommandFailed(f"VPN device {device}: wireguard-go is not installed (see `kilonova doctor`)")


def _pinging(who: VpnClient, guest: Guest) -> subprocess.Popen[str]:
    """Fifty packets a second until `_lost` asks."""

    def start() -> subprocess.Popen[str]:
        argv = ["ping", "-i", "0.02", "-q", guest.address]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    return namespaces.run_inside(who.namespace, start)


def _lost(traffic: subprocess.Popen[str]) -> int:
    traffic.send_signal(signal.SIGINT)
    said, _ = traffic.communicate(timeout=10)
    sent, received = re.findall(r"(\d+) packets transmitted, (\d+) received", said)[0]
    assert int(sent) > 5, said
    return int(sent) - int(received)


async def test_a_device_that_a_crash_left_unmarked_goes_with_its_vpn(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent ends between the start of WireGuard and the first change of its device, and then the VPN does."""
    world = project.world
    await delete_vpn(world, project.vpn, [project.client])
    await world.look()
    until(lambda: wireguard_processes(project.router) == [], "end of the process")
    again = await vpn(world, project.network, port=1001)

    def crash(*_: object) -> None:
        raise CommandFailed("killed")

    with monkeypatch.context() as patched:
        patched.setattr("kilonova.network.host.apply._apply_inside", crash)
        await world.call("look_again")
    assert wireguard_processes(project.router) != []
    await delete_vpn(world, again, [])
    await world.restart_agent()

    until(lambda: wireguard_processes(project.router) == [], "end of the process")
    assert "wg" not in project.in_router("ip", "-br", "link")


async def test_a_pair_that_covers_services_and_clients_is_realised_and_goes(project: Project) -> None:
    world, group = project.world, project.group
    pair = {"ip_address": project.network.cidr, "mac_address": "fa:16:3e:00:00:01"}
    guest = await world.guest(project.network, 20, [group], allowed_address_pairs=[pair])
    await world.look()
    await world.look_at_host()
    assert world.agent._last is not None
    assert world.agent._last.outcome.changes == ()
    assert pings(guest.namespace, project.guest.address)
    assert connects(project.client.namespace, project.guest.address, 80) == project.client.address

    await world.delete_port(guest.port_id)
    await world.look()
    await world.look_at_host()

    assert world.agent._last.outcome.changes == ()
    assert connects(project.client.namespace, project.guest.address, 80) == project.client.address
