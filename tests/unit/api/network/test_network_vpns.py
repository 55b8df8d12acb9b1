"""Projects' VPNs by the API: what they need, who may use them, what goes with them."""

from __future__ import annotations

from base64 import b64decode
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import Connection, Table, func, insert, select

from kilonova.cloud.controller import Cloud
from kilonova.network.ports import VPN_CLIENT
from kilonova.store.schema import addresses, domains, networks, ports, projects, vpn_clients, vpns

if TYPE_CHECKING:
    from .conftest import Caller, Woken
else:
    Caller = Woken = Any

VPNS = "/kilonova/vpns"
MINE = f"{VPNS}/p1"


@pytest.fixture
async def named(world: Cloud) -> Cloud:
    """The callers' projects have names."""

    def rows(tx: Connection) -> None:
        tx.execute(insert(domains).values(id="default", name="Default"))
        for each in ("p1", "p2"):
            row = {"id": each, "domain_id": "default", "parent_id": "default", "name": f"name-{each}"}
            tx.execute(insert(projects).values(**row))

    await world.store.write(rows)
    return world


@pytest.fixture
async def running(named: Cloud, member: Caller) -> Cloud:
    """A project with a network, a router with an address outside, and a VPN."""
    await member.ask("GET", "/auto-allocated-topology/p1")
    await member.ask("POST", VPNS, {"vpn": {}}, status=201)
    return named


async def count(cloud: Cloud, table: Table) -> int:
    def rows(tx: Connection) -> int:
        return int(tx.execute(select(func.count()).select_from(table)).scalar_one())

    return await cloud.store.read(rows)


async def file_of(caller: Caller, user: str = "ann", project: str = "p1") -> dict[str, str]:
    """A client's file, as a mapping."""
    body = {"client": {"user_name": user}}
    made = (await caller.ask("POST", f"{VPNS}/{project}/clients", body, status=201))["client"]
    return dict(line.split(" = ") for line in made["config"].splitlines() if " = " in line)


def public_key(private: str) -> bytes:
    return X25519PrivateKey.from_private_bytes(b64decode(private)).public_key().public_bytes_raw()


async def test_a_vpn_takes_the_port_that_the_pool_set_aside_at_the_routers_address(
    named: Cloud, member: Caller, operator: Caller
) -> None:
    network = (await member.ask("GET", "/auto-allocated-topology/p1"))["auto_allocated_topology"]["id"]
    [before] = (await member.ask("GET", VPNS))["vpns"]
    assert (before["status"], before["port"], before["network_id"], before["id"]) == ("NONE", 1000, network, None)
    assert await count(named, vpns) == 0

    made = (await member.ask("POST", VPNS, {"vpn": {}}, status=201))["vpn"]

    [router] = (await operator.ask("GET", "/routers"))["routers"]
    outside = router["external_gateway_info"]["external_fixed_ips"][0]["ip_address"]
    assert (made["address"], made["port"], made["router_id"]) == (outside, 1000, router["id"])
    assert (await member.ask("POST", VPNS, {"vpn": {}}, status=201))["vpn"]["id"] == made["id"]
    assert "private" not in str(made) + str(await operator.ask("GET", MINE))


async def test_what_a_vpn_lacks_is_said(named: Cloud, member: Caller, operator: Caller) -> None:
    body = {"vpn": {"project_id": "p1"}}
    assert "has no network yet" in await member.refused("POST", VPNS, {"vpn": {}}, status=409)
    network = (await member.ask("GET", "/auto-allocated-topology/p1"))["auto_allocated_topology"]["id"]
    [router] = (await member.ask("GET", "/routers"))["routers"]
    await operator.ask("PUT", f"/routers/{router['id']}", {"router": {"external_gateway_info": None}})
    assert f"router {router['id']}" in await operator.refused("POST", VPNS, body, status=409)
    [subnet] = (await member.ask("GET", f"/networks/{network}"))["network"]["subnets"]
    await member.ask("PUT", f"/routers/{router['id']}/remove_router_interface", {"subnet_id": subnet})
    assert "no router" in await member.refused("POST", VPNS, {"vpn": {}}, status=409)
    assert "no such" in await operator.refused("POST", VPNS, {"vpn": {"project_id": "no such"}}, status=404)
    assert "kilonova vpn run" in await member.refused(
        "POST", f"{MINE}/clients", {"client": {"user_name": "a"}}, status=404
    )
    assert await count(named, vpns) == 0


async def test_a_shared_network_has_no_vpn(named: Cloud, member: Caller, operator: Caller) -> None:
    network = (await member.ask("GET", "/auto-allocated-topology/p1"))["auto_allocated_topology"]["id"]
    await named.store.write(
        lambda tx: tx.execute(networks.update().where(networks.c.id == network).values(manager="flat")) and None
    )
    assert "administrator's" in await operator.refused("POST", VPNS, {"vpn": {"project_id": "p1"}}, status=409)
    failed = (await operator.ask("POST", f"{VPNS}/spawn"))["failed"]
    assert [item["project_name"] for item in failed] == ["name-p1"]


async def test_spawn_starts_what_is_missing_and_says_what_cannot_be(
    running: Cloud, member: Caller, other: Caller, operator: Caller
) -> None:
    await other.ask("GET", "/auto-allocated-topology/p2")
    made = await operator.ask("POST", f"{VPNS}/spawn")
    assert ([item["project_id"] for item in made["started"]], made["failed"]) == (["p2"], [])
    assert await operator.ask("POST", f"{VPNS}/spawn") == {"started": [], "failed": []}
    listed = (await operator.ask("GET", VPNS))["vpns"]
    assert [(item["project_name"], item["port"]) for item in listed] == [("name-p1", 1000), ("name-p2", 1001)]


async def test_a_port_that_another_vpn_has_is_not_given_twice(running: Cloud, member: Caller, other: Caller) -> None:
    await running.store.write(lambda tx: tx.execute(vpns.update().values(port=1001)) and None)
    await other.ask("GET", "/auto-allocated-topology/p2")
    assert (await other.ask("POST", VPNS, {"vpn": {}}, status=201))["vpn"]["port"] == 20000


async def test_a_clients_file_leads_to_the_projects_networks(running: Cloud, member: Caller) -> None:
    vpn = (await member.ask("GET", MINE))["vpn"]
    file = await file_of(member)

    assert file["Address"] == "10.0.0.3/32"
    assert file["MTU"] == "1420"
    assert file["Endpoint"] == f"{vpn['address']}:1000"
    assert file["PublicKey"] == vpn["public_key"]
    assert file["AllowedIPs"] == "10.0.0.0/24"
    [client] = (await member.ask("GET", MINE))["vpn"]["clients"]
    assert b64decode(client["public_key"]) == public_key(file["PrivateKey"])
    [port] = (await member.ask("GET", "/ports", device_owner=VPN_CLIENT))["ports"]
    [group] = (await member.ask("GET", "/security-groups"))["security_groups"]
    assert (port["id"], port["security_groups"]) == (client["port_id"], [group["id"]])


async def test_the_private_key_of_a_client_is_kept_nowhere(running: Cloud, member: Caller) -> None:
    file = await file_of(member)

    def everything(tx: Connection) -> str:
        return str([tx.execute(table.select()).all() for table in (vpns, vpn_clients, ports)])

    assert file["PrivateKey"] not in await running.store.read(everything)


async def test_asked_again_a_client_keeps_its_address_and_gets_new_keys(running: Cloud, member: Caller) -> None:
    first, second = await file_of(member), await file_of(member)
    assert first["Address"] == second["Address"]
    assert first["PrivateKey"] != second["PrivateKey"]
    [client] = (await member.ask("GET", MINE))["vpn"]["clients"]
    assert b64decode(client["public_key"]) == public_key(second["PrivateKey"])


@pytest.mark.parametrize("name", ["a b", "a\nPostUp = reboot", "../a", "-a", ""])
async def test_a_name_that_could_be_more_than_a_name_is_refused(running: Cloud, member: Caller, name: str) -> None:
    assert "user_name" in await member.refused("POST", f"{MINE}/clients", {"client": {"user_name": name}}, status=400)


async def test_a_projects_name_writes_no_line_of_the_file(running: Cloud, member: Caller) -> None:
    await running.store.write(
        lambda tx: tx.execute(projects.update().where(projects.c.id == "p1").values(name="x\nPostUp = reboot")) and None
    )
    made = (await member.ask("POST", f"{MINE}/clients", {"client": {"user_name": "ann"}}, status=201))["client"]
    assert [line for line in made["config"].splitlines() if line.startswith("PostUp")] == []


async def test_subnets_behind_the_router_and_their_dns_are_in_the_file(running: Cloud, member: Caller) -> None:
    vpn = (await member.ask("GET", MINE))["vpn"]
    network = await member.make("network", name="second")
    subnet = await member.make("subnet", network_id=network["id"], cidr="10.5.0.0/24", ip_version=4)
    await member.ask("PUT", f"/routers/{vpn['router_id']}/add_router_interface", {"subnet_id": subnet["id"]})
    [own] = (await member.ask("GET", f"/networks/{vpn['network_id']}"))["network"]["subnets"]
    await member.ask("PUT", f"/subnets/{own}", {"subnet": {"dns_nameservers": ["192.0.2.53"]}})

    file = await file_of(member)

    assert file["AllowedIPs"] == "10.0.0.0/24, 10.5.0.0/24"
    assert file["DNS"] == "192.0.2.53"


async def test_clients_count_for_the_quota_of_ports(running: Cloud, member: Caller, operator: Caller) -> None:
    await operator.ask("PUT", "/quotas/p1", {"quota": {"port": 1}})
    await file_of(member)
    body = {"client": {"user_name": "bob"}}
    assert "port" in await member.refused("POST", f"{MINE}/clients", body, status=409, kind="OverQuota")
    await file_of(member)  # new keys of one that is there need no other port


async def test_revoked_clients_are_gone_with_their_ports_and_hosts_are_told(
    running: Cloud, member: Caller, woken: Woken
) -> None:
    for user in ("ann", "bob", "cy"):
        await file_of(member, user)
    assert woken.take() == {"host1"}

    assert (await member.ask("DELETE", f"{MINE}/clients/bob"))["revoked"] == ["bob"]
    assert woken.take() == {"host1"}
    await member.refused("DELETE", f"{MINE}/clients/bob", status=404)
    assert (await member.ask("DELETE", f"{MINE}/clients"))["revoked"] == ["ann", "cy"]

    assert (await member.ask("GET", "/ports", device_owner=VPN_CLIENT))["ports"] == []

    def held(tx: Connection) -> int:
        return int(tx.execute(select(func.count()).where(addresses.c.released_at.is_not(None))).scalar_one())

    assert await running.store.read(held) == 3


async def test_projects_see_and_change_their_own_vpn_only(
    running: Cloud, member: Caller, other: Caller, reader: Caller, operator: Caller
) -> None:
    assert (await other.ask("GET", VPNS))["vpns"] == []
    for method, path, body in (
        ("GET", MINE, None),
        ("DELETE", MINE, None),
        ("POST", VPNS, {"vpn": {"project_id": "p1"}}),
        ("POST", f"{MINE}/clients", {"client": {"user_name": "eve"}}),
        ("DELETE", f"{MINE}/clients", None),
        ("DELETE", f"{MINE}/clients/ann", None),
        ("POST", f"{VPNS}/spawn", None),
    ):
        await other.refused(method, path, body, status=403)
        if method != "GET":
            await reader.refused(method, path, body, status=403)
    assert (await reader.ask("GET", MINE))["vpn"]["status"] == "DOWN"
    await file_of(operator)


async def test_a_clients_port_is_the_vpns(running: Cloud, member: Caller, operator: Caller) -> None:
    await file_of(member)
    [port] = (await member.ask("GET", "/ports", device_owner=VPN_CLIENT))["ports"]
    path = f"/ports/{port['id']}"
    group = await member.make("security_group", name="more")
    changed = await member.ask("PUT", path, {"port": {"security_groups": [group["id"]]}})
    assert changed["port"]["security_groups"] == [group["id"]]
    assert "vpn revoke" in await member.refused("DELETE", path, status=409)
    changes: list[dict[str, object]] = [{"fixed_ips": []}, {"device_owner": ""}, {"mac_address": "fa:16:3e:00:00:01"}]
    for fields in changes:
        await operator.refused("PUT", path, {"port": fields}, status=409)
    [outside] = [each for each in (await operator.ask("GET", "/networks"))["networks"] if each["router:external"]]
    floating = {"floating_network_id": outside["id"], "port_id": port["id"]}
    assert "VPN" in await member.refused("POST", "/floatingips", {"floatingip": floating}, status=400)


async def test_a_router_keeps_what_its_vpn_needs(running: Cloud, member: Caller) -> None:
    vpn = (await member.ask("GET", MINE))["vpn"]
    router = f"/routers/{vpn['router_id']}"
    [subnet] = (await member.ask("GET", f"/networks/{vpn['network_id']}"))["network"]["subnets"]
    for path, body in (
        (router, {"router": {"external_gateway_info": None}}),
        (f"{router}/remove_router_interface", {"subnet_id": subnet}),
    ):
        assert "kilonova vpn stop" in await member.refused("PUT", path, body, status=409)
    await member.ask("DELETE", MINE, status=204)
    await member.ask("PUT", f"{router}/remove_router_interface", {"subnet_id": subnet})
    await member.ask("DELETE", router, status=204)


async def test_a_stopped_vpn_takes_its_clients_along(running: Cloud, member: Caller, woken: Woken) -> None:
    await file_of(member)
    woken.take()
    await member.ask("DELETE", MINE, status=204)
    assert woken.take() == {"host1"}
    assert (await count(running, vpns), await count(running, vpn_clients)) == (0, 0)
    assert (await member.ask("GET", VPNS))["vpns"][0]["status"] == "NONE"
    await member.refused("DELETE", MINE, status=404)


async def test_a_projects_network_goes_with_its_vpn_and_clients(running: Cloud, member: Caller) -> None:
    await file_of(member)
    await member.ask("DELETE", "/auto-allocated-topology/p1", status=204)
    left = [await count(running, table) for table in (vpns, vpn_clients, addresses)]
    assert left[:2] == [0, 0]
    assert (await member.ask("GET", VPNS))["vpns"] == []


async def test_which_host_serves_a_vpn_only_an_administrator_is_told(
    running: Cloud, member: Caller, operator: Caller
) -> None:
    answers = [
        (await member.ask("POST", VPNS, {"vpn": {}}, status=201))["vpn"],
        (await member.ask("GET", MINE))["vpn"],
        *(await member.ask("GET", VPNS))["vpns"],
    ]
    assert [answer["host"] for answer in answers] == [None] * 3
    assert (await operator.ask("GET", MINE))["vpn"]["host"]
