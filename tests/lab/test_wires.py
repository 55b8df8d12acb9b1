"""Hosts with kernels of their own on one trunk: VLAN devices and tunnels, made by the cloud's code from rows."""

from __future__ import annotations

import struct

import pytest

from .lab import BLUE, LOCAL, OWN_KERNELS, RED, SERVED, TUNNELLED, Lab, guest, switch
from .rack import Capture
from .uml import TRUNK

pytestmark = pytest.mark.timeout(180)
IPV4 = 0x0800
VXLAN = 4789
PROTOCOL, ICMP, UDP = 9, 1, 17
"""Where an IPv4 header has its protocol, and two of them."""


def test_hosts_have_the_kernels_vlan_devices_where_the_kernel_has_them(lab: Lab) -> None:
    for name in OWN_KERNELS:
        for vlan in (RED, BLUE):
            line = device_line(lab, name, vlan)
            assert f"vlan protocol 802.1Q id {vlan} " in line
            assert f"master br{vlan} " in line
    assert " veth " in device_line(lab, LOCAL, RED), "the third host's are tc's"


def device_line(lab: Lab, name: str, vlan: int) -> str:
    lines = lab.devices(lab.hosts[name]).splitlines()
    return next(line for line in lines if f" {TRUNK}.{vlan}@" in line)


@pytest.mark.parametrize("vlan", [RED, BLUE])
@pytest.mark.parametrize(("source", "target"), [("host1", "host2"), ("host2", LOCAL), (LOCAL, "host1")])
def test_guests_of_a_network_reach_each_other_across_hosts(lab: Lab, vlan: int, source: str, target: str) -> None:
    first, second = lab.ports[source, vlan], lab.ports[target, vlan]
    assert lab.pings(first, second)
    assert lab.pings(second, first, size=1472), "a frame of the full MTU must fit through with its tag"


@pytest.mark.parametrize(("source", "target"), [("host1", "host2"), ("host1", LOCAL), (LOCAL, "host2")])
def test_networks_with_equal_addresses_stay_apart(lab: Lab, source: str, target: str) -> None:
    assert not lab.pings(lab.ports[source, RED], lab.ports[target, BLUE])
    assert not lab.pings(lab.ports[source, RED], lab.ports[source, BLUE]), "nor on one host"


@pytest.mark.parametrize(("source", "target"), [("host1", "host2"), ("host1", LOCAL), (LOCAL, "host2")])
def test_guests_reach_each_other_through_tunnels_between_kernels(lab: Lab, source: str, target: str) -> None:
    capture = Capture(lab.rack.name, "trunk-host3" if LOCAL in (source, target) else "trunk1")
    try:
        assert lab.pings(lab.ports[source, TUNNELLED], lab.ports[target, TUNNELLED], size=1422)
        frames = [frame for frame in capture.frames() if frame.ethertype == IPV4 and frame.vlan is None]
        assert ICMP not in {frame.payload[PROTOCOL] for frame in frames}
        datagrams = [frame.payload for frame in frames if frame.payload[PROTOCOL] == UDP]
        assert {struct.unpack_from("!H", payload, 22)[0] for payload in datagrams} == {VXLAN}
    finally:
        capture.close()


@pytest.mark.parametrize("name", ["host2", LOCAL])
def test_guest_gets_its_lease_from_the_network_host_over_the_trunk(lab: Lab, name: str) -> None:
    port, host = lab.ports[name, SERVED], lab.hosts[name]
    script = "#!/bin/sh\n[ $1 = bound ] && echo leased $ip router $router by $serverid\nexit 0\n"
    said = host.shell(
        f"cat > /tmp/lab-{port.id} <<'end'\n{script}end\nchmod 755 /tmp/lab-{port.id}\n"
        f"ip netns exec {guest(port, host)} busybox udhcpc -f -q -n -t 10 -T 1 -i eth0 -s /tmp/lab-{port.id}\n"
        f"rm /tmp/lab-{port.id}"
    )
    assert f"leased {port.address} router 10.60.0.1 by 10.60.0.2" in said


def test_every_frame_on_the_trunk_has_its_networks_tag(lab: Lab) -> None:
    capture = Capture(lab.rack.name, "trunk1")
    try:
        for vlan in (RED, BLUE):
            assert lab.pings(lab.ports["host1", vlan], lab.ports["host2", vlan])
            frames = capture.frames()
            echoes = [frame.vlan for frame in frames if frame.ethertype == IPV4 and frame.payload[PROTOCOL] == ICMP]
            assert len(echoes) >= 4, "two requests, two answers"
            assert set(echoes) == {vlan}
    finally:
        capture.close()


def test_looking_again_changes_nothing(lab: Lab) -> None:
    for host in lab.hosts.values():
        assert list(lab.realise(host, look=True)) == [], host.name


def test_a_vlan_device_removed_by_hand_comes_back(lab: Lab) -> None:
    host = lab.hosts["host1"]
    host.shell(f"ip -n {switch(host)} link delete {TRUNK}.{RED}")
    first, second = (lab.ports[name, RED] for name in ("host1", "host2"))
    assert not lab.pings(second, first)
    assert "".join(lab.realise(host, look=True))
    assert lab.pings(second, first)


def test_a_trunk_set_down_by_hand_comes_back_with_what_it_carries(lab: Lab) -> None:
    host = lab.hosts["host1"]
    host.shell(f"ip -n {switch(host)} link set {TRUNK} down")
    first, second = (lab.ports[name, RED] for name in ("host1", "host2"))
    assert not lab.pings(second, first)
    assert "".join(lab.realise(host, look=True)), "one pass must do"
    assert lab.pings(second, first)


def test_bridge_and_vlan_device_leave_the_host_with_its_last_port(lab: Lab) -> None:
    host = lab.hosts["host2"]
    gone = lab.ports.pop(("host2", BLUE))
    host.shell(f"ip netns delete {guest(gone, host)}")
    lab.rows.remove(gone)
    lab.realise(host)
    devices = lab.devices(host)
    assert f"{TRUNK}.{BLUE}" not in devices
    assert f" br{BLUE}:" not in devices
    assert f" br{RED}:" in devices
    assert lab.pings(lab.ports["host1", RED], lab.ports["host2", RED]), "the other network is not touched"
