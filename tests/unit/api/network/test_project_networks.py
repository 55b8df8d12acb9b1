"""Which project has which network: assigned, shown with reasons, preferred, released; and networks of users."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import Connection, insert, update

from kilonova.cloud.controller import Cloud
from kilonova.ids import new_id
from kilonova.store.schema import domains, networks, projects, routers, services

if TYPE_CHECKING:
    from .conftest import Caller
else:
    Caller = Any

POOL = "/kilonova/pool-networks"
PROJECTS = "/kilonova/projects"
WIRES = {
    "trunks": ["physnet1"],
    "flat_bridges": {"lan": "br-lan", "dmz": "br-dmz"},
    "tunnel": {"address": "192.0.2.1", "mtu": 1500},
    "groups": True,
}


@pytest.fixture
async def rack(cloud: Cloud) -> Cloud:
    """A host with every wire, and the projects p1, p2 and ops."""

    def unit(tx: Connection) -> None:
        tx.execute(insert(services).values(id=new_id(), kind="network", host="host1", capacity=WIRES))
        tx.execute(insert(domains).values(id="default", name="Default"))
        for name in ("p1", "p2", "ops"):
            row = {"id": name, "domain_id": "default", "parent_id": "default", "name": f"project {name}"}
            tx.execute(insert(projects).values(**row))

    await cloud.store.write(unit)
    return cloud


async def add(operator: Caller, **fields: Any) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = (await operator.ask("POST", POOL, {"pool_networks": fields}, status=201))[
        "pool_networks"
    ]
    return made


async def assign(operator: Caller, project_id: str, **fields: Any) -> dict[str, Any]:
    body = {"network": fields}
    made: dict[str, Any] = (await operator.ask("POST", f"{PROJECTS}/{project_id}/network", body, status=201))["project"]
    return made


async def shown(operator: Caller, project_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await operator.ask("GET", f"{PROJECTS}/{project_id}"))["project"]
    return found


async def test_a_project_is_assigned_its_network_before_its_first_server(
    operator: Caller, member: Caller, rack: Cloud
) -> None:
    await add(operator, num_networks=3)
    made = await assign(operator, "p1", pool_network="10.0.1.0/24")
    network = made["network"]
    assert (network["cidr"], network["vpn_port"], network["host"]) == ("10.0.1.0/24", 1001, "host1")
    assert network["decision"][0]["reason"].startswith("preferred by the request for 10.0.1.0/24")
    topology = (await member.ask("GET", "/auto-allocated-topology/p1"))["auto_allocated_topology"]
    assert topology["id"] == network["id"]
    assert await assign(operator, "p1") == made
    assert await assign(operator, "p1", pool_network="br101", manager="vlan") == made
    path = f"{PROJECTS}/p1/network"
    for other in ({"pool_network": "br100"}, {"manager": "vxlan"}):
        assert "release p1" in await operator.refused("POST", path, {"network": other}, status=409)
    path = f"{PROJECTS}/p2/network"
    for body, status, word in (
        ({"pool_network": "br101"}, 409, "project p1's"),
        ({"pool_network": "br777"}, 404, "br777"),
        ({"pool_network": "br100", "manager": "vxlan"}, 409, "vxlan"),
        ({"manager": "flat"}, 409, "no flat network"),
        ({"manager": "magic"}, 400, "magic"),
    ):
        assert word in await operator.refused("POST", path, {"network": body}, status=status), body
    assert (await shown(operator, "p2"))["network"] is None
    await operator.refused("POST", f"{PROJECTS}/nobody/network", {"network": {}}, status=404)
    await operator.refused("GET", f"{PROJECTS}/nobody", status=404)
    await member.refused("POST", path, {"network": {}}, status=403)


async def test_the_decision_is_shown_with_the_network_and_with_the_project(operator: Caller, rack: Cloud) -> None:
    await add(operator, num_networks=3)
    await add(operator, manager="vxlan", fixed_range="10.9.0.0/16", num_networks=2, vlan_start=9000, vpn_start=5000)
    given = (await assign(operator, "p1"))["network"]
    pool = (await operator.ask("GET", f"{POOL}/{given['id']}"))["pool_network"]
    assert [item["manager"] for item in given["decision"]] == ["vlan", "vxlan", "flat-dhcp", "flat"]
    assert given["decision"][0]["reason"].endswith("3 of 3 networks on physnet1 free, on host1")
    assert pool["projects"][0]["decision"] == given["decision"]
    assert (pool["host"], pool["mtu"], pool["state"]) == ("host1", 1500, "assigned")


async def test_a_preference_counts_for_the_next_network(operator: Caller, member: Caller, rack: Cloud) -> None:
    await add(operator, num_networks=3)
    await assign(operator, "p1")
    body = {"project": {"network_type": "vxlan"}}
    changed = (await operator.ask("PATCH", f"{PROJECTS}/p1", body))["project"]
    assert (changed["network_type"], changed["network"]["manager"]) == ("vxlan", "vlan")
    await operator.ask("DELETE", f"{PROJECTS}/p1/network", status=204)
    message = await member.refused("GET", "/auto-allocated-topology/p1", status=409, kind="NoNetworkAvailable")
    assert "vxlan, preferred by project p1, is not possible: the pool has no vxlan network" in message
    await member.refused("GET", "/auto-allocated-topology/p1?fields=dry-run", status=409)
    await add(operator, manager="vxlan", fixed_range="10.9.0.0/16", num_networks=2, vlan_start=9000, vpn_start=5000)
    network_id = (await member.ask("GET", "/auto-allocated-topology/p1"))["auto_allocated_topology"]["id"]
    network = (await operator.ask("GET", f"/networks/{network_id}"))["network"]
    assert network["provider:network_type"] == "vxlan"
    assert network["provider:physical_network"] is None
    assert (network["provider:segmentation_id"], network["mtu"]) == (9000, 1450)
    await operator.refused("PATCH", f"{PROJECTS}/p1", {"project": {"network_type": "magic"}}, status=400)
    await operator.refused("PATCH", f"{PROJECTS}/nobody", body, status=404)
    changed = (await operator.ask("PATCH", f"{PROJECTS}/p1", {"project": {"network_type": None}}))["project"]
    assert (changed["network_type"], changed["network"]["requested"]) == (None, "vxlan")


async def test_a_network_in_use_is_not_released_and_says_by_what(operator: Caller, member: Caller, rack: Cloud) -> None:
    await add(operator, num_networks=1)
    network_id = (await assign(operator, "p1"))["network"]["id"]
    port = await member.make("port", network_id=network_id)
    router = await member.make("router", name="edge")
    (subnet,) = (await member.ask("GET", "/subnets"))["subnets"]
    spare = await member.make("port", network_id=network_id, name="leg")
    await member.ask("PUT", f"/routers/{router['id']}/add_router_interface", {"port_id": spare["id"]})
    path = f"{PROJECTS}/p1/network"
    message = await operator.refused("DELETE", path, status=409, kind="NetworkInUse")
    assert f"port {port['id']} (no device)" in message
    assert f"router edge ({router['id']})" in message
    pool_path = f"{POOL}/{network_id}"
    assert "network release p1" in await operator.refused("DELETE", pool_path, status=409)
    await member.ask("DELETE", f"/ports/{port['id']}", status=204)
    await member.ask("PUT", f"/routers/{router['id']}/remove_router_interface", {"subnet_id": subnet["id"]})
    await operator.ask("DELETE", path, status=204)
    assert (await shown(operator, "p1"))["network"] is None
    assert [item["id"] for item in (await member.ask("GET", "/routers"))["routers"]] == [router["id"]]
    (pool,) = (await operator.ask("GET", POOL))["pool_networks"]
    assert (pool["state"], pool["held_by_host"]) == ("held", "host1")
    await operator.refused("DELETE", path, status=404)


async def test_a_flat_network_is_given_to_projects_and_taken_from_them(
    operator: Caller, member: Caller, other: Caller, rack: Cloud
) -> None:
    (flat,) = await add(operator, manager="flat-dhcp", physical_network="lan", fixed_range="10.5.0.0/24")
    assert (flat["state"], flat["vpn_port"], flat["segmentation_id"], flat["bridge"]) == (
        "shared",
        None,
        None,
        "br-lan",
    )
    for project_id in ("p1", "p2"):
        assert (await assign(operator, project_id))["network"]["id"] == flat["network_id"]
    held = {
        item["project_id"] for item in (await operator.ask("GET", f"{POOL}/{flat['id']}"))["pool_network"]["projects"]
    }
    assert held == {"p1", "p2"}
    mine = (await operator.ask("GET", POOL, project_id="p2", assigned="true"))["pool_networks"]
    assert [item["id"] for item in mine] == [flat["id"]]
    port = await member.make("port", network_id=flat["network_id"])
    assert port["fixed_ips"][0]["ip_address"] == "10.5.0.3"
    await operator.ask("DELETE", f"{PROJECTS}/p2/network", status=204)
    assert port["id"] in await operator.refused("DELETE", f"{PROJECTS}/p1/network", status=409)
    assert "projects p1" in await operator.refused("DELETE", f"{POOL}/{flat['id']}", status=409)
    assert "projects p1" in await operator.refused("DELETE", f"/networks/{flat['network_id']}", status=409)
    await other.refused("DELETE", f"/networks/{flat['network_id']}", status=403)
    router, subnet = await operator.make("router"), (await operator.ask("GET", "/subnets"))["subnets"][0]
    path = f"/routers/{router['id']}/add_router_interface"
    assert "10.5.0.1" in await operator.refused("PUT", path, {"subnet_id": subnet["id"]}, status=400)
    await member.ask("DELETE", f"/ports/{port['id']}", status=204)
    await member.ask("DELETE", "/auto-allocated-topology/p1", status=204)
    await operator.ask("DELETE", f"{POOL}/{flat['id']}", status=204)
    assert (await operator.ask("GET", "/networks"))["networks"] == []
    assert (await operator.ask("GET", POOL))["pool_networks"] == []


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"physical_network": "attic"}, 400, "no live host has a bridge for attic"),
        ({"physical_network": ""}, 400, "physical_network"),
        ({"physical_network": "vxlan"}, 400, "reserved"),
        ({"fixed_range": None}, 400, "fixed_range"),
        ({"fixed_range": "10.5.0.0/30"}, 400, "too small"),
        ({"num_networks": 2}, 400, "num_networks"),
        ({"network_size": 64}, 400, "network_size"),
        ({"vlan_start": 100}, 400, "vlan_start"),
        ({"vpn_start": 100}, 400, "vpn_start"),
        ({"gateway": "10.6.0.1"}, 400, "gateway"),
        ({"gateway": "10.5.0.255"}, 400, "gateway"),
        ({"exclude": ["10.6.0.1"]}, 400, "exclude"),
        ({"exclude": ["10.5.0.0/24"]}, 400, "exclude"),
        ({"physical_network": "dmz"}, 409, "overlaps"),
        ({"fixed_range": "10.6.0.0/24"}, 409, "lan has its flat network already"),
    ],
)
async def test_a_flat_network_that_cannot_be_is_refused_before_any_row(
    operator: Caller, rack: Cloud, fields: dict[str, Any], status: int, word: str
) -> None:
    lan = {"manager": "flat", "physical_network": "lan", "fixed_range": "10.5.0.0/24"}
    if status == 409:
        await add(operator, **lan)
    before = (await operator.ask("GET", "/networks"))["networks"]
    assert word in await operator.refused("POST", POOL, {"pool_networks": {**lan, **fields}}, status=status)
    assert (await operator.ask("GET", "/networks"))["networks"] == before


async def test_a_network_of_the_lan_whose_host_died_cannot_be_given(operator: Caller, rack: Cloud) -> None:
    await add(operator, manager="flat", physical_network="lan", fixed_range="10.5.0.0/24")
    await rack.store.write(lambda tx: tx.execute(update(services).values(forced_down=True)) and None)
    message = await operator.refused("POST", f"{PROJECTS}/p1/network", {"network": {}}, status=409)
    assert "flat: no network host is alive" in message


async def test_the_pool_and_the_projects_are_listed_in_pages(operator: Caller, rack: Cloud) -> None:
    made = await add(operator, num_networks=5)
    pages = []
    marker: dict[str, Any] = {}
    while page := (await operator.ask("GET", POOL, limit=2, **marker))["pool_networks"]:
        pages.append([item["segmentation_id"] for item in page])
        marker = {"marker": page[-1]["id"]}
    assert pages == [[100, 101], [102, 103], [104]]
    backwards = await operator.ask("GET", POOL, sort_key="segmentation_id", sort_dir="desc", limit=1)
    assert backwards["pool_networks"][0]["id"] == made[-1]["id"]
    assert backwards["pool_networks_links"][0]["rel"] == "next"
    named = (await operator.ask("GET", POOL, name=["br102", "10.0.4.0/24"], fields="bridge"))["pool_networks"]
    assert named == [{"bridge": "br102"}, {"bridge": "br104"}]
    wrong: list[dict[str, Any]] = [
        {"sort_key": "colour"},
        {"marker": "nothing"},
        {"colour": "red"},
        {"assigned": "maybe"},
    ]
    for bad in wrong:
        await operator.ask("GET", POOL, status=400, **bad)
    names = [item["id"] for item in (await operator.ask("GET", PROJECTS, limit=2))["projects"]]
    assert names == ["ops", "p1"]
    following = await operator.ask("GET", PROJECTS, marker=names[0])
    assert [item["id"] for item in following["projects"]][: len(names) - 1] == names[1:]
    assert "nothing" in (await operator.ask("GET", PROJECTS, status=400, marker="nothing"))["NeutronError"]["message"]
    assert len((await operator.ask("GET", PROJECTS, name="project p2"))["projects"]) == 1
    await operator.ask("GET", PROJECTS, status=400, colour="red")


async def test_users_make_networks_on_any_manager_allowed_to_them(
    operator: Caller, member: Caller, rack: Cloud
) -> None:
    vxlan = await operator.make("network", **{"provider:network_type": "vxlan"})
    assert vxlan["provider:physical_network"] is None
    assert (vxlan["provider:segmentation_id"], vxlan["mtu"]) == (10000, 1450)
    flat = await operator.make(
        "network", **{"provider:network_type": "flat", "provider:physical_network": "dmz"}, project_id="p1"
    )
    assert (flat["provider:network_type"], flat["provider:segmentation_id"]) == ("flat", None)
    vlan = await member.make("network")
    assert "provider:network_type" not in vlan
    assert (await operator.ask("GET", f"/networks/{vlan['id']}"))["network"]["provider:network_type"] == "vlan"
    for fields, status, word in (
        ({"provider:network_type": "flat", "provider:physical_network": "dmz"}, 409, "dmz is in use"),
        ({"provider:network_type": "flat", "provider:physical_network": "attic"}, 400, "attic"),
        ({"provider:network_type": "flat"}, 400, "physical_network"),
        ({"provider:network_type": "vxlan", "provider:segmentation_id": 10000}, 409, "VNI 10000"),
        ({"provider:network_type": "vxlan", "mtu": 1451}, 400, "1450"),
        ({"provider:network_type": "vxlan", "provider:physical_network": "physnet1"}, 400, "physnet1"),
        ({"provider:network_type": "gre"}, 400, "gre"),
        ({"provider:segmentation_id": 7}, 400, "network_type"),
    ):
        assert word in await operator.refused("POST", "/networks", {"network": fields}, status=status), fields
    body = {"network": {"provider:network_type": "vxlan"}}
    assert "administrator" in await member.refused("POST", "/networks", body, status=403)
    of_type: Any = {"provider:network_type": "flat"}
    listed = await operator.ask("GET", "/networks", **of_type)
    assert [item["id"] for item in listed["networks"]] == [flat["id"]]


async def test_a_network_goes_where_the_router_is_that_a_project_has_kept(
    operator: Caller, member: Caller, rack: Cloud
) -> None:
    await add(operator, num_networks=3)
    await assign(operator, "p1")
    (router,) = (await member.ask("GET", "/routers"))["routers"]
    own = await member.make("network")
    subnet = await member.make("subnet", network_id=own["id"], cidr="10.20.0.0/24")
    await member.ask("PUT", f"/routers/{router['id']}/add_router_interface", {"subnet_id": subnet["id"]})
    await operator.ask("DELETE", f"{PROJECTS}/p1/network", status=204)
    assert [item["id"] for item in (await member.ask("GET", "/routers"))["routers"]] == [router["id"]]
    idle = {"id": new_id(), "kind": "network", "host": "host0", "capacity": WIRES}
    await rack.store.write(lambda tx: tx.execute(insert(services).values(**idle)) and None)
    assert (await assign(operator, "p1"))["network"]["host"] == "host1"
    assert (await assign(operator, "p2", manager="vlan"))["network"]["host"] == "host0"


async def test_several_hosts_without_a_trunk_carry_no_vlan_and_say_so(
    operator: Caller, member: Caller, rack: Cloud
) -> None:
    def unit(tx: Connection) -> None:
        lonely = {**WIRES, "trunks": []}
        tx.execute(update(services).values(capacity=lonely))
        tx.execute(insert(services).values(id=new_id(), kind="network", host="host2", capacity=lonely))

    await rack.store.write(unit)
    message = await member.refused("POST", "/networks", {"network": {}}, status=409)
    assert "host1: no trunk for physnet1; host2: no trunk for physnet1" in message
    assert "--trunk physnet1=DEVICE" in message
    outside = {"router:external": True}
    assert (await operator.make("network", **outside))["router:external"] is True
    await add(operator, num_networks=1)
    await add(operator, manager="vxlan", fixed_range="10.9.0.0/16", num_networks=1, vpn_start=5000)
    assert (await assign(operator, "p1"))["network"]["manager"] == "vxlan"


async def test_a_floating_address_is_of_the_host_of_the_projects_router(
    operator: Caller, member: Caller, rack: Cloud, client: httpx.AsyncClient, token_of: Callable[..., str]
) -> None:
    ranges = "/kilonova/floating-ranges"
    host2 = {"id": new_id(), "kind": "network", "host": "host2", "capacity": WIRES}
    await rack.store.write(lambda tx: tx.execute(insert(services).values(**host2)) and None)
    for host, cidr in (("host1", "198.51.100.0/28"), ("host2", "203.0.113.0/29")):
        await operator.ask("POST", ranges, {"floating_range": {"host": host, "cidr": cidr}}, status=201)
    await add(operator, num_networks=3)
    network_id = (await assign(operator, "p1"))["network"]["id"]
    where: Any = {"host": "host2"}
    await rack.store.write(lambda tx: tx.execute(update(networks).values(**where)) and None)
    await rack.store.write(lambda tx: tx.execute(update(routers).values(**where)) and None)
    (public,) = (await member.ask("GET", "/networks", **{"router:external": True}))["networks"]
    port = await member.make("port", network_id=network_id)
    addresses = []
    for fields in ({"port_id": port["id"]}, *({} for _ in range(4))):
        made = await member.make("floatingip", floating_network_id=public["id"], **fields)
        addresses.append(made["floating_ip_address"])
    assert addresses == [f"203.0.113.{i}" for i in range(2, 7)]
    body = {"floatingip": {"floating_network_id": public["id"]}}
    message = await member.refused("POST", "/floatingips", body, status=409, kind="IpAddressGenerationFailure")
    assert "host2, where the project's router is" in message
    # An administrator may still say otherwise; a project without a router has none that would not arrive.
    subnet = {"floating_network_id": public["id"], "floating_ip_address": "198.51.100.9"}
    assert (await operator.make("floatingip", **subnet))["floating_ip_address"] == "198.51.100.9"
