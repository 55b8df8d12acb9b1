"""Security-group rules as nft text."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.network.group_rules import (
    PROTOCOL_NUMBERS,
    WITH_PORTS,
    GroupRule,
    chain_name,
    combination_name,
    compile_rule,
    compile_rules,
    matches,
    members_name,
    protocol_number,
)

GROUP = "3f0e8c6e-6f0b-4d53-9b27-5f1c2f6f8a01"


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (GroupRule("ingress", "IPv4"), "meta nfproto ipv4 accept"),
        (GroupRule("egress", "IPv6"), "meta nfproto ipv6 goto sg_ingress"),
        (GroupRule("ingress", "IPv4", "tcp", 22, 22), "meta nfproto ipv4 meta l4proto 6 th dport 22 accept"),
        (GroupRule("ingress", "IPv4", "TCP", 80, 90), "meta nfproto ipv4 meta l4proto 6 th dport 80-90 accept"),
        (GroupRule("ingress", "IPv4", "17", 53, None), "meta nfproto ipv4 meta l4proto 17 th dport 53 accept"),
        (GroupRule("ingress", "IPv4", "icmp", 8, 0), "meta nfproto ipv4 meta l4proto 1 icmp type 8 icmp code 0 accept"),
        (GroupRule("ingress", "IPv4", "icmp", 8), "meta nfproto ipv4 meta l4proto 1 icmp type 8 accept"),
        (GroupRule("ingress", "IPv4", "icmp"), "meta nfproto ipv4 meta l4proto 1 accept"),
        (GroupRule("ingress", "IPv6", "icmp", 128), "meta nfproto ipv6 meta l4proto 58 icmpv6 type 128 accept"),
        (GroupRule("ingress", "IPv4", "gre", 1, 2), "meta nfproto ipv4 meta l4proto 47 accept"),
        (GroupRule("ingress", "IPv4", "any"), "meta nfproto ipv4 accept"),
        (GroupRule("ingress", "IPv4", None, remote_cidr="0.0.0.0/0"), "meta nfproto ipv4 accept"),
        (GroupRule("ingress", "IPv4", remote_cidr="10.1.2.3/8"), "meta nfproto ipv4 ip saddr 10.0.0.0/8 accept"),
        (GroupRule("egress", "IPv6", remote_cidr="2001:db8::/32"), None),
        (
            GroupRule("ingress", "IPv4", remote_group_id=GROUP),
            "meta nfproto ipv4 iifname . ip saddr @g_3f0e8c6e6f0b4d539b275f1c2f6f8a01_m4 accept",
        ),
        (
            GroupRule("egress", "IPv6", remote_group_id=GROUP),
            "meta nfproto ipv6 oifname . ip6 daddr @g_3f0e8c6e6f0b4d539b275f1c2f6f8a01_m6 goto sg_ingress",
        ),
    ],
)
def test_rule_becomes_one_statement(rule: GroupRule, text: str | None) -> None:
    if text is None:
        text = "meta nfproto ipv6 ip6 daddr 2001:db8::/32 goto sg_ingress"
    assert compile_rule(rule) == text


def test_cidr_of_the_other_family_matches_nothing() -> None:
    assert compile_rule(GroupRule("ingress", "IPv6", remote_cidr="10.0.0.0/8")) is None
    assert compile_rules([GroupRule("ingress", "IPv6", remote_cidr="10.0.0.0/8")], "ingress") == ()


def test_chain_has_its_direction_only_and_nothing_twice() -> None:
    rule = GroupRule("ingress", "IPv4", "tcp", 22, 22)
    assert compile_rules([rule, rule, GroupRule("egress", "IPv4")], "ingress") == (compile_rule(rule),)


@pytest.mark.parametrize("word", ["256", "-1", "nonsense"])
def test_unknown_protocol_is_refused(word: str) -> None:
    with pytest.raises(ValueError):
        protocol_number(word, "IPv4")


@given(st.sampled_from(sorted(PROTOCOL_NUMBERS)), st.sampled_from(["IPv4", "IPv6"]))
def test_name_and_number_of_a_protocol_are_the_same_rule(name: str, ethertype: str) -> None:
    assert protocol_number(name, ethertype) == protocol_number(str(PROTOCOL_NUMBERS[name]), ethertype)


@given(st.sets(st.uuids().map(str), max_size=5))
def test_combination_has_one_name_whatever_the_order(groups: set[str]) -> None:
    assert combination_name(sorted(groups)) == combination_name(sorted(groups, reverse=True))
    assert len(combination_name(sorted(groups))) < 100


@given(
    st.builds(
        GroupRule,
        st.sampled_from(["ingress", "egress"]),
        st.sampled_from(["IPv4", "IPv6"]),
        st.one_of(st.none(), st.sampled_from(sorted(PROTOCOL_NUMBERS)), st.integers(0, 255).map(str)),
        st.one_of(st.none(), st.integers(0, 255)),
        st.one_of(st.none(), st.integers(0, 255)),
        st.one_of(st.none(), st.ip_addresses(v=4).map(lambda item: f"{item}/24")),
        st.one_of(st.none(), st.uuids().map(str)),
    )
)
def test_every_statement_names_its_family_and_ends_in_its_verdict(rule: GroupRule) -> None:
    text = compile_rule(rule)
    if text is None:
        assert rule.remote_cidr is not None
        assert f"IPv{ip_network(rule.remote_cidr, strict=False).version}" != rule.ethertype
        return
    assert text.startswith(f"meta nfproto {rule.ethertype.lower()}")
    assert text.endswith("accept" if rule.direction == "ingress" else "goto sg_ingress")
    assert "\n" not in text


@given(
    st.sampled_from(["ingress", "egress"]),
    st.sampled_from(["IPv4", "IPv6"]),
    st.one_of(st.none(), st.integers(0, 255).map(str)),
    st.one_of(st.none(), st.tuples(st.integers(1, 255), st.integers(0, 200)).map(lambda ends: (ends[0], sum(ends)))),
    st.sampled_from([None, "192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0", "::/0"]),
    st.sampled_from([None, GROUP]),
)
def test_statement_is_read_as_what_it_was_made_of(
    direction: Literal["ingress", "egress"],
    ethertype: Literal["IPv4", "IPv6"],
    protocol: str | None,
    ports: tuple[int, int] | None,
    cidr: str | None,
    group: str | None,
) -> None:
    first, last = ports or (None, None)
    text = compile_rule(GroupRule(direction, ethertype, protocol, first, last, cidr, group))
    if text is None:
        return
    number = protocol_number(protocol, ethertype)

    match = matches(text)

    assert (match.direction, f"IPv{match.version}", match.protocol) == (direction, ethertype, number)
    assert match.ports == (ports if number in WITH_PORTS else None)
    assert match.remote == ("" if cidr is None or cidr.endswith("/0") else cidr)
    assert match.remote_group == ("" if group is None else GROUP.replace("-", ""))
    assert bool(match.icmp_type) == (number in (1, 58) and ports is not None)


def test_statement_of_another_hand_is_refused() -> None:
    with pytest.raises(ValueError, match="not a group's rule"):
        matches("tcp dport 22 accept")


def test_names_are_derived_from_the_id() -> None:
    assert chain_name(GROUP, "ingress") != chain_name(GROUP, "egress")
    assert members_name(GROUP, 4) != members_name(GROUP, 6)
