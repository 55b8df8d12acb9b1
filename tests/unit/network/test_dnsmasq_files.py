"""What dnsmasq reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kilonova.network.dnsmasq_files import DnsmasqFiles, dnsmasq_files
from kilonova.network.host.processes import LOG_BYTES, cut_log
from kilonova.network.plan import HostEntry, ServicePlan, ServiceSubnet, StaticRoute

SUBNET = ServiceSubnet("s", "10.0.0.0/24", "10.0.0.2", "10.0.0.1", (), (), True)
PLAN = ServicePlan("n", "br1", "02:00:00:00:00:01", 1450, "example.org", (SUBNET,))


def files(plan: ServicePlan) -> DnsmasqFiles:
    return dnsmasq_files(plan, Path("/state/network/n"), "svc0", "nobody")


def test_static_range_with_routes_that_include_the_default_one() -> None:
    text = files(PLAN).config

    assert "dhcp-range=set:subnet0,10.0.0.0,static,255.255.255.0,86400\n" in text
    assert "option:classless-static-route,169.254.169.254/32,10.0.0.2,0.0.0.0/0,10.0.0.1\n" in text
    assert "option:dns-server,10.0.0.2\n" in text
    assert "option:mtu,1450\n" in text
    assert "interface=svc0\n" in text
    assert "\nserver=" not in text


def test_subnet_without_gateway_hands_out_none() -> None:
    text = files(replace(PLAN, subnets=(replace(SUBNET, gateway=None),))).config

    assert "option:router\n" in text
    assert "0.0.0.0/0" not in text


def test_own_servers_routes_and_forwarders_are_passed_on() -> None:
    routes = (StaticRoute("10.9.0.0/16", "10.0.0.9"), StaticRoute("2001:db8::/32", "fe80::1"))
    plan = replace(PLAN, subnets=(replace(SUBNET, dns=("9.9.9.9",), routes=routes),), forwarders=("192.0.2.53",))
    text = files(plan).config

    assert "option:dns-server,9.9.9.9\n" in text
    assert "10.9.0.0/16,10.0.0.9" in text
    assert "2001:db8" not in text
    assert "server=192.0.2.53\n" in text


def test_name_servers_of_ipv6_are_not_for_dhcp_of_ipv4() -> None:
    mixed = files(replace(PLAN, subnets=(replace(SUBNET, dns=("2001:db8::53", "9.9.9.9")),))).config
    only = files(replace(PLAN, subnets=(replace(SUBNET, dns=("2001:db8::53",)),))).config

    assert "option:dns-server,9.9.9.9\n" in mixed
    assert "option:dns-server,10.0.0.2\n" in only


def test_subnet_without_dhcp_has_no_range() -> None:
    assert "dhcp-range" not in files(replace(PLAN, subnets=(replace(SUBNET, dhcp=False),))).config


def test_ports_change_files_and_not_the_configuration() -> None:
    entry = HostEntry("p1", "fa:16:3e:00:00:01", "10.0.0.3", "web")
    before, after = files(PLAN), files(replace(PLAN, entries=(entry,)))

    assert before.config_name == after.config_name
    assert after.hosts == {"p1-10.0.0.3": "fa:16:3e:00:00:01,10.0.0.3,web\n"}


def test_other_configuration_has_another_name() -> None:
    assert files(PLAN).config_name != files(replace(PLAN, mtu=1500)).config_name


def test_log_that_a_guest_makes_grow_is_cut_to_its_newest_part(tmp_path: Path) -> None:
    log = tmp_path / "log"
    cut_log(log)
    with log.open("ab") as writer:
        writer.write(b"old\n" * LOG_BYTES)
        writer.flush()
        cut_log(log)
        writer.write(b"new\n")
        writer.flush()

    assert log.stat().st_size <= LOG_BYTES
    assert log.read_bytes().endswith(b"old\nnew\n")


@pytest.mark.parametrize("name", ["ignore", "infinite", "Infinite", "60", "1d", "2W"])
def test_a_name_that_means_something_to_dnsmasq_is_said_with_its_domain(name: str) -> None:
    subnets = (SUBNET, ServiceSubnet("s6", "fd00:1::/64", "fd00:1::2", None, (), (), True))
    entries = (HostEntry("p1", "fa:16:3e:00:00:01", "10.0.0.3", name), HostEntry("p2", "m", "fd00:1::3", name))
    hosts = files(replace(PLAN, subnets=subnets, entries=entries)).hosts

    assert [line.rpartition(",")[2] for line in hosts.values()] == [f"{name}.example.org\n"] * 2
