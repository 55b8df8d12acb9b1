"""Layouts and their difference: what turns one state of a namespace into another."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from kilonova.network import rules
from kilonova.network.layout import (
    FLOOD,
    Chain,
    Changes,
    ElementKey,
    Forward,
    Layout,
    Link,
    Route,
    SetKey,
    Tunnel,
    VlanTag,
    difference,
    merge,
    nft_commands,
)

TABLES = [SetKey("inet", "kn_x", name) for name in "abc"]
links = st.dictionaries(
    st.sampled_from([f"tap{number}" for number in range(4)]),
    st.builds(
        Link,
        st.sampled_from(["bridge", "tap", "veth", "vxlan"]),
        st.sampled_from([1450, 1500]),
        owner=st.sampled_from(["n1", "n2"]),
        up=st.booleans(),
        mac=st.sampled_from(["", "02:00:00:00:00:01"]),
        addresses=st.frozensets(st.sampled_from(["10.0.0.1/24", "10.0.0.2/32"])),
    ),
)
chains = st.dictionaries(
    st.sampled_from([SetKey("inet", "kn_x", name) for name in "pqr"]),
    st.lists(st.sampled_from(["accept", "drop", "jump p"]), max_size=3).map(lambda texts: Chain.of(*texts)),
)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    sets = draw(st.dictionaries(st.sampled_from(TABLES), st.sampled_from(["type ifname;"])))
    keys = st.tuples(st.sampled_from(sorted(sets)), st.sampled_from(["1", "2", "3"])) if sets else st.nothing()
    elements = draw(st.dictionaries(keys.map(lambda item: ElementKey(*item)), st.sampled_from(["", "goto p"])))
    routes = draw(
        st.frozensets(st.sampled_from([Route("0.0.0.0/0", "10.0.0.1", "a"), Route("10.1.0.0/16", "10.0.0.2", "a")]))
    )
    drawn = draw(links)
    entries = st.builds(Forward, st.sampled_from(["tap0", "tap1"]), st.just(FLOOD), st.sampled_from(["192.0.2.1"]))
    told = frozenset(entry for entry in draw(st.frozensets(entries)) if entry.device in drawn)
    return Layout(drawn, routes, sets, draw(chains), elements, told)


def applied(found: Layout, changes: Changes) -> Layout:
    """A model of the kernel: what `changes` makes of a layout."""
    kept = {name: link for name, link in found.links.items() if name not in changes.removed_links}
    kept |= dict(changes.added_links) | {change.name: change.after for change in changes.changed_links}
    sets = {**found.sets, **dict(changes.added_sets)}
    for key, _ in changes.removed_sets:
        del sets[key]
    all_chains = {**found.chains, **dict(changes.added_chains)}
    all_chains |= {key: after for key, _, after in changes.changed_chains}
    for key in changes.removed_chains:
        del all_chains[key]
    elements = {element: value for element, value in found.elements.items() if element.set in sets}
    for element, _ in changes.removed_elements:
        del elements[element]
    elements |= dict(changes.added_elements)
    routes = (found.routes - set(changes.removed_routes)) | set(changes.added_routes)
    told = {entry for entry in found.forwarding if entry.device not in changes.removed_links}
    told = (told - set(changes.removed_forwarding)) | set(changes.added_forwarding)
    return Layout(kept, routes, sets, all_chains, elements, frozenset(told))


def test_forwarding_is_said_again_for_a_device_that_is_made_anew() -> None:
    entry = Forward("vx1", FLOOD, "192.0.2.2")
    found = Layout({"vx1": Link("vxlan", 1450, tunnel=Tunnel(1, "192.0.2.1"))}, forwarding=frozenset({entry}))
    wanted = Layout({"vx1": Link("vxlan", 1450, tunnel=Tunnel(1, "192.0.2.9"))}, forwarding=frozenset({entry}))

    changes = difference(found, wanted)

    assert changes.removed_links == ("vx1",)
    assert changes.added_forwarding == (entry,)


def test_what_is_the_administrators_is_never_removed_and_changed_only_where_we_need_it() -> None:
    nic = Link("veth", 9000, addresses=frozenset({"198.51.100.1/24"}))
    bridge = Link("bridge", 9000, up=False, mac="02:00:00:00:00:07")
    wanted = {
        "eth1": Link("other", 0, addresses=frozenset({"192.0.2.1/24"})),
        "br0": Link("given bridge", 0, owner="n1", filtered=True),
    }

    found = Layout({"eth1": nic, "br0": bridge})
    changes = {change.name: change.after for change in difference(found, Layout(wanted)).changed_links}

    assert changes["eth1"] == replace(nic, addresses=frozenset({"198.51.100.1/24", "192.0.2.1/24"}))
    assert changes["br0"] == replace(bridge, up=True, filtered=True)
    assert not difference(Layout(changes), Layout(wanted))
    assert not difference(Layout(wanted), Layout()).removed_links


def test_vlan_device_that_is_not_intact_is_changed_not_made_anew() -> None:
    wanted = Layout({"eth1.5": Link("vlan", 1500, tag=VlanTag("eth1", 5))})
    changes = difference(Layout({"eth1.5": Link("vlan", 1500, intact=False)}), wanted)

    assert [change.name for change in changes.changed_links] == ["eth1.5"]
    assert changes.removed_links == ()
    assert changes.added_links == ()


@given(layouts(), layouts())
def test_applied_difference_is_what_was_wanted(found: Layout, wanted: Layout) -> None:
    there = applied(found, difference(found, wanted))

    assert not difference(there, wanted)
    assert there.elements == wanted.elements
    assert there.chains == wanted.chains
    assert there.sets == wanted.sets
    assert there.routes == wanted.routes
    assert there.links.keys() == wanted.links.keys()


@given(layouts())
def test_nothing_differs_from_itself(layout: Layout) -> None:
    changes = difference(layout, layout)

    assert not changes
    assert nft_commands(changes) == ""
    assert str(changes) == "nothing"


def test_element_goes_when_its_set_is_not_part_of_either_side() -> None:
    """Fragments name elements of sets that another fragment declares."""
    element = ElementKey(rules.INGRESS, '"br1" . 10.0.0.3')

    changes = difference(Layout(elements={element: "goto c_in"}), Layout())

    assert changes.removed_elements == ((element, "goto c_in"),)
    assert nft_commands(changes) == 'delete element inet kn_sg ingress { "br1" . 10.0.0.3 }\n'


def test_mac_the_kernel_chose_is_no_difference() -> None:
    found = Layout({"tap1": Link("tap", 1500, mac="02:00:00:00:00:09")})

    assert not difference(found, Layout({"tap1": Link("tap", 1500)}))
    assert difference(found, Layout({"tap1": Link("tap", 1500, mac="02:00:00:00:00:01")}))


def test_bridges_are_made_before_their_ports() -> None:
    wanted = Layout({"tap1": Link("tap", 1500, master="br1"), "br1": Link("bridge", 1500)})

    assert [name for name, _ in difference(Layout(), wanted).added_links] == ["br1", "tap1"]


def test_trunk_is_up_before_what_it_carries() -> None:
    """The kernel refuses to bring a VLAN device up on a trunk that is down."""
    wanted = {"trunk0.7": Link("vlan", 1500, master="br7"), "br7": Link("bridge", 1500), "trunk0": Link("other", 0)}
    added = [name for name, _ in difference(Layout(), Layout(links=wanted)).added_links]
    assert added.index("trunk0") < added.index("trunk0.7")
    down = {name: replace(link, up=False) for name, link in wanted.items()}
    changed = [change.name for change in difference(Layout(links=down), Layout(links=wanted)).changed_links]
    assert changed.index("trunk0") < changed.index("trunk0.7")


def test_changed_value_of_a_map_is_removed_and_added_in_one_transaction() -> None:
    key = ElementKey(rules.FLOATING, "203.0.113.5")

    commands = nft_commands(difference(Layout(elements={key: "10.0.0.3"}), Layout(elements={key: "10.0.0.4"})))

    assert commands.splitlines() == [
        "delete element ip kn_nat fip { 203.0.113.5 }",
        "add element ip kn_nat fip { 203.0.113.5 : 10.0.0.4 }",
    ]


def test_transaction_declares_before_it_uses_and_deletes_after() -> None:
    old, new = SetKey("inet", "kn_sg", "c_old"), SetKey("inet", "kn_sg", "c_new")
    map_key, set_key = SetKey("inet", "kn_sg", "m"), SetKey("inet", "kn_sg", "g")
    element = ElementKey(rules.INGRESS, '"br1" . 10.0.0.3')
    found = Layout(sets={map_key: ":"}, chains={old: Chain.of("drop")}, elements={element: "goto c_old"})
    wanted = Layout(
        sets={set_key: "type ifname;"},
        chains={new: Chain.of("accept", hook="type filter hook input priority 0;")},
        elements={element: "goto c_new"},
    )

    lines = nft_commands(difference(found, wanted)).splitlines()

    assert [line.split(" comment")[0] for line in lines] == [
        "add table inet kn_sg",
        "add set inet kn_sg g { type ifname; }",
        "add chain inet kn_sg c_new { type filter hook input priority 0; }",
        "flush chain inet kn_sg c_old",
        'delete element inet kn_sg ingress { "br1" . 10.0.0.3 }',
        'add element inet kn_sg ingress { "br1" . 10.0.0.3 : goto c_new }',
        "add rule inet kn_sg c_new accept",
        "delete chain inet kn_sg c_old",
        "delete map inet kn_sg m",
    ]


def test_changed_chain_is_refilled_alone() -> None:
    key = SetKey("inet", "kn_sg", "g_in")
    changes = difference(Layout(chains={key: Chain.of("drop")}), Layout(chains={key: Chain.of("accept")}))

    assert [line.split(" comment")[0] for line in nft_commands(changes).splitlines()] == [
        "flush chain inet kn_sg g_in",
        "add rule inet kn_sg g_in accept",
    ]


def test_words_about_changes_name_the_links() -> None:
    before = Layout({"tap1": Link("tap", 1500), "tap2": Link("tap", 1500)})
    after = Layout(
        {"tap2": Link("tap", 1400), "tap3": Link("tap", 1500)}, elements={ElementKey(rules.TRUSTED, "x"): ""}
    )

    assert str(difference(before, after)) == "-tap1, +tap3, ~tap2, added_elements 1"


def test_merge_keeps_everything() -> None:
    one = Layout({"a": Link("tap", 1500)}, frozenset({Route("0.0.0.0/0", "10.0.0.1", "a")}))
    two = Layout({"b": Link("tap", 1500)}, chains={rules.SOURCE_NAT: Chain.of("drop")})

    both = merge([one, two])

    assert both.links.keys() == {"a", "b"}
    assert both.routes == one.routes
    assert both.chains == two.chains
