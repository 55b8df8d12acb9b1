"""A listing of nft as a layout: keys come back as the plan writes them."""

from __future__ import annotations

from typing import Any

from kilonova.network import rules
from kilonova.network.host.nftables import parse
from kilonova.network.layout import ElementKey

LISTING: list[dict[str, Any]] = [
    {"metainfo": {"version": "1.0.6"}},
    {"table": {"family": "bridge", "name": "kn_l2", "handle": 1}},
    {
        "map": {
            "family": "bridge",
            "name": "ip_ok",
            "table": "kn_l2",
            "type": ["ifname", "ether_addr", "ipv4_addr"],
            "map": "verdict",
            "elem": [[{"concat": ["tap1", "fa:16:3e:00:00:01", "10.0.0.3"]}, {"goto": {"target": "v4ok"}}]],
        }
    },
    {
        "set": {
            "family": "bridge",
            "name": "na_ok",
            "table": "kn_l2",
            "type": ["ifname", "integer"],
            "elem": [{"concat": ["tap1", "0x00fe80"]}, {"concat": ["tap1", 7]}],
        }
    },
    {"set": {"family": "bridge", "name": "trusted", "table": "kn_l2", "type": "ifname", "elem": ["outside"]}},
    {
        "map": {
            "family": "inet",
            "name": "zones",
            "table": "kn_sg",
            "type": "ifname",
            "map": "integer",
            "elem": [["br1", 77]],
        }
    },
    {
        "set": {
            "family": "ip",
            "name": "inside",
            "table": "kn_nat",
            "type": "ipv4_addr",
            "elem": [{"prefix": {"addr": "10.0.0.0", "len": 24}}, {"elem": {"val": "10.0.1.0"}}],
        }
    },
    {"chain": {"family": "inet", "table": "kn_sg", "name": "g_x_in", "handle": 2}},
    {"rule": {"family": "inet", "table": "kn_sg", "chain": "g_x_in", "comment": "kabc", "expr": []}},
    {"rule": {"family": "inet", "table": "kn_sg", "chain": "g_x_in", "expr": []}},
    {"set": {"family": "inet", "name": "theirs", "table": "docker", "type": "ifname", "elem": ["eth0"]}},
    {
        "map": {
            "family": "inet",
            "name": "egress",
            "table": "kn_sg",
            "type": ["ifname", "ipv4_addr"],
            "map": "verdict",
            "elem": [[{"concat": ["br1", "10.0.0.9"]}, {"drop": None}]],
        }
    },
]


def test_elements_come_back_as_they_are_written() -> None:
    found = parse(LISTING)

    assert found.elements == {
        ElementKey(rules.ADDRESS_OK, '"tap1" . fa:16:3e:00:00:01 . 10.0.0.3'): "goto v4ok",
        ElementKey(rules.ADVERTISED6_OK, '"tap1" . 0xfe80'): "",
        ElementKey(rules.ADVERTISED6_OK, '"tap1" . 0x7'): "",
        ElementKey(rules.TRUSTED, '"outside"'): "",
        ElementKey(rules.ZONES, '"br1"'): "77",
        ElementKey(rules.INSIDE, "10.0.0.0/24"): "",
        ElementKey(rules.INSIDE, "10.0.1.0"): "",
        ElementKey(rules.EGRESS, '"br1" . 10.0.0.9'): "drop",
    }


def test_rule_somebody_added_by_hand_is_no_rule_of_ours() -> None:
    assert parse(LISTING).chains[rules.groups("g_x_in")].digests == ("kabc", "?")


def test_tables_of_others_are_left_out() -> None:
    assert not any(key.table == "docker" for key in parse(LISTING).sets)
