"""IPv6 from rows to plan, and what dnsmasq and radvd read of it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kilonova.network.dnsmasq_files import DnsmasqFiles, dnsmasq_files
from kilonova.network.fragments import router_layout, service_layout
from kilonova.network.host.leases import Lease, find_leases
from kilonova.network.ipv6 import eui64, gives_addresses, is_automatic, link_local
from kilonova.network.layout import ElementKey, Route
from kilonova.network.plan import Advertisement, HostPlan, Prefix, ServicePlan
from kilonova.network.planner import plan
from kilonova.network.radvd_files import radvd_files
from kilonova.network.rows import SERVICE_OWNER, AddressRow
from kilonova.network.rules import INSIDE6

from .host_rows import Rows, config, mac, uid


def test_addresses_of_a_mac() -> None:
    """The example of RFC 2464, section 4."""
    assert eui64("2001:db8::/64", "34:56:78:9a:bc:de") == "2001:db8::3656:78ff:fe9a:bcde"
    assert link_local("34:56:78:9a:bc:de") == "fe80::3656:78ff:fe9a:bcde"


@pytest.mark.parametrize(
    ("address_mode", "ra_mode", "automatic", "given"),
    [
        (None, None, False, True),
        ("slaac", "slaac", True, False),
        (None, "slaac", True, False),
        ("slaac", None, True, False),
        ("dhcpv6-stateless", "dhcpv6-stateless", True, False),
        ("dhcpv6-stateful", "dhcpv6-stateful", False, True),
        ("dhcpv6-stateful", None, False, True),
        (None, "dhcpv6-stateful", False, False),
    ],
)
def test_modes_say_who_makes_addresses(
    address_mode: str | None, ra_mode: str | None, automatic: bool, given: bool
) -> None:
    assert is_automatic(address_mode, ra_mode) is automatic
    assert gives_addresses(address_mode, ra_mode) is given


def dual(mode: str | None, **values: Any) -> tuple[Rows, str]:
    """A network of both versions with a router and a guest."""
    rows = Rows()
    network_id = rows.network(1)
    rows.subnet6(61, 1, values.pop("cidr", "fd00:1::/64"), mode, **values)
    rows.router(1, (1, "10.0.0.1"))
    leg = rows.port(2001, 1, device_owner="network:router_interface", device_id=uid(4, 1), host="", vif="none")
    rows.addresses.append(AddressRow(leg, uid(2, 61), "fd00:1::1"))
    guest = rows.port(1, 1, "10.0.0.3", hostname="web")
    rows.addresses.append(AddressRow(guest, uid(2, 61), "fd00:1::3"))
    return rows, network_id


def planned(rows: Rows) -> HostPlan:
    return plan(rows.host_rows(), config())


def service(mode: str | None, **values: Any) -> ServicePlan:
    rows, network_id = dual(mode, **values)
    return planned(rows).services[network_id]


def files(found: ServicePlan) -> DnsmasqFiles:
    return dnsmasq_files(found, Path("/state/network/n"), "svc0", "nobody")


@pytest.mark.parametrize(
    ("mode", "managed", "other", "automatic"),
    [("slaac", False, False, True), ("dhcpv6-stateless", False, True, True), ("dhcpv6-stateful", True, True, False)],
)
def test_router_announces_what_its_subnets_modes_say(mode: str, managed: bool, other: bool, automatic: bool) -> None:
    router = planned(dual(mode)[0]).routers[uid(4, 1)]

    announced = [interface.advertisement for interface in router.interfaces if interface.advertisement]
    prefixes = (Prefix("fd00:1::/64", automatic),)
    assert announced == [Advertisement(prefixes, managed, other, ("fd00:1::2",), "kilonova.internal")]
    found = radvd_files(router)
    assert found is not None
    assert found.config.count("interface ") == 1
    assert f"AdvManagedFlag {'on' if managed else 'off'};" in found.config
    assert f"AdvOtherConfigFlag {'on' if other else 'off'};" in found.config
    assert f"AdvAutonomous {'on' if automatic else 'off'};" in found.config
    assert "AdvLinkMTU 1500;" in found.config
    assert "RDNSS fd00:1::2 {" in found.config


@pytest.mark.parametrize("values", [{}, {"ipv6_address_mode": "slaac"}])
def test_router_is_silent_where_another_announces(values: dict[str, Any]) -> None:
    assert radvd_files(planned(dual(None, **values)[0]).routers[uid(4, 1)]) is None


def test_name_servers_of_the_subnet_are_announced() -> None:
    found = radvd_files(planned(dual("slaac", dns_nameservers=["2001:db8::53"])[0]).routers[uid(4, 1)])

    assert found is not None
    assert "RDNSS 2001:db8::53 {" in found.config


@pytest.mark.skipif(shutil.which("radvd") is None, reason="needs radvd")
@pytest.mark.parametrize(
    ("domain", "announced"),
    [
        *[
            (word, False)
            for word in ("on", "prefix", "infinity", "clients", "123", "10.0", "AdvLinkMTU", "UnicastOnly")
        ],
        *[(word, True) for word in ("lan", "ignore", "1.2.3.4", "prefix.example.org", "5.example.org", "a-b.c")],
    ],
)
def test_radvd_takes_every_domain_that_is_announced(domain: str, announced: bool, tmp_path: Path) -> None:
    router = planned(dual("slaac")[0]).routers[uid(4, 1)]
    legs = tuple(
        replace(leg, advertisement=replace(leg.advertisement, domain=domain)) if leg.advertisement else leg
        for leg in router.interfaces
    )
    found = radvd_files(replace(router, interfaces=legs))
    assert found is not None
    config = tmp_path / "radvd.conf"
    config.write_text(found.config)

    done = subprocess.run(
        ["radvd", "--configtest", "-C", str(config), "-m", "stderr"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert (f"DNSSL {domain} " in found.config) is announced


def test_dnsmasq_hands_out_addresses_of_both_versions() -> None:
    found = files(service("dhcpv6-stateful"))

    assert "dhcp-range=set:subnet1,fd00:1::,static,64,86400\n" in found.config
    assert "dhcp-option=tag:subnet1,option6:dns-server,[fd00:1::2]\n" in found.config
    assert "dhcp-option=tag:subnet1,option6:domain-search,kilonova.internal\n" in found.config
    assert list(found.hosts.values()) == [f"{mac(1)},10.0.0.3,[fd00:1::3],web\n"]


def test_dnsmasq_answers_about_options_only_and_mistakes_no_line_for_an_address() -> None:
    found = files(service("dhcpv6-stateless", dns_nameservers=["2001:db8::53"]))

    assert "option6:dns-server,[2001:db8::53]\n" in found.config
    assert list(found.hosts.values()) == [f"{mac(1)},tag:!dhcpv6,10.0.0.3,web\n"]


@pytest.mark.parametrize(
    ("mode", "values"),
    [
        ("slaac", {}),
        (None, {"enable_dhcp": False}),
        (None, {"ipv6_ra_mode": "dhcpv6-stateful"}),
        (None, {"cidr": "fd00:1::/48"}),
    ],
)
def test_dnsmasq_does_not_speak_dhcpv6(mode: str | None, values: dict[str, Any]) -> None:
    found = files(service(mode, **values))

    assert "fd00:1::,static" not in found.config
    assert "option6" not in found.config
    assert list(found.hosts.values()) == [f"{mac(1)},10.0.0.3,web\n"]
    assert "fd00:1::2" in found.config.splitlines()[0]


def test_port_with_addresses_of_ipv6_only_has_one_line() -> None:
    rows = Rows()
    network_id = rows.network(1)
    for number, cidr in ((61, "fd00:1::/64"), (62, "fd00:2::/64")):
        rows.subnet6(number, 1, cidr, "dhcpv6-stateful")
    port_id = rows.port(1, 1)
    for number in (61, 62):
        rows.addresses.append(AddressRow(port_id, uid(2, number), f"fd00:{number - 60}::5"))
    found = files(planned(rows).services[network_id])

    assert found.hosts == {f"{port_id}-dhcpv6": f"{mac(1)},[fd00:1::5],[fd00:2::5],host-fd00-1--5\n"}
    assert found.config.count("dhcp-option=option6:dns-server") == 1


def test_names_are_of_every_address_and_the_chosen_one_is_first() -> None:
    rows, network_id = dual("slaac")
    rows.networks[0] = rows.networks[0]._replace(dns_domain="example.org.")
    rows.ports[-1] = rows.ports[-1]._replace(dns_name="db")
    found = files(planned(rows).services[network_id])

    names = "db.example.org web.example.org db web"
    assert found.names == {uid(3, 1): f"10.0.0.3 {names}\nfd00:1::3 {names}\n"}


def test_nameless_port_goes_by_its_ipv4_address() -> None:
    rows, network_id = dual("slaac")
    rows.ports[-1] = rows.ports[-1]._replace(hostname=None)

    entries = planned(rows).services[network_id].entries
    assert {entry.hostname for entry in entries} == {"host-10-0-0-3"}


def test_services_keep_the_mac_of_the_oldest_subnets_port() -> None:
    rows, network_id = dual("slaac")
    rows.port(5, 1, "10.0.0.2", device_owner=SERVICE_OWNER, vif="none")
    other = rows.port(2, 1, device_owner=SERVICE_OWNER, vif="none")
    rows.addresses.append(AddressRow(other, uid(2, 61), "fd00:1::2"))

    assert planned(rows).services[network_id].mac == mac(5)


def test_services_and_routers_have_default_routes_of_both_versions() -> None:
    rows, network_id = dual("slaac")
    rows.network(9, "203.0.113.0/24", external=True)
    rows.subnet6(69, 9, "2001:db8:f::/64", None, gateway_ip="fe80::1", service_address=None)
    gateway = rows.port(77, 9, "203.0.113.20", device_owner="network:router_gateway", device_id=uid(4, 1), vif="none")
    rows.addresses.append(AddressRow(gateway, uid(2, 69), "2001:db8:f::20"))
    found = planned(rows)

    routes = {route[:2] for route in service_layout(found.services[network_id]).routes}
    assert routes == {("0.0.0.0/0", "10.0.0.1"), ("::/0", "fd00:1::1")}
    layout = router_layout(found.routers[uid(4, 1)])
    assert Route("::/0", "fe80::1", "pub0") in layout.routes
    assert Route("0.0.0.0/0", "203.0.113.1", "pub0") in layout.routes
    assert ElementKey(INSIDE6, "fd00:1::/64") in layout.elements


def test_leases_of_both_versions_are_found_and_released() -> None:
    text = (
        "1795560675 fa:16:3e:00:00:01 10.0.0.3 web 01:fa:16:3e:00:00:01\n"
        "1795560675 fa:16:3e:00:00:02 10.0.0.4 * *\n"
        "duid 00:01:00:01\n"
        "1795560675 7 fd00:1::77 web 00:03:00:01\n"
    )
    first, second, third = find_leases(text, {"10.0.0.3", "10.0.0.4", "fd00:1::77", "fd00:1::78"})

    assert first.release_command("svc0", "")[1:] == ["svc0", "10.0.0.3", "fa:16:3e:00:00:01", "01:fa:16:3e:00:00:01"]
    assert second.release_command("svc0", "")[1:] == ["svc0", "10.0.0.4", "fa:16:3e:00:00:02"]
    assert third == Lease("fd00:1::77", "7", "00:03:00:01", "00:01:00:01")
    words = " ".join(third.release_command("svc0", ""))
    assert words == (
        "dhcp_release6 --iface svc0 --ip fd00:1::77 --iaid 7 --client-id 00:03:00:01 --server-id 00:01:00:01"
    )
