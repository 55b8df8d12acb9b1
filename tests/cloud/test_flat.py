"""Flat networks from end to end: the administrator's bridge, a machine of his on it, servers of two projects.

`flat` has no DHCP: the address reaches the guest by its config drive. `flat-dhcp` is the same with DHCP.
"""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from openstack.connection import Connection

from .conftest import MakeCloud
from .running import RunningCloud, until

LANS = {"flat": ("physnet2", "br-lan", "192.0.2.0/25", "192.0.2.1"),
        "flat-dhcp": ("physnet3", "br-lan3", "192.0.2.128/25", "192.0.2.129")}  # fmt: skip
"""Manager -> physical network, bridge, subnet, gateway."""


@dataclass
class Site:
    """A cloud, the administrator's bridges in its switch namespace, and his machine, the gateway, on each."""

    cloud: RunningCloud
    machines: dict[str, str] = field(default_factory=dict)
    """Manager -> namespace of the machine on its bridge."""

    @property
    def prefix(self) -> str:
        return self.cloud.prefix

    def up(self) -> None:
        named = [word for physical, bridge, _, _ in LANS.values() for word in ("--flat", f"{physical}={bridge}")]
        self.cloud.up(*named)

    def lay(self, manager: str) -> None:
        """Make the bridge and put the machine on it."""
        _, bridge, cidr, gateway = LANS[manager]
        switch, machine = f"{self.prefix}-switch", f"lan-{self.prefix}-{manager}"
        self.machines[manager] = machine
        ip("netns", "add", machine)
        ip("-n", switch, "link", "add", bridge, "type", "bridge")
        ip("-n", switch, "link", "set", bridge, "up")
        end = f"up-{bridge}"
        ip("-n", switch, "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", machine)
        ip("-n", switch, "link", "set", end, "master", bridge, "up")
        ip("-n", machine, "addr", "add", f"{gateway}/{cidr.rpartition('/')[2]}", "dev", "eth0")
        for device in ("lo", "eth0"):
            ip("-n", machine, "link", "set", device, "up")

    def create(self, manager: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        physical, _, cidr, _ = LANS[manager]
        words = ["--manager", manager, "--physical-network", physical, "--fixed-range", cidr]
        return self.cloud.kilonova("network", "create", *words, check=check)

    def network(self, manager: str) -> None:
        """Lay the bridge and make the network, once the host's agent has said that it has the bridge."""
        self.lay(manager)
        until(f"the bridge of {manager}", lambda: self.create(manager, check=False).returncode == 0, 20)

    def member(self, name: str, manager: str) -> Connection:
        """A project whose network shall be of a type, and a member of it."""
        made = self.cloud.member(name)
        self.cloud.kilonova("project", "set", name, "--network-type", manager)
        return made

    def get(self, manager: str, address: str) -> str:
        """What the guest's web server says to the administrator's machine; nothing while it does not."""
        return in_namespace(
            self.machines[manager], "curl", "-s", "--max-time", "1", f"http://{address}/"
        ).stdout.strip()

    def close(self) -> None:
        for machine in self.machines.values():
            subprocess.run(["ip", "netns", "delete", machine], check=False, capture_output=True)


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def in_namespace(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    argv = ["ip", "netns", "exec", name, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL)


def boot(user: Connection, name: str, networks: Any = "auto", flavor: str = "m1.nano", script: str = "") -> Any:
    image = user.image.find_image("tiny")
    wanted = user.compute.find_flavor(flavor, ignore_missing=False)
    more = {"user_data": base64.b64encode(script.encode()).decode()} if script else {}
    server = user.compute.create_server(name=name, image_id=image.id, flavor_id=wanted.id, networks=networks, **more)
    return user.compute.wait_for_server(server, wait=60, interval=0.1)


def addresses(server: Any) -> list[str]:
    return [item["addr"] for found in server.addresses.values() for item in found]


def open_http(user: Connection) -> None:
    group = next(user.network.security_groups(name="default", project_id=user.current_project_id))
    rule = {"direction": "ingress", "ethertype": "IPv4", "protocol": "tcp", "port_range_min": 80, "port_range_max": 80}
    user.network.create_security_group_rule(security_group_id=group.id, **rule)


def somebody_leases(guest: str) -> bool:
    """Does a DHCP server answer the guest? It is asked once more, by its own interface."""
    argv = ["busybox", "udhcpc", "-f", "-q", "-n", "-t", "3", "-T", "1", "-i", "eth0", "-s", "/bin/true"]
    return in_namespace(guest, *argv).returncode == 0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(RunningCloud(tmp_path_factory.mktemp("flat") / "state", "sandbox", "namespace"))
    try:
        made.up()
        made.cloud.upload_tiny()
        yield made
    finally:
        made.cloud.down("--purge")
        made.close()


def test_network_whose_bridge_is_missing_is_refused_before_any_row(site: Site) -> None:
    before = site.cloud.kilonova("network", "list", "--json").stdout
    refused = site.create("flat", check=False)
    assert refused.returncode == 1
    assert "physnet2" in refused.stderr
    assert "--flat physnet2=BRIDGE" in refused.stderr
    assert site.cloud.kilonova("network", "list", "--json").stdout == before


@pytest.mark.timeout(180)
def test_address_of_a_flat_network_is_injected(site: Site) -> None:
    site.network("flat")
    site.cloud.openstack("subnet", "set", "--dns-nameserver", "192.0.2.53", "physnet2-192.0.2.0/25")
    user = site.member("flat-one", "flat")
    server = boot(user, "injected", script="#!/bin/sh\ncat /etc/resolv.conf")
    (address,) = addresses(server)
    assert address.startswith("192.0.2.")
    assert server.has_config_drive
    assert "static eth0" in until("the guest's words", lambda: words(user, server, "user data done: 0"))
    assert words(user, server, "nameserver 192.0.2.53")
    assert site.get("flat", address) == "", "only groups open ports"
    open_http(user)
    assert until("HTTP from the bridge", lambda: site.get("flat", address)) == "injected"
    guest = f"{site.prefix}-g-{server.id[:11]}"
    assert in_namespace(guest, "ping", "-c", "1", "-W", "2", "192.0.2.1").returncode == 0
    assert "default via 192.0.2.1 dev eth0" in ip("-n", guest, "route")
    assert not somebody_leases(guest)


@pytest.mark.timeout(180)
def test_projects_share_a_flat_network_and_stay_apart(site: Site) -> None:
    ensure(site, "flat")
    first, second = site.member("flat-two", "flat"), site.member("flat-three", "flat")
    one, two = boot(first, "one"), boot(second, "two")
    assert addresses(one) != addresses(two)
    guest = f"{site.prefix}-g-{one.id[:11]}"
    target = f"http://{addresses(two)[0]}/"
    assert in_namespace(guest, "curl", "-s", "--max-time", "1", target).returncode != 0
    open_http(second)
    until(
        "HTTP between projects", lambda: in_namespace(guest, "curl", "-sf", "--max-time", "1", target).stdout == "two\n"
    )


@pytest.mark.timeout(180)
def test_flat_dhcp_leases_addresses_on_the_same_kind_of_bridge(site: Site) -> None:
    site.network("flat-dhcp")
    user = site.member("flat-four", "flat-dhcp")
    server = boot(user, "leased")
    (address,) = addresses(server)
    assert not server.has_config_drive
    assert "lease eth0" in until("the guest's lease", lambda: words(user, server, "lease eth0"))
    assert site.get("flat-dhcp", address) == ""
    open_http(user)
    assert until("HTTP from the bridge", lambda: site.get("flat-dhcp", address)) == "leased"
    guest = f"{site.prefix}-g-{server.id[:11]}"
    assert "default via 192.0.2.129 dev eth0" in ip("-n", guest, "route")
    assert somebody_leases(guest)


@pytest.mark.timeout(180)
def test_server_with_ports_on_a_flat_and_a_project_network(site: Site) -> None:
    ensure(site, "flat")
    user = site.member("flat-five", "vlan")
    own = user.network.get_network(user.network.get_auto_allocated_topology().id)
    flat = next(item for item in user.network.networks() if item.name == "flat-physnet2")
    server = boot(user, "both", [{"uuid": flat.id}, {"uuid": own.id}])
    open_http(user)
    on_flat, inside = server.addresses["flat-physnet2"][0]["addr"], server.addresses[own.name][0]["addr"]
    assert until("HTTP from the bridge", lambda: site.get("flat", on_flat)) == "both"
    other = boot(user, "other", [{"uuid": own.id}])
    guest = f"{site.prefix}-g-{other.id[:11]}"
    until("HTTP inside", lambda: in_namespace(guest, "curl", "-sf", "--max-time", "1", f"http://{inside}/").stdout)
    public = next(user.network.networks(is_router_external=True))
    port = next(user.network.ports(device_id=server.id, network_id=own.id))
    floating = user.network.create_ip(floating_network_id=public.id, port_id=port.id)
    fetch = ["sandbox", "exec", "--", "curl", "-sf", "--max-time", "1", f"http://{floating.floating_ip_address}/"]
    until("HTTP through the second interface", lambda: site.cloud.kilonova(*fetch, check=False).stdout == "both\n")


@pytest.mark.timeout(180)
def test_bridge_stays_the_administrators(site: Site) -> None:
    """Nothing of the cloud removes it: not the last server, not the end of the cloud's own process."""
    ensure(site, "flat")
    user = site.member("flat-six", "flat")
    server = boot(user, "last")
    (address,) = addresses(server)
    open_http(user)
    until("HTTP from the bridge", lambda: site.get("flat", address))
    user.compute.delete_server(server)
    user.compute.wait_for_delete(server, wait=30, interval=0.1)
    until("no answer", lambda: not site.get("flat", address))
    assert "br-lan" in ip("-n", f"{site.prefix}-switch", "link", "show", "type", "bridge")


@pytest.mark.timeout(240)
def test_a_virtual_machine_takes_the_injected_address(make_cloud: MakeCloud) -> None:
    cloud = make_cloud("sandbox", "qemu")
    site = Site(cloud)
    try:
        site.up()
        cloud.upload_tiny()
        site.network("flat")
        user = site.member("flat-vm", "flat")
        server = boot(user, "machine", flavor="m1.tiny")
        (address,) = addresses(server)
        open_http(user)
        assert until("HTTP from the bridge", lambda: site.get("flat", address), 90) == "machine"
        said = until("the guest's words", lambda: words(user, server, "metadata from drive"))
        assert f"static eth0 {address}/25" in said
        assert "lease eth0" not in said
    finally:
        cloud.down("--purge")
        site.close()


def words(user: Connection, server: Any, wanted: str) -> str:
    """The guest's console, once it has these words."""
    said = str(user.compute.get_server_console_output(server, length=200).get("output", ""))
    return said if wanted in said else ""


def ensure(site: Site, manager: str) -> None:
    """The network of a manager, if no test before has made it."""
    if manager not in site.machines:
        site.network(manager)
