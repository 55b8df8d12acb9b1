"""Security groups and rules: what is accepted, what is refused, what a project begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .conftest import Caller
else:
    Caller = Any


async def test_a_project_begins_with_a_default_group(member: Caller) -> None:
    (group,) = (await member.ask("GET", "/security-groups"))["security_groups"]
    assert group["name"] == "default"
    rules = {(r["direction"], r["ethertype"], r["remote_group_id"]) for r in group["security_group_rules"]}
    assert rules == {
        ("egress", "IPv4", None),
        ("egress", "IPv6", None),
        ("ingress", "IPv4", group["id"]),
        ("ingress", "IPv6", group["id"]),
    }
    assert len((await member.ask("GET", "/security-groups"))["security_groups"]) == 1


async def test_the_default_group_stays(member: Caller, operator: Caller) -> None:
    (group,) = (await member.ask("GET", "/security-groups", name="default"))["security_groups"]
    path = f"/security-groups/{group['id']}"
    await member.refused("DELETE", path, status=409, kind="SecurityGroupCannotRemoveDefault")
    body = {"security_group": {"name": "x"}}
    await member.refused("PUT", path, body, status=409, kind="SecurityGroupCannotUpdateDefault")
    body["security_group"]["name"] = "default"
    await member.refused("POST", "/security-groups", body, status=409, kind="SecurityGroupDefaultAlreadyExists")
    changed = (await member.ask("PUT", path, {"security_group": {"description": "d"}}))["security_group"]
    assert changed["description"] == "d"


async def test_a_new_group_lets_out_and_nothing_in(member: Caller) -> None:
    group = await member.make("security_group", name="web", description="d")
    assert {(r["direction"], r["ethertype"]) for r in group["security_group_rules"]} == {
        ("egress", "IPv4"),
        ("egress", "IPv6"),
    }
    assert group["stateful"] is True
    await member.ask("DELETE", f"/security-groups/{group['id']}", status=204)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"protocol": "tcp", "port_range_min": "22", "port_range_max": 22}, {"port_range_min": 22}),
        ({"protocol": "TCP", "port_range_min": 1, "port_range_max": 65535}, {"protocol": "tcp"}),
        ({"protocol": 17, "port_range_min": 53, "port_range_max": 53}, {"protocol": "17"}),
        ({"protocol": "icmp", "port_range_min": 8, "port_range_max": 0}, {"port_range_max": 0}),
        ({"protocol": "icmp", "port_range_min": 8}, {"port_range_min": 8}),
        ({"protocol": None}, {"protocol": None}),
        ({"remote_ip_prefix": "10.0.0.7/24"}, {"normalized_cidr": "10.0.0.0/24"}),
        ({"remote_ip_prefix": "10.0.0.7"}, {"remote_ip_prefix": "10.0.0.7/32"}),
        ({"ethertype": "IPv6", "remote_ip_prefix": "2001:db8::/64"}, {"ethertype": "IPv6"}),
        ({"ethertype": "IPv6", "protocol": "ipv6-icmp"}, {"protocol": "ipv6-icmp"}),
        ({"direction": "egress"}, {"direction": "egress"}),
    ],
)
async def test_a_rule_is_accepted(member: Caller, fields: Any, expected: Any) -> None:
    group = await member.make("security_group", name="web")
    for rule in group["security_group_rules"]:
        await member.ask("DELETE", f"/security-group-rules/{rule['id']}", status=204)
    wanted = {"direction": "ingress", **fields}
    made = await member.make("security_group_rule", security_group_id=group["id"], **wanted)
    assert {name: made[name] for name in expected} == expected
    body = {"security_group_rule": {"security_group_id": group["id"], **wanted}}
    await member.refused("POST", "/security-group-rules", body, status=409, kind="SecurityGroupRuleExists")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"direction": "up"}, "direction"),
        ({"ethertype": "ARP"}, "ethertype"),
        ({"protocol": "xyz"}, "xyz"),
        ({"protocol": 256}, "256"),
        ({"protocol": -1}, "-1"),
        ({"port_range_min": 1, "port_range_max": 2}, "protocol"),
        ({"protocol": "tcp", "port_range_min": 9, "port_range_max": 2}, "port_range_min"),
        ({"protocol": "tcp", "port_range_min": 9}, "port_range_min"),
        ({"protocol": "tcp", "port_range_min": 0, "port_range_max": 2}, "port"),
        ({"protocol": "tcp", "port_range_min": 1, "port_range_max": 65536}, "65536"),
        ({"protocol": "icmp", "port_range_max": 2}, "ICMP"),
        ({"protocol": "icmp", "port_range_min": 256}, "256"),
        ({"remote_ip_prefix": "words"}, "remote_ip_prefix"),
        ({"remote_ip_prefix": "2001:db8::/64"}, "ethertype"),
        ({"protocol": "ipv6-icmp"}, "ethertype"),
        ({"remote_ip_prefix": "10.0.0.0/8", "remote_group_id": "x"}, "remote_group_id"),
    ],
)
async def test_a_rule_is_refused(member: Caller, fields: Any, word: str) -> None:
    group = await member.make("security_group", name="web")
    body = {"security_group_rule": {"security_group_id": group["id"], "direction": "ingress", **fields}}
    assert word in await member.refused("POST", "/security-group-rules", body, status=400)


async def test_rules_name_groups_of_their_own_project(member: Caller, other: Caller) -> None:
    mine = await member.make("security_group", name="mine")
    theirs = await other.make("security_group", name="theirs")
    body = {
        "security_group_rule": {
            "security_group_id": mine["id"],
            "direction": "ingress",
            "remote_group_id": theirs["id"],
        }
    }
    await member.refused("POST", "/security-group-rules", body, status=404, kind="SecurityGroupNotFound")
    network = await member.make("network")
    port = {"port": {"network_id": network["id"], "security_groups": [theirs["id"]]}}
    await member.refused("POST", "/ports", port, status=404, kind="SecurityGroupNotFound")


async def test_a_group_in_use_is_not_deleted(member: Caller) -> None:
    group = await member.make("security_group", name="web")
    network = await member.make("network")
    port = await member.make("port", network_id=network["id"], security_groups=[group["id"]])
    path = f"/security-groups/{group['id']}"
    assert port["id"] in await member.refused("DELETE", path, status=409, kind="SecurityGroupInUse")


async def test_many_rules_are_made_or_none(member: Caller) -> None:
    group = await member.make("security_group", name="web")
    good = {"security_group_id": group["id"], "direction": "ingress", "protocol": "tcp"}
    body = {"security_group_rules": [good, {**good, "protocol": "xyz"}]}
    await member.refused("POST", "/security-group-rules", body, status=400)
    listed = await member.ask("GET", "/security-group-rules", security_group_id=group["id"], direction="ingress")
    assert listed["security_group_rules"] == []
    body["security_group_rules"].pop()
    await member.ask("POST", "/security-group-rules", body, status=201)
