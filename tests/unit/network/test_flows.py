"""Which flows a change of the filters cuts."""

from __future__ import annotations

from kilonova.network import rules
from kilonova.network.flows import MANY, Cut, cuts, cuts_of_address, fewer, not_resumed, translations_gone
from kilonova.network.fragments import Names, changed, fragments
from kilonova.network.group_rules import chain_name
from kilonova.network.layout import Chain, Changes, ElementKey, Layout, difference, merge
from kilonova.network.plan import HostPlan, Member
from kilonova.network.planner import plan

from .host_rows import Rows, config, uid

GROUP = uid(7, 1)


def changes_between(before: Rows, after: Rows) -> tuple[HostPlan, Changes]:
    old, new = plan(before.host_rows(), config()), plan(after.host_rows(), config())
    gone, come = changed(fragments(old, Names("kn")), fragments(new, Names("kn")))
    return new, difference(merge(item.layout for item in gone), merge(item.layout for item in come))


def between(before: Rows, after: Rows) -> set[Cut]:
    return cuts(*changes_between(before, after))


def one(*rules_of_group: dict[str, object]) -> Rows:
    rows = Rows()
    rows.network(1)
    rows.port(1, 1, "10.0.0.3", (GROUP,))
    for values in rules_of_group:
        rows.rule(GROUP, **values)
    return rows


def zone() -> int:
    return plan(one().host_rows(), config()).bridges["br1"].zone


SSH: dict[str, object] = {"protocol": "tcp", "port_range_min": 22, "port_range_max": 22}
RANGE: dict[str, object] = {"protocol": "tcp", "port_range_min": 20, "port_range_max": 30}
OUT: dict[str, object] = {"direction": "egress", "protocol": "icmp"}


def test_added_rule_cuts_nothing() -> None:
    assert between(one(), one(SSH)) == set()


def test_lost_rule_cuts_only_what_it_let_in() -> None:
    assert between(one(SSH, OUT), one(OUT)) == {Cut(zone(), 4, target="10.0.0.3", protocol=6, port=22)}


def test_lost_range_cuts_its_protocol() -> None:
    assert between(one(RANGE), one()) == {Cut(zone(), 4, target="10.0.0.3", protocol=6)}


def test_lost_egress_rule_cuts_what_it_let_out() -> None:
    assert between(one(SSH, OUT), one(SSH)) == {Cut(zone(), 4, source="10.0.0.3", protocol=1)}


def test_lost_rule_for_everything_cuts_every_protocol() -> None:
    assert between(one({}), one()) == {Cut(zone(), 4, target="10.0.0.3")}


def test_chain_that_was_found_otherwise_cuts_all_that_came_in() -> None:
    wanted = plan(one(SSH).host_rows(), config())
    key = rules.groups(chain_name(GROUP, "ingress"))
    changes = Changes(changed_chains=((key, Chain(("kold",)), Chain.of("drop")),))

    found = cuts(wanted, changes)

    assert Cut(zone(), 4, target="10.0.0.3") in found
    assert all(cut.target for cut in found)


def test_lost_member_and_lost_port_are_cut() -> None:
    rows = one()
    rows.port(2, 1, "10.0.0.4", (GROUP,))

    found = between(rows, one())

    assert cuts_of_address(zone(), "10.0.0.4") <= found
    assert not any("10.0.0.3" in cut for cut in found)


def test_server_does_not_resume_what_a_lost_rule_cut() -> None:
    assert not_resumed(*changes_between(one(SSH), one())) == {Member("br1", "10.0.0.3")}


def test_nothing_is_kept_of_an_address_that_no_port_has() -> None:
    rows = one()
    rows.port(2, 1, "10.0.0.4", (GROUP,))
    assert not_resumed(*changes_between(rows, one())) == set()


def test_lost_network_is_cut_as_a_whole() -> None:
    assert {Cut(zone(), 4), Cut(zone(), 6)} <= between(one(), Rows())


def test_many_addresses_become_one_cut() -> None:
    few = {Cut(1, 4, target=f"10.0.0.{number}") for number in range(MANY)}
    many = {Cut(1, 4, target=f"10.0.0.{number}", protocol=6) for number in range(3 * MANY)}

    assert fewer(few) == few
    assert fewer(many) == {Cut(1, 4, protocol=6)}
    assert fewer({*few, Cut(1, 4)}) == {Cut(1, 4)}


def test_cut_of_an_address_is_of_its_family() -> None:
    assert {cut.version for cut in cuts_of_address(1, "fe80::1")} == {6}


def test_translation_that_goes_names_both_addresses() -> None:
    key = ElementKey(rules.FLOATING, "203.0.113.50")
    changes = difference(Layout(elements={key: "10.0.0.3"}), Layout())

    assert translations_gone(changes) == {"203.0.113.50", "10.0.0.3"}
    assert cuts(HostPlan(), changes) == set()
