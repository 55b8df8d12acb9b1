"""What a project may not do to the hosts and to other projects through the network API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kilonova.cloud.controller import Cloud

if TYPE_CHECKING:
    from .conftest import Caller
else:
    Caller = Any


async def subnet_of(caller: Caller, **fields: Any) -> tuple[Any, Any]:
    network = await caller.make("network", **fields)
    return network, await caller.make("subnet", network_id=network["id"], cidr="10.9.0.0/24")


@pytest.mark.parametrize("prefix", ["fe80::% accept; flush ruleset\n/64", "fe80::%eth0/64", "::%x"])
async def test_a_rule_cannot_carry_text_into_the_rule_set(member: Caller, prefix: str) -> None:
    group = await member.make("security_group", name="web")
    rule = {"security_group_id": group["id"], "direction": "ingress", "ethertype": "IPv6", "remote_ip_prefix": prefix}
    await member.refused("POST", "/security-group-rules", {"security_group_rule": rule}, status=400)


@pytest.mark.parametrize(
    "fields",
    [
        {"dns_nameservers": ["fe80::1%\ndhcp-script=x"]},
        {"host_routes": [{"destination": "fe80::%\nuser=root/64", "nexthop": "fe80::1"}]},
        {"host_routes": [{"destination": "2001:db8::/32", "nexthop": "fe80::1%\nuser=root"}]},
    ],
)
async def test_a_subnet_cannot_carry_text_into_dnsmasq(member: Caller, fields: Any) -> None:
    network, subnet = await subnet_of(member)
    await member.refused("PUT", f"/subnets/{subnet['id']}", {"subnet": fields}, status=400)
    body = {"subnet": {"network_id": network["id"], "cidr": "10.8.0.0/24", **fields}}
    await member.refused("POST", "/subnets", body, status=400)


@pytest.mark.parametrize("domain", ["x\nlog-facility=/etc/cron.d/x", "x\ndhcp-script=/tmp/x", "a b", "a/b", "x\u0000"])
async def test_a_domain_is_a_name(member: Caller, domain: str) -> None:
    assert "dns_domain" in await member.refused("POST", "/networks", {"network": {"dns_domain": domain}}, status=400)
    network = await member.make("network", dns_domain="example.org.")
    path = f"/networks/{network['id']}"
    assert "dns_domain" in await member.refused("PUT", path, {"network": {"dns_domain": domain}}, status=400)
    assert (await member.ask("PUT", path, {"network": {"dns_domain": ""}}))["network"]["dns_domain"] == ""


@pytest.mark.parametrize("name", ["web\nfa:16:3e:00:00:01,10.9.0.1,gateway", "web,ignore", "a b"])
async def test_the_name_of_a_port_is_a_name(member: Caller, name: str) -> None:
    network, _ = await subnet_of(member)
    body = {"port": {"network_id": network["id"], "dns_name": name}}
    assert "dns_name" in await member.refused("POST", "/ports", body, status=400)
    port = await member.make("port", network_id=network["id"], dns_name="web")
    path = f"/ports/{port['id']}"
    assert "dns_name" in await member.refused("PUT", path, {"port": {"dns_name": name}}, status=400)


async def test_an_allowed_address_has_no_zone(member: Caller) -> None:
    network, _ = await subnet_of(member)
    body = {"port": {"network_id": network["id"], "allowed_address_pairs": [{"ip_address": "fe80::%x{\n"}]}}
    await member.refused("POST", "/ports", body, status=400)


async def test_a_router_does_not_take_the_port_of_another_project(
    member: Caller, other: Caller, operator: Caller, world: Cloud
) -> None:
    network, _ = await subnet_of(member)
    await operator.ask("PUT", f"/networks/{network['id']}", {"network": {"shared": True}})
    port = await other.make("port", network_id=network["id"])
    router = await member.make("router")
    await member.refused("PUT", f"/routers/{router['id']}/add_router_interface", {"port_id": port["id"]}, status=403)
    assert (await other.ask("GET", f"/ports/{port['id']}"))["port"]["device_owner"] == ""
