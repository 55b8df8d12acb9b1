"""From a plan to the layouts of a host's namespaces."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kilonova.network import rules
from kilonova.network.fragments import Names, bridge_layout, changed, combinations, fragments, tunnel_layout, vlan_name
from kilonova.network.group_rules import combination_name
from kilonova.network.layout import (
    FLOOD,
    ElementKey,
    Forward,
    Layout,
    Link,
    Peer,
    Route,
    Tunnel,
    VlanTag,
    difference,
    merge,
)
from kilonova.network.plan import BridgePlan, HostPlan
from kilonova.network.planner import plan
from kilonova.network.rows import FloatingRow, HostRows
from kilonova.network.tunnels import TunnelPlan

from .host_rows import Rows, config, mac, uid

NAMES = Names("kn")
GROUP = uid(7, 1)


def by_namespace(wanted: HostPlan) -> dict[str, Layout]:
    parts: dict[str, list[Layout]] = {}
    for item in fragments(wanted, NAMES).values():
        parts.setdefault(item.namespace, []).append(item.layout)
    return {name: merge(layouts) for name, layouts in parts.items()}


def small() -> Rows:
    rows = Rows()
    rows.network(1)
    rows.network(9, "203.0.113.0/24", external=True)
    rows.port(1, 1, "10.0.0.3", (GROUP,))
    rows.rule(GROUP, remote_group_id=GROUP)
    router_id = rows.router(1, (1, "10.0.0.1"), gateway=(9, "203.0.113.20"))
    rows.floating.append(FloatingRow(uid(8, 1), "203.0.113.50", "10.0.0.3", router_id, "DOWN"))
    return rows


def test_port_is_bound_to_its_mac_and_address_and_its_address_to_its_groups() -> None:
    wanted = plan(small().host_rows(), config())
    (port,) = wanted.ports.values()
    switch = by_namespace(wanted)["kn-switch"]
    name = combination_name((GROUP,))
    elements = {
        (key.set.name, key.key): value for key, value in switch.elements.items() if f'"{port.device}"' in key.key
    }

    assert switch.links[port.device] == Link("tap", 1500, owner=port.port_id, master="br1")
    assert ("mac_ok", f'"{port.device}" . {mac(1)}') in elements
    assert elements["ip_ok", f'"{port.device}" . {mac(1)} . 10.0.0.3'] == "goto v4ok"
    assert ("arp_ok", f'"{port.device}" . {mac(1)} . 10.0.0.3') in elements
    assert ("dst_ok", f'"{port.device}" . 10.0.0.3') in elements
    assert ("trusted", f'"{port.device}"') not in elements
    assert switch.elements[ElementKey(rules.INGRESS, '"br1" . 10.0.0.3')] == f"goto {name}_in"
    assert switch.elements[ElementKey(rules.EGRESS, '"br1" . 10.0.0.3')] == f"goto {name}_out"
    assert switch.chains[rules.groups(f"{name}_in")].rules[-1] == "drop"


def test_port_without_groups_is_closed() -> None:
    rows = small()
    rows.port_groups.clear()
    switch = by_namespace(plan(rows.host_rows(), config()))["kn-switch"]
    name = switch.elements[ElementKey(rules.INGRESS, '"br1" . 10.0.0.3')].removeprefix("goto ")

    assert switch.chains[rules.groups(name)].rules == ("drop",)


def test_port_without_port_security_is_trusted_and_veth_ports_have_a_guest_end() -> None:
    rows = Rows()
    rows.network(1)
    port_id = rows.port(1, 1, "10.0.0.3", port_security_enabled=False, vif="veth")
    switch = by_namespace(plan(rows.host_rows(), config()))["kn-switch"]
    device = f"tap{port_id[:11]}"

    assert ElementKey(rules.TRUSTED, f'"{device}"') in switch.elements
    assert switch.links[device].peer == Peer("", f"gst{port_id[:11]}", mac(1))


def test_service_namespace_has_the_service_and_the_metadata_address() -> None:
    layouts = by_namespace(plan(small().host_rows(), config()))
    service = layouts[NAMES.service(uid(1, 1))]

    assert service.links["svc0"].addresses == {"10.0.0.2/24", "169.254.169.254/32"}
    assert service.routes == {Route("0.0.0.0/0", "10.0.0.1", "svc0")}


def test_router_namespace_has_floating_addresses_maps_and_routes() -> None:
    rows = small()
    routes = [
        {"destination": "10.5.0.0/16", "nexthop": "10.0.0.7"},
        {"destination": "10.6.0.0/16", "nexthop": "203.0.113.7"},
        {"destination": "10.7.0.0/16", "nexthop": "192.0.2.1"},
    ]
    rows.routers[0] = rows.routers[0]._replace(routes=routes)
    router_id = rows.routers[0].id
    router = by_namespace(plan(rows.host_rows(), config()))[NAMES.router(router_id)]
    inside = next(name for name in router.links if name.startswith("int"))

    assert router.links["pub0"].addresses == {"203.0.113.20/24", "203.0.113.50/32"}
    assert router.routes == {
        Route("0.0.0.0/0", "203.0.113.1", "pub0"),
        Route("10.5.0.0/16", "10.0.0.7", inside),
        Route("10.6.0.0/16", "203.0.113.7", "pub0"),
    }
    assert router.elements[ElementKey(rules.FLOATING, "203.0.113.50")] == "10.0.0.3"
    assert router.elements[ElementKey(rules.FIXED, "10.0.0.3")] == "203.0.113.50"
    assert router.chains[rules.SOURCE_NAT].rules == ("snat to 203.0.113.20",)


def test_a_routers_own_default_route_takes_the_gateways_place() -> None:
    rows = small()
    rows.routers[0] = rows.routers[0]._replace(routes=[{"destination": "0.0.0.0/0", "nexthop": "10.0.0.7"}])
    router = by_namespace(plan(rows.host_rows(), config()))[NAMES.router(rows.routers[0].id)]
    inside = next(name for name in router.links if name.startswith("int"))

    assert router.routes == {Route("0.0.0.0/0", "10.0.0.7", inside)}


def test_router_without_source_nat_still_turns_its_own_around() -> None:
    rows = small()
    rows.routers[0] = rows.routers[0]._replace(enable_snat=False)
    router = by_namespace(plan(rows.host_rows(), config()))[NAMES.router(rows.routers[0].id)]

    assert router.chains[rules.SOURCE_NAT].rules == ()
    assert router.chains[rules.HAIRPIN_NAT].rules == ("snat to 203.0.113.20",)


def test_outside_hangs_off_the_public_bridge() -> None:
    layouts = by_namespace(plan(small().host_rows(), config(public_gateway="203.0.113.1")))

    assert layouts["kn-outside"].links["eth0"].addresses == {"203.0.113.1/24"}
    assert layouts["kn-switch"].links["outside"].master == "br-public"


def test_nic_of_the_machine_is_trusted_and_keeps_its_own_settings() -> None:
    switch = by_namespace(plan(small().host_rows(), config(public_interface="eth0")))["kn-switch"]
    there = Link("veth", 9000, up=False, mac="02:00:00:00:00:07")

    (change,) = difference(Layout({"eth0": there}), Layout({"eth0": switch.links["eth0"]})).changed_links

    assert ElementKey(rules.TRUSTED, '"eth0"') in switch.elements
    assert change.after == replace(there, up=True, master="br-public")
    assert not difference(Layout({"eth0": change.after}), Layout({"eth0": switch.links["eth0"]}))


def test_vlan_device_is_a_trusted_port_of_its_bridge() -> None:
    wanted = plan(small().host_rows(), config(trunks={"physnet1": "enp0s31f6-long"}))
    switch = by_namespace(wanted)["kn-switch"]
    device = vlan_name(wanted.bridges["br1"])

    assert len(device) <= 15
    assert switch.links[device].master == "br1"
    assert ElementKey(rules.TRUSTED, f'"{device}"') in switch.elements
    with pytest.raises(ValueError):
        vlan_name(wanted.bridges["br-public"])


def test_vlan_devices_of_two_trunks_with_long_names_differ() -> None:
    names = {vlan_name(BridgePlan("br1", uid(1, 1), 1500, 1, VlanTag(f"enp0s31f6np{end}", 4094))) for end in (0, 1)}

    assert len(names) == 2
    assert all(len(name) < 15 and name.endswith(".4094") for name in names)


def test_tunnel_is_a_trusted_port_of_its_bridge() -> None:
    made = tunnel_layout(TunnelPlan(uid(1, 1), "bv7", 1450, Tunnel(7, "192.0.2.1"), peers=(("b", "192.0.2.2"),)))

    assert made.links["vx7"] == Link("vxlan", 1450, uid(1, 1), master="bv7", tunnel=Tunnel(7, "192.0.2.1"))
    assert ElementKey(rules.TRUSTED, '"vx7"') in made.elements
    assert made.forwarding == {Forward("vx7", FLOOD, "192.0.2.2")}


def test_administrators_bridge_is_filtered_and_not_ours() -> None:
    rows = Rows()
    rows.network(1, manager="flat-dhcp", physical_network="flat1", segmentation_id=None, bridge="br-flat")
    here = by_namespace(plan(rows.host_rows(), config(flat_bridges={"flat1": "br-mine"})))["kn-switch"]

    assert here.links["br-mine"] == Link("given bridge", 0, uid(1, 1), filtered=True)
    assert ElementKey(rules.ZONES, '"br-mine"') in here.elements
    assert here.links[f"svc{uid(1, 1)[:11]}"].master == "br-mine"


def test_tunnels_nic_has_the_address_and_is_where_the_host_is_reached() -> None:
    host = config(tunnel_interface="eth1", tunnel_address="192.0.2.1/24", trunks={"physnet1": "eth1"})
    switch = by_namespace(plan(small().host_rows(), host))["kn-switch"]

    assert switch.links["eth1"] == Link("other", 0, addresses=frozenset({"192.0.2.1/24"}))
    assert ElementKey(rules.UNDERLAY, '"eth1"') in switch.elements


def test_bridge_of_a_public_network_is_not_filtered() -> None:
    layout = bridge_layout(BridgePlan("br-public", uid(1, 9), 1500, 0))

    assert not layout.links["br-public"].filtered
    assert layout.elements == {}


def test_agent_owns_switch_routers_services_and_outside_not_guests() -> None:
    assert all(NAMES.owns(name) for name in ("kn-switch", "kn-outside", "kn-r-1", "kn-s-1"))
    assert not any(NAMES.owns(name) for name in ("kn-g-1", "other-switch", "knx-switch", "kn"))


@st.composite
def hosts(draw: st.DrawFn) -> HostRows:
    rows = Rows()
    for number in range(1, 4):
        rows.network(number, f"10.0.{number}.0/24")
    rows.network(9, "203.0.113.0/24", external=True)
    for number in draw(st.sets(st.integers(1, 12))):
        network = number % 3 + 1
        groups = tuple(uid(7, item) for item in draw(st.sets(st.integers(1, 3))))
        rows.port(number, network, f"10.0.{network}.{number + 2}", groups, vif=draw(st.sampled_from(["tap", "veth"])))
    for group in range(1, 4):
        rows.rule(uid(7, group), protocol="tcp", port_range_min=draw(st.integers(1, 5)))
        rows.rule(uid(7, group), remote_group_id=uid(7, draw(st.integers(1, 3))))
    if draw(st.booleans()):
        rows.router(1, (1, "10.0.1.1"), (2, "10.0.2.1"), gateway=(9, "203.0.113.20"))
    return rows.host_rows()


@settings(max_examples=30, deadline=None)
@given(hosts(), hosts())
def test_changed_fragments_say_the_same_as_whole_layouts(before: HostRows, after: HostRows) -> None:
    """What a pass does by fragments is what a comparison with the whole host would do."""
    old, new = fragments(plan(before, config()), NAMES), fragments(plan(after, config()), NAMES)
    gone, come = changed(old, new)

    by_parts = difference(merge(item.layout for item in gone), merge(item.layout for item in come))
    whole = difference(merge(item.layout for item in old.values()), merge(item.layout for item in new.values()))

    assert set(by_parts.added_elements) == set(whole.added_elements)
    assert set(by_parts.removed_elements) == set(whole.removed_elements)
    assert by_parts.added_chains == whole.added_chains
    assert by_parts.removed_chains == whole.removed_chains
    assert set(by_parts.changed_chains) == set(whole.changed_chains)
    assert set(by_parts.removed_links) == set(whole.removed_links)
    assert changed(new, new) == ([], [])


@settings(max_examples=30, deadline=None)
@given(hosts())
def test_no_two_fragments_name_the_same_thing(host: HostRows) -> None:
    seen: set[object] = set()
    for item in fragments(plan(host, config()), NAMES).values():
        things: set[object] = {(item.namespace, "link", name) for name in item.layout.links}
        things |= {(item.namespace, "element", *key) for key in item.layout.elements}
        things |= {(item.namespace, "chain", *key) for key in item.layout.chains}
        assert not things & seen
        seen |= things


@settings(max_examples=30, deadline=None)
@given(hosts())
def test_every_group_and_combination_that_is_named_exists(host: HostRows) -> None:
    wanted = plan(host, config())
    switch = by_namespace(wanted)["kn-switch"]
    chains = {key.name for key in switch.chains}
    sets = {key.name for key in switch.sets}

    for value in switch.elements.values():
        if value.startswith("goto "):
            assert value.removeprefix("goto ") in chains
    for chain in switch.chains.values():
        for rule in chain.rules:
            words = rule.split()
            assert all(words[number + 1] in chains for number, word in enumerate(words) if word == "jump")
            assert all(word[1:] in sets for word in words if word.startswith("@g_"))
    assert len(combinations(wanted)) == len({combination_name(item) for item in combinations(wanted)})
