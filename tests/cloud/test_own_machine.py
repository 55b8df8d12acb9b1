"""`kilonova up` on a machine with NICs of its own: floating addresses answer on the network behind the public one.

The machine is a namespace of the test, and so is the network outside: cloud and clients run inside.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import need_root
from running import PROGRAMS, RunningCloud, run_program, until

MACHINE, OUTSIDE = "kntest-machine", "kntest-isp"
RANGE, ROUTER_OF_THE_ISP = "198.51.100.0/24", "198.51.100.1"


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
    ip("-n", MACHINE, "link", "add", "eth1", "type", "veth", "peer", "name", "eth0", "netns", OUTSIDE)
    ip("-n", OUTSIDE, "address", "add", f"{ROUTER_OF_THE_ISP}/24", "dev", "eth0")
    ip("-n", OUTSIDE, "link", "set", "eth0", "up")
    cloud = CloudOfAMachine(tmp_path / "state", "host", "namespace")
    try:
        listen = f"127.0.0.1:{cloud.port}"
        cloud.kilonova("up", "--detach", "--driver", "namespace", "--listen", listen, "--public-interface", "eth1")
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


def test_a_sandbox_takes_no_public_nic(tmp_path: Path) -> None:
    cloud = RunningCloud(tmp_path / "state", "sandbox", "namespace")
    refused = cloud.kilonova("up", "--sandbox", "--public-interface", "eth1", check=False)
    assert refused.returncode == 1
    assert "--public-interface" in refused.stderr
    assert not (tmp_path / "state").exists()
