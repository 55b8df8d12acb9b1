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


@pytest.mark.parametrize("domain", ["x\nlog-facility=/etc/cron.d/x", "x\ndhcp-script=/tmp/x", "a b", "a/b"])
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


@pytest.mark.parametrize("owner", ["Network:dhcp", "NETWORK:x", " network:dhcp"])
async def test_no_spelling_makes_a_port_the_clouds_own(member: Caller, owner: str) -> None:
    network, _ = await subnet_of(member)
    body = {"port": {"network_id": network["id"], "device_owner": owner}}
    await member.refused("POST", "/ports", body, status=403)


async def test_the_clouds_own_ports_are_only_described_by_a_project(member: Caller, operator: Caller) -> None:
    await subnet_of(member)
    port = (await member.ask("GET", "/ports"))["ports"][0]
    assert port["device_owner"] == "network:dhcp"
    path = f"/ports/{port['id']}"
    for field, value in (("device_owner", ""), ("device_id", ""), ("port_security_enabled", True), ("fixed_ips", [])):
        assert field in await member.refused("PUT", path, {"port": {field: value}}, status=409)
    assert (await member.ask("PUT", path, {"port": {"name": "dhcp"}}))["port"]["name"] == "dhcp"
    await operator.ask("PUT", path, {"port": {"device_id": "elsewhere"}})


@pytest.mark.parametrize("cidr", ["0.0.0.0/1", "127.1.0.0/16", "169.254.0.0/16", "224.0.0.0/8", "255.255.255.0/24"])
async def test_a_subnet_is_of_addresses_that_hosts_may_have(member: Caller, cidr: str) -> None:
    network = await member.make("network")
    body = {"subnet": {"network_id": network["id"], "cidr": cidr}}
    assert cidr in await member.refused("POST", "/subnets", body, status=400)


async def test_a_list_with_thousands_of_filters_is_refused(member: Caller) -> None:
    tags = ",".join(f"t{number}" for number in range(3000))
    refused = await member.ask("GET", "/ports", status=400, tags=tags)
    assert "too many" in refused["NeutronError"]["message"]
    await member.ask("GET", "/ports", status=413, tags=tags * 2)


@pytest.mark.parametrize(("text", "status"), [("a\0b", 400), ("a\\u0000b", 201), ("a\\\0", 400)])
async def test_no_text_holds_a_nul(member: Caller, text: str, status: int) -> None:
    await member.ask("POST", "/networks", {"network": {"name": text}}, status=status)


async def test_a_router_does_not_take_the_addresses_outside(member: Caller, operator: Caller, world: Cloud) -> None:
    outside = (await member.ask("GET", "/networks", None, **{"router:external": True}))["networks"][0]
    subnet_id = (await operator.ask("GET", "/subnets", None, network_id=outside["id"]))["subnets"][0]["id"]

    def gateway(count: int) -> Any:
        info = {"network_id": outside["id"], "external_fixed_ips": [{"subnet_id": subnet_id}] * count}
        return {"router": {"external_gateway_info": info}}

    await member.refused("POST", "/routers", gateway(200), status=400)
    await member.refused("POST", "/routers", gateway(2), status=403)
    await member.ask("POST", "/routers", gateway(1), status=201)


@pytest.mark.parametrize("traffic", ["\N{SUPERSCRIPT TWO}/tcp", "80/\N{SUPERSCRIPT TWO}", "\N{ARABIC-INDIC DIGIT SIX}"])
async def test_what_is_no_ascii_number_is_no_traffic(member: Caller, traffic: str) -> None:
    body = {"explanation": {"source": "10.0.0.3", "destination": "outside", "traffic": traffic}}
    assert "traffic" in await member.refused("POST", "/kilonova/explanations", body, status=400)
