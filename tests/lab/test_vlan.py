"""The kernel's own 802.1Q: hosts with VLAN devices on one trunk, made by the cloud's code from rows."""

from __future__ import annotations

import pytest

from .lab import BLUE, RED, SWITCH, Lab
from .rack import Capture
from .uml import TRUNK

pytestmark = pytest.mark.timeout(180)
IPV4 = 0x0800


def test_the_hosts_have_the_kernels_vlan_devices(lab: Lab) -> None:
    for host in lab.hosts.values():
        for vlan in (RED, BLUE):
            line = next(line for line in lab.devices(host).splitlines() if f" {TRUNK}.{vlan}@{TRUNK}:" in line)
            assert f"vlan protocol 802.1Q id {vlan} " in line
            assert f"master br{vlan} " in line


@pytest.mark.parametrize("vlan", [RED, BLUE])
def test_guests_of_a_network_reach_each_other_across_hosts(lab: Lab, vlan: int) -> None:
    first, second = (lab.ports[name, vlan] for name in ("host1", "host2"))
    assert lab.pings(first, second)
    assert lab.pings(second, first, size=1472), "a frame of the full MTU must fit through with its tag"


def test_networks_with_equal_addresses_stay_apart(lab: Lab) -> None:
    red, blue = lab.ports["host1", RED], lab.ports["host1", BLUE]
    assert not lab.pings(red, lab.ports["host2", BLUE])
    assert not lab.pings(red, blue), "nor on one host"
    assert not lab.pings(blue, lab.ports["host2", RED])


def test_every_frame_on_the_trunk_has_its_networks_tag(lab: Lab) -> None:
    capture = Capture(lab.rack.name, "trunk1")
    try:
        for vlan in (RED, BLUE):
            assert lab.pings(lab.ports["host1", vlan], lab.ports["host2", vlan])
            frames = capture.frames()
            echoes = [frame.vlan for frame in frames if frame.ethertype == IPV4]
            assert len(echoes) >= 4, "two requests, two answers"
            assert set(echoes) == {vlan}
            assert {frame.vlan for frame in frames} <= {RED, BLUE}, "nothing travels untagged"
    finally:
        capture.close()


def test_looking_again_changes_nothing(lab: Lab) -> None:
    for host in lab.hosts.values():
        assert list(lab.realise(host, look=True)) == []


def test_a_vlan_device_removed_by_hand_comes_back(lab: Lab) -> None:
    host = lab.hosts["host1"]
    host.shell(f"ip -n {SWITCH} link delete {TRUNK}.{RED}")
    first, second = (lab.ports[name, RED] for name in ("host1", "host2"))
    assert not lab.pings(second, first)
    assert "".join(lab.realise(host, look=True))
    assert lab.pings(second, first)


def test_a_trunk_set_down_by_hand_comes_back_with_what_it_carries(lab: Lab) -> None:
    host = lab.hosts["host1"]
    host.shell(f"ip -n {SWITCH} link set {TRUNK} down")
    first, second = (lab.ports[name, RED] for name in ("host1", "host2"))
    assert not lab.pings(second, first)
    assert "".join(lab.realise(host, look=True)), "one pass must do"
    assert lab.pings(second, first)


def test_bridge_and_vlan_device_leave_the_host_with_its_last_port(lab: Lab) -> None:
    host = lab.hosts["host2"]
    gone = lab.ports.pop(("host2", BLUE))
    host.shell(f"ip netns delete {gone.name}")
    lab.rows.remove(gone)
    lab.realise(host)
    devices = lab.devices(host)
    assert f"{TRUNK}.{BLUE}" not in devices
    assert f" br{BLUE}:" not in devices
    assert f" br{RED}:" in devices
    assert lab.pings(lab.ports["host1", RED], lab.ports["host2", RED]), "the other network is not touched"
