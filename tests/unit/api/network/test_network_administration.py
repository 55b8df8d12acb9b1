"""Kilonova's own routes, agents, extensions and version documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kilonova.cloud.controller import Cloud

if TYPE_CHECKING:
    from .conftest import Caller
else:
    Caller = Any

POOL = "/kilonova/pool-networks"
RANGES = "/kilonova/floating-ranges"


async def test_the_pool_is_filled_listed_shown_and_emptied(operator: Caller, member: Caller, cloud: Cloud) -> None:
    body = {"pool_networks": {"fixed_range": "10.0.0.0/16", "num_networks": 3}}
    made = (await operator.ask("POST", POOL, body, status=201))["pool_networks"]
    assert [(item["cidr"], item["segmentation_id"], item["bridge"], item["vpn_port"]) for item in made] == [
        ("10.0.0.0/24", 100, "br100", 1000),
        ("10.0.1.0/24", 101, "br101", 1001),
        ("10.0.2.0/24", 102, "br102", 1002),
    ]
    await member.ask("GET", "/auto-allocated-topology/p1")
    (assigned,) = (await operator.ask("GET", POOL, assigned="true"))["pool_networks"]
    assert (assigned["project_id"], assigned["state"]) == ("p1", "assigned")
    path = f"{POOL}/{assigned['id']}"
    shown = (await operator.ask("GET", path))["pool_network"]
    assert shown | assigned == shown
    assert [given["project_id"] for given in shown["projects"]] == ["p1"]
    assert "project p1" in await operator.refused("DELETE", path, status=409, kind="NetworkInUse")
    free = (await operator.ask("GET", POOL, assigned="false"))["pool_networks"]
    await operator.ask("DELETE", f"{POOL}/{free[0]['id']}", status=204)
    assert len((await operator.ask("GET", POOL))["pool_networks"]) == 2
    await operator.refused("GET", f"{POOL}/nothing", status=404)
    await operator.ask("GET", POOL, status=400, colour="red")


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"network_size": 100}, 400, "power of two"),
        ({"network_size": 4}, 400, "network_size"),
        ({"num_networks": 0}, 400, "num_networks"),
        ({"fixed_range": "10.0.0.0/23", "num_networks": 3}, 400, "fixed_range"),
        ({"fixed_range": "10.0.0.1/8"}, 400, "fixed_range"),
        ({"fixed_range": ""}, 400, "fixed_range"),
        ({"fixed_range": "fd00::/8"}, 400, "IPv6"),
        ({"num_networks": 4000}, 400, "4094"),
        ({"vlan_start": 0, "num_networks": 1}, 400, "VLAN"),
        ({"vpn_start": 65000, "num_networks": 1000, "vlan_start": 3000}, 400, "vpn_start"),
        ({"manager": "flat"}, 400, "physical_network"),
        ({"manager": "vxlan", "physical_network": "physnet1"}, 400, "physical_network"),
        ({"manager": "vxlan", "vlan_start": 2**24 - 2, "fixed_range": "10.7.0.0/22", "num_networks": 4}, 400, "VNI"),
        ({"gateway": "10.0.0.1"}, 400, "gateway"),
        ({"physical_network": "public"}, 400, "reserved"),
        ({"manager": "magic"}, 400, "magic"),
        ({"num_networks": 2**40}, 400, "fixed_range"),
        ({"fixed_range": "10.0.2.0/24", "num_networks": 1, "vlan_start": 500}, 409, "overlaps"),
        ({"fixed_range": "203.0.113.0/24", "num_networks": 1, "vlan_start": 500}, 409, "public"),
        ({"fixed_range": "10.7.0.0/24", "num_networks": 1}, 409, "VLAN id 100"),
        ({"fixed_range": "10.7.0.0/24", "num_networks": 1, "vlan_start": 500, "vpn_start": 1002}, 409, "1002"),
    ],
)
async def test_a_pool_that_cannot_be_is_refused_before_any_row(
    operator: Caller, world: Cloud, fields: Any, status: int, word: str
) -> None:
    assert word in await operator.refused("POST", POOL, {"pool_networks": fields}, status=status)
    assert len((await operator.ask("GET", POOL))["pool_networks"]) == 3


async def test_the_pool_is_for_administrators(member: Caller) -> None:
    await member.refused("GET", POOL, status=403)
    await member.refused("POST", RANGES, {"floating_range": {"host": "h", "cidr": "192.0.2.0/24"}}, status=403)
    await member.refused("GET", "/agents", status=403)


async def test_a_floating_range_is_made_used_and_taken_away(operator: Caller, world: Cloud) -> None:
    wanted = {"host": "host1", "cidr": "198.18.0.0/16", "exclude": ["198.18.0.2", "198.18.1.0/24"]}
    made = (await operator.ask("POST", RANGES, {"floating_range": wanted}, status=201))["floating_range"]
    assert (made["gateway"], made["size"], made["used"]) == ("198.18.0.1", 65534 - 2 - 256, 0)
    subnet = (await operator.ask("GET", f"/subnets/{made['id']}"))["subnet"]
    assert subnet["allocation_pools"][0] == {"start": "198.18.0.3", "end": "198.18.0.255"}
    floating = await operator.make(
        "floatingip", floating_network_id=made["network_id"], floating_ip_address="198.18.7.7"
    )
    used = {item["cidr"]: item["used"] for item in (await operator.ask("GET", RANGES))["floating_ranges"]}
    assert used == {"203.0.113.0/24": 0, "198.18.0.0/16": 1}
    message = await operator.refused("DELETE", f"{RANGES}/198.18.0.0/16", status=409, kind="SubnetInUse")
    assert "1 floating IPs" in message
    await operator.ask("DELETE", f"/floatingips/{floating['id']}", status=204)
    await operator.ask("DELETE", f"{RANGES}/198.18.0.0%2F16", status=204)
    await operator.ask("DELETE", f"{RANGES}/203.0.113.0/24", status=204)
    assert (await operator.ask("GET", "/networks", **{"router:external": True}))["networks"] == []
    await operator.refused("DELETE", f"{RANGES}/203.0.113.0/24", status=404)


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"cidr": "words"}, 400, "cidr"),
        ({"cidr": "fd00::/64"}, 400, "IPv6"),
        ({"cidr": "203.0.113.128/25"}, 409, "overlaps"),
        ({"cidr": "10.0.0.0/16"}, 409, "overlaps"),
        ({"host": "nowhere"}, 400, "host1"),
        ({"gateway": "192.0.2.1"}, 400, "gateway"),
        ({"exclude": ["192.0.2.1"]}, 400, "exclude"),
        ({"exclude": ["198.51.100.0/24"]}, 400, "left"),
    ],
)
async def test_a_floating_range_that_cannot_be_is_refused(
    operator: Caller, world: Cloud, fields: Any, status: int, word: str
) -> None:
    body = {"floating_range": {"host": "host1", "cidr": "198.51.100.0/24", **fields}}
    assert word in await operator.refused("POST", RANGES, body, status=status)
    assert len((await operator.ask("GET", RANGES))["floating_ranges"]) == 1


async def test_a_router_that_began_without_an_outside_gets_one_with_the_first_range(
    operator: Caller, member: Caller, cloud: Cloud
) -> None:
    await operator.ask("POST", POOL, {"pool_networks": {"num_networks": 1}}, status=201)
    await member.ask("GET", "/auto-allocated-topology/p1")
    (router,) = (await member.ask("GET", "/routers"))["routers"]
    assert router["external_gateway_info"] is None
    body = {"floating_range": {"host": "host1", "cidr": "198.51.100.0/24"}}
    await operator.ask("POST", RANGES, body, status=201)
    (router,) = (await member.ask("GET", "/routers"))["routers"]
    assert router["external_gateway_info"]["external_fixed_ips"][0]["ip_address"] == "198.51.100.2"


async def test_agents_zones_and_addresses(operator: Caller, world: Cloud) -> None:
    (agent,) = (await operator.ask("GET", "/agents", alive="true"))["agents"]
    assert (agent["host"], agent["alive"]) == ("host1", True)
    assert (await operator.ask("GET", f"/agents/{agent['id']}"))["agent"]["id"] == agent["id"]
    assert (await operator.ask("GET", "/agents", host="other"))["agents"] == []
    zones = (await operator.ask("GET", "/availability_zones"))["availability_zones"]
    assert {(zone["name"], zone["resource"]) for zone in zones} == {("nova", "network"), ("nova", "router")}
    (public,) = (await operator.ask("GET", "/network-ip-availabilities"))["network_ip_availabilities"]
    assert (public["total_ips"], public["used_ips"]) == (253, 0)


async def test_an_agent_is_disabled_and_enabled(operator: Caller, member: Caller, world: Cloud) -> None:
    (agent,) = (await operator.ask("GET", "/agents"))["agents"]
    path = f"/agents/{agent['id']}"
    body = {"agent": {"admin_state_up": False, "description": "goes to be repaired"}}
    await member.refused("PUT", path, body, status=403)
    changed = (await operator.ask("PUT", path, body))["agent"]
    assert (changed["admin_state_up"], changed["description"]) == (False, "goes to be repaired")
    assert (await operator.ask("PUT", path, {"agent": {"admin_state_up": True}}))["agent"]["admin_state_up"]
    await operator.refused("PUT", "/agents/nothing", body, status=404, kind="AgentNotFound")
    await operator.refused("PUT", path, {"agent": {"host": "host2"}}, status=400)


async def test_versions_and_extensions_need_no_token(client: Any) -> None:
    (version,) = (await client.get("/network")).json()["versions"]
    assert version["links"][0]["href"] == "http://cloud/network/v2.0/"
    assert "networks" in {item["collection"] for item in (await client.get("/network/v2.0/")).json()["resources"]}
    aliases = {item["alias"] for item in (await client.get("/network/v2.0/extensions")).json()["extensions"]}
    assert {"router", "security-group", "quotas", "auto-allocated-topology"} <= aliases
    assert (await client.get("/network/v2.0/extensions/router")).json()["extension"]["alias"] == "router"
    missing = await client.get("/network/v2.0/extensions/magic")
    assert (missing.status_code, missing.json()["NeutronError"]["type"]) == (404, "ExtensionNotFound")


@pytest.mark.parametrize("cidr", ["224.0.0.0/24", "127.0.0.0/16", "169.254.0.0/16", "0.0.0.0/0"])
async def test_ranges_are_of_addresses_that_hosts_may_have(operator: Caller, cidr: str) -> None:
    pool = {"fixed_range": cidr, "num_networks": 1, "vlan_start": 3000, "vpn_start": 30000}
    assert cidr in await operator.refused("POST", POOL, {"pool_networks": pool}, status=400)
    floating = {"host": "host1", "cidr": cidr}
    assert cidr in await operator.refused("POST", RANGES, {"floating_range": floating}, status=400)
