"""`kilonova up` on a machine with NICs of its own: floating addresses answer on the network behind the public one, and
projects' networks leave by the trunk and the tunnel.

The machine is a namespace of the test, and so is the network outside: cloud and clients run inside.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kilonova.network.host import namespaces
from kilonova.network.host.links import Links
from kilonova.network.layout import Link, VlanTag

from .conftest import need_root
from .running import PROGRAMS, RunningCloud, run_program, until

MACHINE, OUTSIDE = "kntest-machine", "kntest-isp"
NICS = {"eth1": "eth0", "eth2": "trunk", "eth3": "underlay"}
"""The machine's, and their other ends outside."""
RANGE, ROUTER_OF_THE_ISP = "198.51.100.0/24", "198.51.100.1"
TUNNEL = "192.0.2.1"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=20)


def inside(namespace: str) -> list[str]:
    """Only the network: mounts made inside, such as those of namespaces, are seen outside too."""
    return ["nsenter", f"--net=/run/netns/{namespace}"]


@dataclass
class CloudOfAMachine(RunningCloud):
    def kilonova(self, *args: str, check: bool = True, timeout_s: float = 90) -> subprocess.CompletedProcess[str]:
        program = str(PROGRAMS / "kilonova")
        return run_program([*inside(MACHINE), program, *args], self.environment, check, timeout_s)

    def openstack(
        self, *args: str, check: bool = True, as_user: tuple[str, str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, **self.credentials()}
        return run_program([*inside(MACHINE), str(PROGRAMS / "openstack"), *args], environment, check, 120)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[CloudOfAMachine]:
    need_root("host")
    for name in (MACHINE, OUTSIDE):
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
    for nic, end in NICS.items():
        ip("-n", MACHINE, "link", "add", nic, "type", "veth", "peer", "name", end, "netns", OUTSIDE)
        ip("-n", OUTSIDE, "link", "set", end, "up")
    ip("-n", OUTSIDE, "address", "add", f"{ROUTER_OF_THE_ISP}/24", "dev", "eth0")
    cloud = CloudOfAMachine(tmp_path / "state", "host", "namespace")
    try:
        listen = f"127.0.0.1:{cloud.port}"
        wires = ["--public-interface", "eth1", "--trunk", "physnet1=eth2", "--tunnel", f"eth3={TUNNEL}/24"]
        cloud.kilonova("up", "--detach", "--driver", "namespace", "--listen", listen, *wires)
        yield cloud
    finally:
        cloud.down("--purge")
        for name in (MACHINE, OUTSIDE):
            ip("netns", "delete", name)


def test_guest_answers_on_its_floating_address_behind_the_public_nic(cloud: CloudOfAMachine) -> None:
    cloud.kilonova("network", "create", "--fixed-range", "10.8.0.0/16", "--num-networks", "4")
    cloud.kilonova("floating", "create", "host1", RANGE)
    image = cloud.state_dir.parent / "image"
    image.write_bytes(b"kilonova" * 512)
    cloud.openstack("image", "create", "--public", "--disk-format", "raw", "--file", str(image), "tiny")
    cloud.openstack("server", "create", "--wait", "--image", "tiny", "--flavor", "m1.nano", "--nic", "auto", "web")
    address = cloud.openstack_json("floating", "ip", "create", "public")["floating_ip_address"]
    cloud.openstack("server", "add", "floating", "ip", "web", address)
    ping = [*inside(OUTSIDE), "ping", "-c", "1", "-W", "1", address]

    def answers() -> bool:
        return subprocess.run(ping, capture_output=True, check=False, timeout=20).returncode == 0

    assert not answers()  # nothing but a rule opens a port
    rule = ("security", "group", "rule", "create", "--ingress", "--protocol", "icmp", "default")
    cloud.openstack(*rule)

    until(f"{address} answers", answers)


def test_networks_leave_the_machine_by_trunk_and_tunnel(cloud: CloudOfAMachine) -> None:
    by_trunk = (
        "--provider-network-type",
        "vlan",
        "--provider-physical-network",
        "physnet1",
        "--provider-segment",
        "300",
    )
    by_tunnel = ("--provider-network-type", "vxlan", "--provider-segment", "5000")
    for number, (name, how) in enumerate({"tagged": by_trunk, "tunnelled": by_tunnel}.items(), start=1):
        cloud.openstack("network", "create", *how, name)
        cloud.openstack("subnet", "create", "--network", name, "--subnet-range", f"10.9.{number}.0/24", name)
    image = cloud.state_dir.parent / "image"
    image.write_bytes(b"kilonova" * 512)
    cloud.openstack("image", "create", "--disk-format", "raw", "--file", str(image), "tiny")
    on_both = ("--network", "tagged", "--network", "tunnelled")
    cloud.openstack("server", "create", "--wait", "--image", "tiny", "--flavor", "m1.nano", *on_both, "web")
    (address,) = cloud.openstack_json("server", "show", "web")["addresses"]["tagged"]

    switch = f"{json.loads(cloud.kilonova('status', '--json').stdout)['prefix']}-switch"
    links = {link["ifname"]: link for link in show(switch, "link", "show")}
    assert links["eth2.300"]["master"] == "br300"
    assert links["vx5000"]["master"] == "bv5000"
    assert TUNNEL in str(show(switch, "address", "show", "dev", "eth3"))
    assert cloud.openstack_json("network", "show", "tunnelled")["mtu"] == links["vx5000"]["mtu"] == 1450

    # A neighbour on the trunk, by a VLAN device of its own, is answered once a rule lets it in.
    cloud.openstack("security", "group", "rule", "create", "--ingress", "--protocol", "icmp", "default")
    vlan_device(OUTSIDE, "trunk", 300, "10.9.1.200/24")
    ping = [*inside(OUTSIDE), "ping", "-c", "1", "-W", "1", address]
    until(
        f"{address} answers on the trunk",
        lambda: subprocess.run(ping, capture_output=True, check=False, timeout=20).returncode == 0,
    )


def show(namespace: str, *words: str) -> list[dict[str, Any]]:
    done = subprocess.run(["ip", "-n", namespace, "-j", *words], check=True, capture_output=True, text=True, timeout=20)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def vlan_device(namespace: str, trunk: str, vid: int, address: str) -> None:
    name = f"{trunk}.{vid}"

    def make() -> None:
        with Links() as links:
            links.add(name, Link("vlan", 1500, addresses=frozenset({address}), tag=VlanTag(trunk, vid)))

    namespaces.run_inside(namespace, make)


def test_a_sandbox_takes_no_public_nic(tmp_path: Path) -> None:
    cloud = RunningCloud(tmp_path / "state", "sandbox", "namespace")
    refused = cloud.kilonova("up", "--sandbox", "--public-interface", "eth1", check=False)
    assert refused.returncode == 1
    assert "--public-interface" in refused.stderr
    assert not (tmp_path / "state").exists()
