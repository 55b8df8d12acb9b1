"""Which flows a change of the filters cuts."""

from __future__ import annotations

from kilonova.network import rules
from kilonova.network.flows import Cut, Flow, cuts, cuts_of_address, doomed, not_resumed, translations_gone
from kilonova.network.fragments import Names, changed, fragments
from kilonova.network.group_rules import chain_name
from kilonova.network.layout import Chain, Changes, ElementKey, Layout, difference, merge
from kilonova.network.plan import HostPlan
from kilonova.network.planner import plan
from kilonova.network.rows import MemberRow

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


def flow(
    source: str, target: str, protocol: int = 6, source_port: int = 40000, target_port: int = 22, version: int = 4
) -> Flow:
    return Flow(zone(), version, source, target, protocol, source_port, target_port)


MINE, PEER = "10.0.0.3", "192.0.2.9"
IN_SSH = flow(PEER, MINE)
IN_WEB = flow(PEER, MINE, target_port=80)
IN_PING = flow(PEER, MINE, 1, 0, 0)
OUT_SSH = flow(MINE, PEER)
OUT_PING = flow(MINE, PEER, 1, 0, 0)
ALL = [IN_SSH, IN_WEB, IN_PING, OUT_SSH, OUT_PING]


def ended(before: Rows, after: Rows, flows: list[Flow] = ALL) -> list[Flow]:
    new, changes = changes_between(before, after)
    return doomed(new, cuts(new, changes), flows)[0]


EGRESS: dict[str, object] = {"direction": "egress"}


def test_lost_rule_cuts_only_what_it_let_in() -> None:
    assert ended(one(SSH, EGRESS), one(EGRESS)) == [IN_SSH]


def test_lost_range_cuts_its_ports() -> None:
    assert ended(one(RANGE, EGRESS), one(EGRESS)) == [IN_SSH]


def test_lost_egress_rule_cuts_what_it_let_out() -> None:
    assert ended(one(SSH, OUT), one(SSH)) == [OUT_PING]


def test_lost_rule_for_everything_cuts_every_protocol() -> None:
    assert ended(one({}, EGRESS), one(EGRESS)) == [IN_SSH, IN_WEB, IN_PING]


def test_what_another_rule_allows_is_not_cut() -> None:
    assert ended(one({}, SSH), one(SSH)) == [IN_WEB, IN_PING]
    assert ended(one(SSH, {**SSH, "remote_ip_prefix": "192.0.2.0/24"}), one(SSH)) == []
    assert ended(
        one(SSH, {**SSH, "remote_ip_prefix": "192.0.3.0/24"}), one({**SSH, "remote_ip_prefix": "192.0.3.0/24"})
    )


def test_lost_prefix_cuts_whoever_is_in_it() -> None:
    near = {**SSH, "remote_ip_prefix": "198.51.100.0/24"}
    assert ended(one(near), one(), [IN_SSH, flow("198.51.100.1", MINE)]) == [flow("198.51.100.1", MINE)]


def test_chain_that_was_found_otherwise_is_measured_by_the_rules_there_are() -> None:
    wanted = plan(one(SSH).host_rows(), config())
    key = rules.groups(chain_name(GROUP, "ingress"))
    changes = Changes(changed_chains=((key, Chain(("kold",)), Chain.of("drop")),))

    assert doomed(wanted, cuts(wanted, changes), ALL)[0] == [IN_WEB, IN_PING]


def test_lost_port_is_cut_on_both_sides() -> None:
    rows = one({}, EGRESS)
    rows.port(2, 1, "10.0.0.4", (GROUP,))
    both = [flow("10.0.0.4", PEER), flow(PEER, "10.0.0.4")]

    assert ended(rows, one({}, EGRESS), [*ALL, *both]) == both


def test_member_that_left_loses_what_its_membership_allowed() -> None:
    by_group: dict[str, object] = {"remote_group_id": GROUP}
    before, after = one(by_group, SSH, EGRESS), one(by_group, SSH, EGRESS)
    for rows in (before, after):
        rows.members.append(MemberRow(GROUP, uid(1, 1), MINE))
    before.members.append(MemberRow(GROUP, uid(1, 1), "10.0.0.7"))
    member = [flow("10.0.0.7", MINE, target_port=80), flow("10.0.0.7", MINE), flow(MINE, "10.0.0.7", 17)]

    assert ended(before, before, member) == []
    assert ended(before, after, member) == member[:1]


def test_change_of_groups_keeps_what_the_new_ones_allow() -> None:
    other = uid(7, 2)
    before, after = one(SSH, EGRESS), Rows()
    after.network(1)
    after.port(1, 1, MINE, (other,))
    after.rule(other, protocol="tcp", port_range_min=22, port_range_max=22)

    assert ended(before, after) == [IN_WEB, IN_PING, OUT_SSH, OUT_PING]


def test_answers_to_what_was_cut_do_not_resume_it() -> None:
    new, changes = changes_between(one({}), one())
    dns, esp = flow(PEER, MINE, 17, 999, 53), flow(PEER, MINE, 50, 0, 0)

    _, remembered = doomed(new, cuts(new, changes), [IN_SSH, IN_PING, dns, esp])

    assert not_resumed(new, remembered) == [
        (ElementKey(rules.CUT_TCP, f'"br1" . {MINE} . {PEER} . 22 . 40000'), ""),
        (ElementKey(rules.CUT_PORTS, f'"br1" . {MINE} . {PEER} . 53 . 999'), ""),
        (ElementKey(rules.CUT_OTHER, f'"br1" . {MINE} . {PEER} . 50'), ""),
    ]


def test_answers_of_the_dhcp_server_are_no_groups_matter() -> None:
    new, changes = changes_between(one(EGRESS), one())

    gone, remembered = doomed(new, cuts(new, changes), [flow(MINE, "10.0.0.2", 17, 68, 67)])

    assert gone
    assert not_resumed(new, remembered) == []


def test_nothing_is_kept_of_an_address_that_no_port_has() -> None:
    rows = one(EGRESS)
    rows.port(2, 1, "10.0.0.4", (GROUP,))
    new, changes = changes_between(rows, one(EGRESS))

    assert doomed(new, cuts(new, changes), [flow("10.0.0.4", PEER)])[1] == []


def test_lost_network_is_cut_as_a_whole() -> None:
    assert {Cut(zone(), 4), Cut(zone(), 6)} <= between(one(), Rows())


def test_cut_of_an_address_is_of_its_family() -> None:
    assert {cut.version for cut in cuts_of_address(1, "fe80::1")} == {6}


def test_translation_that_goes_names_both_addresses() -> None:
    key = ElementKey(rules.FLOATING, "203.0.113.50")
    changes = difference(Layout(elements={key: "10.0.0.3"}), Layout())

    assert translations_gone(changes) == {"203.0.113.50", "10.0.0.3"}
    assert cuts(HostPlan(), changes) == set()
