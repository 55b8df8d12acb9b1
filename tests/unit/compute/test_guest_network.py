"""What guests, light ones and the tiny image, make of the `network_data.json` that the metadata documents have."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kilonova.compute.guest_network import network_commands
from kilonova.errors import CommandFailed
from kilonova.metadata import InstanceMetadata, Interface, InterfaceAddress, Route, openstack_network_data

AWK = Path(__file__).parents[3] / "tools" / "image" / "root" / "etc" / "tiny" / "network_data.awk"
Reader = Callable[[bytes, int], tuple[list[str], bool]]
MACS = ("fa:16:3e:00:00:01", "fa:16:3e:00:00:02")
FLAT = InterfaceAddress(
    "192.0.2.5",
    25,
    "s",
    dhcp=False,
    gateway="192.0.2.1",
    nameservers=("192.0.2.53", "192.0.2.54"),
    routes=(Route("172.16.0.0/12", "192.0.2.9"),),
)
SIX = InterfaceAddress("fd00::5", 68, "s6", dhcp=False, gateway="fd00::1")
LEASED = InterfaceAddress("10.0.0.3", 24, "d", gateway="10.0.0.1", nameservers=("10.0.0.2",))


def document(*interfaces: tuple[InterfaceAddress, ...]) -> bytes:
    made = tuple(
        Interface(f"port-{number}", f"tap{number}", MACS[number], 1442, f"net-{number}", addresses)
        for number, addresses in enumerate(interfaces)
    )
    return json.dumps(openstack_network_data(InstanceMetadata("i", "n", "n", "p", interfaces=made))).encode()


def light(data: bytes, number: int) -> tuple[list[str], bool]:
    """A light guest's commands for one interface, and whether it asks for an address by DHCP."""
    lines = [line for line in network_commands(data, MACS).splitlines() if f"eth{number}" in line]
    asks = f"dhcp eth{number}" in lines
    return [line for line in lines if line.startswith(("ip -", "reply_by", "say"))], asks


def tiny(data: bytes, number: int) -> tuple[list[str], bool]:
    """The same of the tiny image, whose awk is busybox's."""
    done = subprocess.run(
        ["busybox", "awk", "-v", f"mac={MACS[number]}", "-v", f"interface=eth{number}", "-f", str(AWK)],
        input=data,
        capture_output=True,
        check=False,
    )
    assert not done.stderr
    lines = [line.replace("addr replace", "addr add") for line in done.stdout.decode().splitlines()]
    return [line for line in lines if line.startswith(("ip -", "reply_by", "say"))], done.returncode == 1


@pytest.fixture(params=[light, tiny])
def reader(request: pytest.FixtureRequest) -> Reader:
    chosen: Reader = request.param
    return chosen


def test_static_address_comes_with_netmask_gateway_and_routes(reader: Reader) -> None:
    assert reader(document((FLAT,)), 0) == (
        [
            "ip -4 addr add 192.0.2.5/25 dev eth0",
            "ip -4 route replace 0.0.0.0/0 via 192.0.2.1 dev eth0 onlink metric 0",
            "ip -4 route replace 172.16.0.0/12 via 192.0.2.9 dev eth0 onlink metric 0",
            "say static eth0 192.0.2.5/25",
        ],
        False,
    )


def test_what_dhcp_gives_is_left_to_dhcp(reader: Reader) -> None:
    assert reader(document((LEASED,)), 0) == ([], True)


def test_interface_that_the_document_does_not_know_asks_by_dhcp(reader: Reader) -> None:
    assert reader(document((FLAT,)), 1) == ([], True)
    assert reader(b"{}", 0) == ([], True)


def test_second_interface_has_worse_routes_and_answers_by_itself(reader: Reader) -> None:
    lines, asks = reader(document((LEASED,), (replace(FLAT, routes=()),)), 1)
    assert not asks
    assert lines == [
        "ip -4 addr add 192.0.2.5/25 dev eth1",
        "ip -4 route replace 0.0.0.0/0 via 192.0.2.1 dev eth1 onlink metric 1",
        "reply_by 4 eth1 1 192.0.2.5 192.0.2.1",
        "say static eth1 192.0.2.5/25",
    ]


def test_static_ipv6_beside_a_lease(reader: Reader) -> None:
    assert reader(document((LEASED, SIX)), 0) == (
        [
            "ip -6 addr add fd00::5/68 dev eth0",
            "ip -6 route replace ::/0 via fd00::1 dev eth0 metric 1",
            "say static eth0 fd00::5/68",
        ],
        True,
    )


@pytest.mark.parametrize(("mode", "told"), [("dhcpv6-stateful", True), ("dhcpv6-stateless", False), ("slaac", False)])
def test_ipv6_address_is_told_where_the_kernel_does_not_make_it(reader: Reader, mode: str, told: bool) -> None:
    lines, asks = reader(document((replace(SIX, dhcp=True, ipv6_mode=mode),)), 0)
    assert bool(lines) == told
    assert not asks


def test_subnet_without_gateway_gives_no_default_route(reader: Reader) -> None:
    lines, _ = reader(document((replace(FLAT, gateway=None, routes=()),)), 0)
    assert lines == ["ip -4 addr add 192.0.2.5/25 dev eth0", "say static eth0 192.0.2.5/25"]


def test_light_guest_sets_the_mtu_and_the_name_servers() -> None:
    lines = network_commands(document((FLAT,)), MACS[:1]).splitlines()
    assert "ip link set eth0 mtu 1442 up" in lines
    assert [line for line in lines if "nameserver" in line] == [
        "echo nameserver 192.0.2.53 >>/etc/resolv.conf.eth0",
        "echo nameserver 192.0.2.54 >>/etc/resolv.conf.eth0",
    ]


@pytest.mark.parametrize("text", ["1.2.3.4; reboot", "$(reboot)", ""])
def test_text_that_is_no_address_never_becomes_a_command(text: str) -> None:
    data = document((FLAT,)).replace(b"192.0.2.53", text.encode())
    with pytest.raises(CommandFailed, match="network_data"):
        network_commands(data, MACS)
    lines, _ = tiny(data.replace(b'192.0.2.5"', text.encode() + b'"'), 0)
    assert "reboot" not in "".join(lines)


def test_text_that_is_no_document_is_said() -> None:
    with pytest.raises(CommandFailed, match="network_data"):
        network_commands(b"not JSON", MACS)
