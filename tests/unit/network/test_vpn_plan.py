"""VPNs in a host's plan: which clients a router stands for, what the kernel is told, what is written down."""

from __future__ import annotations

from datetime import UTC, datetime

from kilonova.network import rules
from kilonova.network.flows import Cut, cuts
from kilonova.network.fragments import Names, changed, combinations, fragments
from kilonova.network.host.interface import Outcome
from kilonova.network.layout import Changes, ElementKey, Layout, Link, Proxy, Route, difference, merge, without_device
from kilonova.network.plan import HostPlan
from kilonova.network.planner import plan
from kilonova.network.results import results_of
from kilonova.network.rows import VpnClientRow
from kilonova.network.vpn_files import ClientFile, new_keys
from kilonova.network.vpn_plan import FoundDevice, VpnPlan, parse_dump, peer_changes
from kilonova.network.vpn_watch import newer

from .host_rows import Rows, config, uid

DUMP = (
    "cHJpdmF0ZQ==\tc2VydmVy\t1000\toff\n"
    "a2V5MQ==\t(none)\t198.51.100.7:40000\t10.0.0.7/32\t1790000000\t788\t508\toff\n"
    "a2V5Mg==\t(none)\t(none)\t(none)\t0\t0\t0\toff\n"
)


def with_vpn() -> Rows:
    """A project's network, its router and VPN, one guest and one client in the same group."""
    rows = Rows()
    rows.network(1)
    rows.network(9, "203.0.113.0/24", external=True)
    rows.router(1, (1, "10.0.0.1"), gateway=(9, "203.0.113.5"))
    rows.port(1, 1, "10.0.0.3", ("group",))
    rows.vpn(1, router=1)
    rows.vpn_client(1, 1, 1, "10.0.0.7", ("group",))
    return rows


def planned(rows: Rows) -> HostPlan:
    return plan(rows.host_rows(), config(public_gateway="203.0.113.1"))


def the_vpn(rows: Rows) -> VpnPlan:
    [vpn] = planned(rows).vpns.values()
    return vpn


def whole(wanted: HostPlan, namespace: str) -> Layout:
    names = Names("kn")
    return merge(item.layout for item in fragments(wanted, names).values() if item.namespace == namespace)


def in_router(rows: Rows) -> Layout:
    return whole(planned(rows), Names("kn").router(uid(4, 1)))


def test_a_client_is_led_through_the_router_and_answered_for() -> None:
    vpn = the_vpn(with_vpn())
    layout = in_router(with_vpn())
    leg = f"int{uid(3, 1000)[:11]}"

    assert vpn.peers == {"client-1": "10.0.0.7"}
    assert vpn.mtu == 1420
    assert Route("10.0.0.7/32", "", vpn.device) in layout.routes
    assert layout.proxies == {Proxy(leg, "10.0.0.7")}
    assert layout.links[vpn.device].owner == vpn.vpn_id
    assert layout.elements[ElementKey(rules.VPN_PORTS, "1000")] == ""
    assert ElementKey(rules.VPN_CLIENTS, f'"{vpn.device}" . 10.0.0.7') in layout.elements
    assert ElementKey(rules.VPN_INSIDE, "10.0.0.0/24") in layout.elements


def test_a_clients_groups_guard_it_on_every_bridge_of_its_router() -> None:
    rows = with_vpn()
    rows.network(2, "10.0.2.0/24")
    router = uid(4, 1)
    rows.port(2000, 2, "10.0.2.1", device_owner="network:router_interface", device_id=router, host="", vif="none")
    layout = whole(planned(rows), "kn-switch")

    for bridge in ("br1", "br2"):
        chain = layout.elements[ElementKey(rules.INGRESS, f'"{bridge}" . 10.0.0.7')]
        assert chain == layout.elements[ElementKey(rules.INGRESS, '"br1" . 10.0.0.3')]
        assert ElementKey(rules.EGRESS, f'"{bridge}" . 10.0.0.7') in layout.elements


def test_a_port_with_the_clients_address_on_another_network_keeps_its_own_groups() -> None:
    rows = with_vpn()
    rows.network(2, "10.0.2.0/24")
    rows.port(2000, 2, "10.0.2.1", device_owner="network:router_interface", device_id=uid(4, 1), host="", vif="none")
    rows.port(3, 2, "10.0.0.7", ("other",))

    [client] = the_vpn(rows).clients
    assert client.bridges == ("br1",)


def test_a_clients_groups_are_loaded_even_when_no_guest_is_in_them() -> None:
    rows = with_vpn()
    rows.vpn_client(2, 1, 1, "10.0.0.8", ("alone",))
    wanted = planned(rows)

    assert ("alone",) in combinations(wanted)
    assert "alone" in wanted.groups


def test_without_port_security_nothing_filters_a_client() -> None:
    rows = with_vpn()
    rows.vpn_client(2, 1, 1, "10.0.0.8", port_security_enabled=False)
    layout = whole(planned(rows), "kn-switch")
    assert not [key for key in layout.elements if key.key.endswith(" 10.0.0.8")]


def test_clients_that_cannot_be_led_anywhere_are_left_out() -> None:
    rows = with_vpn()
    rows.vpn_client(2, 1, 1, "10.0.7.7", ("group",))  # in none of the router's subnets
    rows.vpn_client(3, 1, 1, "10.0.0.9", ("group",), admin_state_up=False)
    assert the_vpn(rows).peers == {"client-1": "10.0.0.7"}


def test_a_router_that_is_off_or_not_connected_outside_has_no_vpn() -> None:
    off, inside = with_vpn(), with_vpn()
    off.routers[0] = off.routers[0]._replace(admin_state_up=False)
    inside.ports = [port for port in inside.ports if port.device_owner != "network:router_gateway"]
    for rows in (off, inside):
        assert planned(rows).vpns == {}
        assert results_of(rows.host_rows(), planned(rows), Outcome()).vpns == ()


def test_the_private_key_is_in_no_text_of_plan_or_rows() -> None:
    rows = with_vpn()
    assert "private-1" not in repr(planned(rows)) + repr(rows.host_rows())
    assert "private-1" not in str(fragments(planned(rows), Names("kn")))
    keys = new_keys()
    assert keys.private not in repr(keys)


def test_states_are_written_when_they_change() -> None:
    rows = with_vpn()
    vpn_id = rows.vpns[0].id
    for failures, status in (({}, "ACTIVE"), ({vpn_id: "why"}, "ERROR"), ({uid(4, 1): "why"}, "ERROR")):
        assert results_of(rows.host_rows(), planned(rows), Outcome(failures)).vpns == ((vpn_id, status),)


def test_a_revoked_client_loses_its_flows() -> None:
    before, after = with_vpn(), with_vpn()
    after.vpn_clients.clear()
    after.ports = [port for port in after.ports if port.device_owner != "network:vpn_client"]
    names = Names("kn")
    gone, come = changed(fragments(planned(before), names), fragments(planned(after), names))
    changes = difference(
        merge(item.layout for item in gone if item.namespace == names.switch),
        merge(item.layout for item in come if item.namespace == names.switch),
    )
    zone = planned(before).bridges["br1"].zone

    assert {Cut(zone, source="10.0.0.7"), Cut(zone, target="10.0.0.7")} <= cuts(planned(after), changes)


def test_a_rule_that_a_clients_group_loses_cuts_the_clients_flows() -> None:
    before, after = with_vpn(), with_vpn()
    before.rule("group", protocol="tcp", port_range_min=22, port_range_max=22)
    names = Names("kn")
    gone, come = changed(fragments(planned(before), names), fragments(planned(after), names))
    changes = difference(merge(item.layout for item in gone), merge(item.layout for item in come))

    assert "10.0.0.7" in {cut.target for cut in cuts(planned(after), changes)}


def test_a_device_that_could_not_be_made_is_taken_out_of_the_changes_with_its_routes() -> None:
    changes = Changes(
        added_links=(("wg1", Link("wireguard", 1420)), ("int1", Link("veth", 1500))),
        added_routes=(Route("10.0.0.7/32", "", "wg1"), Route("0.0.0.0/0", "203.0.113.1", "pub0")),
    )
    left = without_device(changes, "wg1")
    assert [name for name, _ in left.added_links] == ["int1"]
    assert [route.device for route in left.added_routes] == ["pub0"]


def test_a_dump_of_wg_is_read_without_its_private_key() -> None:
    found = parse_dump(DUMP)
    assert found == FoundDevice(
        "c2VydmVy", 1000, {"a2V5MQ==": ("10.0.0.7/32",), "a2V5Mg==": ()}, {"a2V5MQ==": 1790000000}
    )
    assert parse_dump("(none)\t(none)\t0\toff\n") == FoundDevice("", 0, {}, {})


def test_peers_that_are_right_are_not_told_anew() -> None:
    wanted = the_vpn(with_vpn())
    tunnel = FoundDevice("public-1", 1000, {"client-1": ("10.0.0.7/32",)}, {})
    assert peer_changes(tunnel, wanted) == ((), ())
    wrong = tunnel._replace(peers={"client-1": ("10.0.0.9/32",), "stranger": ()})
    assert peer_changes(wrong, wanted) == (("stranger",), (("client-1", "10.0.0.7"),))


def test_only_newer_handshakes_are_written_down() -> None:
    moment = datetime(2026, 9, 21, 12, 0, tzinfo=UTC)
    seconds = int(moment.timestamp())
    rows = [
        VpnClientRow("never", "v", "p1", "k1", None),
        VpnClientRow("known", "v", "p2", "k2", moment),
        VpnClientRow("silent", "v", "p3", "k3", None),
        VpnClientRow("elsewhere", "w", "p4", "k1", None),
    ]
    assert newer(rows, {"v": {"k1": seconds, "k2": seconds}}) == {"never": moment}
    later = newer(rows, {"v": {"k1": seconds, "k2": seconds + 120}})
    assert set(later) == {"never", "known"}


def test_the_clients_file_has_what_wg_quick_needs() -> None:
    file = ClientFile("p", "ann", "key", "10.0.0.7", 1420, "server", "203.0.113.5:1000", ("10.0.0.0/24", "10.0.2.0/24"))
    lines = dict(line.split(" = ") for line in file.text().splitlines() if " = " in line)
    assert lines == {
        "PrivateKey": "key",
        "Address": "10.0.0.7/32",
        "MTU": "1420",
        "PublicKey": "server",
        "Endpoint": "203.0.113.5:1000",
        "AllowedIPs": "10.0.0.0/24, 10.0.2.0/24",
        "PersistentKeepalive": "25",
    }
