"""From rows to the plan of a host."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from kilonova.network.ipv6 import link_local
from kilonova.network.layout import VlanTag
from kilonova.network.plan import (
    AddressPair,
    Filter,
    Member,
    StaticRoute,
    Uplink,
)
from kilonova.network.planner import plan, routing_domains, zones
from kilonova.network.rows import SERVICE_OWNER, AddressRow, FloatingRow, MemberRow, NetworkRow

from .host_rows import HOST, Rows, config, mac, uid

GROUP, OTHER = uid(7, 1), uid(7, 2)


def test_port_may_use_its_address_and_its_link_local_one() -> None:
    rows = Rows()
    rows.network(1)
    port_id = rows.port(1, 1, "10.0.0.3", (GROUP,))

    port = plan(rows.host_rows(), config()).ports[port_id]

    assert port.device == f"tap{port_id[:11]}"
    assert port.pairs == (AddressPair(mac(1), "10.0.0.3"), AddressPair(mac(1), link_local(mac(1))))
    assert port.filters == (Filter("10.0.0.3", (GROUP,)), Filter(link_local(mac(1)), (GROUP,)))
    assert port.up
    assert port.secured


def test_port_of_another_host_has_no_device_here_but_is_known_to_dhcp() -> None:
    rows = Rows()
    network_id = rows.network(1)
    rows.port(1, 1, "10.0.0.3", host="elsewhere", hostname="web")

    wanted = plan(rows.host_rows(), config())

    assert wanted.ports == {}
    (entry,) = wanted.services[network_id].entries
    assert (entry.address, entry.hostname) == ("10.0.0.3", "web")


def test_port_is_down_when_its_network_is() -> None:
    rows = Rows()
    rows.network(1, admin_state_up=False)
    port_id = rows.port(1, 1, "10.0.0.3")

    assert not plan(rows.host_rows(), config()).ports[port_id].up


def test_port_without_port_security_is_not_filtered() -> None:
    rows = Rows()
    rows.network(1)
    port_id = rows.port(1, 1, "10.0.0.3", (GROUP,), port_security_enabled=False)

    port = plan(rows.host_rows(), config()).ports[port_id]

    assert (port.secured, port.pairs, port.filters) == (False, (), ())


def test_allowed_pairs_are_spelled_out_and_too_wide_ones_are_told() -> None:
    rows = Rows()
    rows.network(1)
    pairs = [
        {"ip_address": "10.0.0.8/30", "mac_address": "02:00:00:00:00:01"},
        {"ip_address": "10.0.0.0/16"},
        {"ip_address": "10.0.0.50"},
    ]
    port_id = rows.port(1, 1, "10.0.0.3", allowed_address_pairs=pairs)

    wanted = plan(rows.host_rows(), config())

    addresses = {pair.address for pair in wanted.ports[port_id].pairs}
    assert {"10.0.0.3", "10.0.0.8", "10.0.0.11", "10.0.0.50", link_local("02:00:00:00:00:01")} <= addresses
    assert "10.0.255.1" not in addresses
    assert "10.0.0.0/16" in wanted.warnings[0]


def test_address_of_two_ports_is_guarded_once_by_the_groups_of_both() -> None:
    rows = Rows()
    rows.network(1)
    shared = [{"ip_address": "10.0.0.100"}]
    first = rows.port(1, 1, "10.0.0.3", (GROUP,), allowed_address_pairs=shared)
    second = rows.port(2, 1, "10.0.0.4", (OTHER,), allowed_address_pairs=shared)

    wanted = plan(rows.host_rows(), config())

    guards = [item for port in (first, second) for item in wanted.ports[port].filters if item.address == "10.0.0.100"]
    assert guards == [Filter("10.0.0.100", tuple(sorted((GROUP, OTHER))))]


def test_vlan_device_only_with_a_trunk() -> None:
    rows = Rows()
    rows.network(101)

    with_trunk = plan(rows.host_rows(), config(trunks={"physnet1": "eth1"})).bridges["br101"]
    without = plan(rows.host_rows(), config()).bridges["br101"]

    assert with_trunk.vlan == VlanTag("eth1", 101)
    assert without.vlan is None
    assert without.dhcp_servers == ("10.0.0.2",)


def test_members_of_a_remote_group_count_on_every_bridge_of_their_routing_domain() -> None:
    rows = Rows()
    rows.network(1, "10.0.0.0/24")
    rows.network(2, "10.0.1.0/24")
    rows.network(3, "10.0.2.0/24")
    rows.router(1, (1, "10.0.0.1"), (2, "10.0.1.1"))
    rows.port(1, 1, "10.0.0.3", (GROUP,))
    rows.rule(GROUP, remote_group_id=OTHER)
    rows.rule(GROUP, direction="egress", ethertype="IPv6")
    rows.members += [MemberRow(OTHER, uid(1, 2), "10.0.1.9"), MemberRow(OTHER, uid(1, 3), "10.0.2.9")]

    groups = plan(rows.host_rows(), config()).groups

    assert groups[OTHER].members == (Member("br1", "10.0.1.9"), Member("br2", "10.0.1.9"), Member("br3", "10.0.2.9"))
    assert len(groups[GROUP].ingress) == 1
    assert groups[GROUP].egress == ("meta nfproto ipv6 goto sg_ingress",)


def test_service_speaks_for_its_network() -> None:
    rows = Rows()
    network_id = rows.network(1, dns_domain="example.org.")
    rows.subnets[0] = rows.subnets[0]._replace(
        dns_nameservers=["9.9.9.9"], host_routes=[{"destination": "10.9.0.0/16", "nexthop": "10.0.0.9"}]
    )
    rows.port(5, 1, "10.0.0.2", device_owner=SERVICE_OWNER, vif="none")
    rows.port(1, 1, "10.0.0.3")

    service = plan(rows.host_rows(), config()).services[network_id]

    assert service.mac == mac(5)
    assert service.domain == "example.org"
    assert service.subnets[0].dns == ("9.9.9.9",)
    assert service.subnets[0].routes == (StaticRoute("10.9.0.0/16", "10.0.0.9"),)
    assert [entry.hostname for entry in service.entries] == ["host-10-0-0-3"]


def test_no_row_writes_a_line_of_its_own_for_dnsmasq() -> None:
    """Names are checked when they are given; what is in a database of an earlier day is not believed either."""
    rows = Rows()
    network_id = rows.network(1, dns_domain="x\ndhcp-script=/bin/false")
    rows.port(1, 1, "10.0.0.3", dns_name="a,b\nc")

    service = plan(rows.host_rows(), config()).services[network_id]

    assert service.domain == "kilonova.internal"
    assert [entry.hostname for entry in service.entries] == ["host-10-0-0-3"]


def test_network_without_service_address_or_of_another_host_has_no_service_here() -> None:
    rows = Rows()
    rows.network(1)
    rows.subnets[0] = rows.subnets[0]._replace(service_address=None)
    rows.network(2, host="elsewhere")

    assert plan(rows.host_rows(), config()).services == {}


def test_service_without_a_port_has_a_mac_of_its_own() -> None:
    rows = Rows()
    network_id = rows.network(1)

    assert plan(rows.host_rows(), config()).services[network_id].mac.startswith("02:6b:")


def test_router_translates_and_knows_its_insides() -> None:
    rows = Rows()
    rows.network(1, "10.0.0.0/24")
    rows.network(2, "10.0.1.0/24")
    rows.network(9, "203.0.113.0/24", external=True)
    routes = [{"destination": "10.5.0.0/16", "nexthop": "10.0.1.7"}]
    router_id = rows.router(1, (1, "10.0.0.1"), (2, "10.0.1.1"), gateway=(9, "203.0.113.20"), routes=routes)
    rows.floating.append(FloatingRow(uid(8, 1), "203.0.113.50", "10.0.0.3", router_id, "DOWN"))
    rows.floating.append(FloatingRow(uid(8, 2), "203.0.113.51", None, router_id, "DOWN"))

    wanted = plan(rows.host_rows(), config(public_gateway="203.0.113.1"))
    router = wanted.routers[router_id]

    assert router.external is not None
    assert router.external.addresses == ("203.0.113.20/24",)
    assert router.external.bridge == "br-public"
    assert router.gateways == ("203.0.113.1",)
    assert router.floating == (("203.0.113.50", "10.0.0.3"),)
    assert router.inside == ("10.0.0.0/23",)
    assert router.routes == (StaticRoute("10.5.0.0/16", "10.0.1.7"),)
    assert wanted.outside is not None
    assert wanted.outside.address == "203.0.113.1/24"
    assert not wanted.bridges["br-public"].filtered


def test_router_that_is_down_is_not_planned() -> None:
    rows = Rows()
    rows.network(1)
    rows.router(1, (1, "10.0.0.1"), admin_state_up=False)

    assert plan(rows.host_rows(), config()).routers == {}


def test_router_without_gateway_translates_nothing() -> None:
    rows = Rows()
    rows.network(1)
    router_id = rows.router(1, (1, "10.0.0.1"))
    rows.floating.append(FloatingRow(uid(8, 1), "203.0.113.50", "10.0.0.3", router_id, "DOWN"))

    assert plan(rows.host_rows(), config()).routers[router_id].floating == ()


def test_nics_named_in_the_configuration_are_uplinks() -> None:
    host = config(public_interface="eth0", trunks={"physnet1": "eth1", "physnet2": "eth1"})

    assert plan(Rows().host_rows(), host).uplinks == (Uplink("eth0", "br-public"), Uplink("eth1", ""))


def test_public_bridge_is_there_before_the_external_network_is() -> None:
    wanted = plan(Rows().host_rows(), config(public_gateway="203.0.113.1"))

    assert list(wanted.bridges) == ["br-public"]
    assert wanted.outside is None
    assert wanted.bridge_of(uid(1, 1)) is None


def _network(number: int) -> NetworkRow:
    return NetworkRow(uid(1, number), "vlan", "physnet1", number, f"br{number}", 1500, True, False, "", HOST)


@given(st.lists(st.integers(0, 1 << 23), unique=True, max_size=300), st.integers(0, 299))
def test_zones_are_unique_and_stay_when_networks_are_added(numbers: list[int], kept: int) -> None:
    networks = [_network(number) for number in numbers]

    found = zones(networks)

    assert len(set(found.values())) == len(networks)
    assert all(0 < zone <= 65535 for zone in found.values())
    assert zones(networks[:kept]).items() <= found.items()


def test_zone_that_is_taken_moves_the_younger_network() -> None:
    import zlib

    seen: dict[int, int] = {}
    for number in range(1 << 16):
        key = zlib.crc32(uid(1, number).encode()) % (65535 - 4096)
        if key in seen:
            break
        seen[key] = number
    first, second = _network(seen[key]), _network(number)

    assert zones([first])[first.id] == zones([first, second])[first.id]
    assert zones([first, second])[second.id] != zones([first])[first.id]


@given(st.lists(st.tuples(st.sampled_from("rst"), st.sampled_from("abcdefg")), max_size=12))
def test_routing_domains_are_the_same_seen_from_every_member(routed: list[tuple[str, str]]) -> None:
    domains = routing_domains(routed)

    for network, domain in domains.items():
        assert network in domain
        assert all(domains[other] == domain for other in domain)
    for router, network in routed:
        assert all(domains[network] == domains[other] for item, other in routed if item == router)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(3, 40)), unique=True, max_size=40))
def test_every_address_has_exactly_one_guard_on_its_bridge(places: list[tuple[int, int]]) -> None:
    rows = Rows()
    for number in range(1, 5):
        rows.network(number)
    for number, (network, offset) in enumerate(places):
        rows.port(number, network, f"10.0.0.{offset}", (uid(7, number % 3),))
        rows.addresses.append(AddressRow(uid(3, number), uid(2, network), f"2001:db8::{offset}"))

    wanted = plan(rows.host_rows(), config())

    guards = [(port.bridge, item.address) for port in wanted.ports.values() for item in port.filters]
    assert len(set(guards)) == len(guards)
    for port in wanted.ports.values():
        assert {item.address for item in port.filters} == {pair.address for pair in port.pairs}
        assert all(ip_address(pair.address) for pair in port.pairs)


def test_what_did_not_change_is_planned_once() -> None:
    """A pass plans every port of the host: those of the last pass are taken as they are."""
    rows = Rows()
    rows.network(1)
    for number in range(1, 6):
        rows.port(number, 1, f"10.0.0.{number + 2}", (uid(7, 1),))
    before = plan(rows.host_rows(), config())
    rows.port(6, 1, "10.0.0.8", (uid(7, 1),))

    after = plan(rows.host_rows(), config())

    assert all(after.ports[port_id] is planned for port_id, planned in before.ports.items())
    ((entries,), (entries_after,)) = [[item.entries for item in each.services.values()] for each in (before, after)]
    assert {id(entry) for entry in entries} < {id(entry) for entry in entries_after}
    assert len(after.ports) == 6
