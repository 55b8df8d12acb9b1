"""What the network API refuses in less usual cases, and the answers of its smaller routes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kilonova.cloud.controller import Cloud

if TYPE_CHECKING:
    from .conftest import Caller
else:
    Caller = Any


async def subnet_of(caller: Caller, **fields: Any) -> tuple[Any, Any]:
    network = await caller.make("network")
    wanted = {"network_id": network["id"], "cidr": "10.9.0.0/24", **fields}
    return network, await caller.make("subnet", **wanted)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"fixed_ips": [{"ip_address": "10.9.0.9"}, {"ip_address": "10.9.0.9"}]}, "twice"),
        ({"fixed_ips": [{}]}, "subnet_id"),
        ({"fixed_ips": [{"subnet_id": "nothing"}]}, "nothing"),
        ({"fixed_ips": [{"ip_address": "words"}]}, "words"),
        ({"fixed_ips": [{"ip_address": f"10.9.0.{i}"} for i in range(9, 15)]}, "fixed_ips"),
        ({"binding:vnic_type": "direct"}, "vnic_type"),
        ({"port_security_enabled": False, "security_groups": ["x"]}, "security_groups"),
        ({"port_security_enabled": False, "allowed_address_pairs": [{"ip_address": "10.0.0.1"}]}, "allowed"),
        ({"allowed_address_pairs": [{"ip_address": "words"}]}, "words"),
        ({"allowed_address_pairs": [{"ip_address": "10.0.0.1"}] * 2}, "twice"),
        ({"allowed_address_pairs": [{"ip_address": f"10.0.0.{i}"} for i in range(11)]}, "11"),
        ({"extra_dhcp_opts": [{"opt_name": "x", "ip_version": 5}]}, "extra_dhcp_opts"),
        ({"mac_address": "words"}, "mac_address"),
        ({"mac_address": "01:00:5e:00:00:01"}, "single station"),
        ({"project_id": "p1", "tenant_id": "p2"}, "tenant_id"),
    ],
)
async def test_a_port_that_cannot_be_is_refused(member: Caller, fields: Any, word: str) -> None:
    network, _ = await subnet_of(member, enable_dhcp=False)
    body = {"port": {"network_id": network["id"], **fields}}
    assert word in await member.refused("POST", "/ports", body, status=400)
    assert (await member.ask("GET", "/ports"))["ports"] == []


async def test_a_port_of_a_running_server_keeps_its_mac(operator: Caller) -> None:
    network, _ = await subnet_of(operator)
    port = await operator.make("port", network_id=network["id"], device_id="s", **{"binding:host_id": "h"})
    body: Any = {"port": {"mac_address": "fa:16:3e:11:22:33"}}
    await operator.refused("PUT", f"/ports/{port['id']}", body, status=409, kind="PortInUse")
    body = {"port": {"binding:host_id": None, "device_id": None}}
    after = (await operator.ask("PUT", f"/ports/{port['id']}", body))["port"]
    assert (after["binding:host_id"], after["binding:vif_type"]) == ("", "unbound")
    body = {"port": {"mac_address": "fa:16:3e:11:22:33"}}
    after = (await operator.ask("PUT", f"/ports/{port['id']}", body))["port"]
    assert after["mac_address"] == "fa:16:3e:11:22:33"


async def test_an_address_of_a_subnet_is_met_by_the_one_that_is_there(member: Caller) -> None:
    network, subnet = await subnet_of(member)
    port = await member.make("port", network_id=network["id"])
    body = {"port": {"fixed_ips": [{"subnet_id": subnet["id"]}]}}
    after = (await member.ask("PUT", f"/ports/{port['id']}", body))["port"]
    assert after["fixed_ips"] == port["fixed_ips"]
    (service,) = (await member.ask("GET", "/ports", device_owner="network:dhcp"))["ports"]
    await member.refused("PUT", f"/ports/{service['id']}", body, status=409, kind="ServicePortInUse")


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"gateway_ip": "words"}, 400, "gateway_ip"),
        ({"gateway_ip": "10.9.0.50"}, 409, "Gateway"),
        ({"allocation_pools": [{"start": "10.9.0.5", "end": "10.9.0.9"}] * 2}, 409, "overlapping"),
        ({"allocation_pools": [{"start": "words", "end": "10.9.0.9"}]}, 400, "allocation_pools"),
        ({"dns_nameservers": ["9.9.9.9", "9.9.9.9"]}, 400, "twice"),
        ({"dns_nameservers": [f"9.9.9.{i}" for i in range(6)]}, 400, "dns_nameservers"),
        ({"host_routes": [{"destination": "10.0.0.0/8", "nexthop": "fe80::1"}]}, 400, "versions"),
        ({"host_routes": [{"destination": f"10.{i}.0.0/16", "nexthop": "10.9.0.9"} for i in range(21)]}, 400, "21"),
        ({"cidr": "10.0.0.0/24"}, 400, "cidr"),
    ],
)
async def test_a_subnet_is_not_changed_into_what_cannot_be(member: Caller, fields: Any, status: int, word: str) -> None:
    _, subnet = await subnet_of(member)
    assert word in await member.refused("PUT", f"/subnets/{subnet['id']}", {"subnet": fields}, status=status)
    assert (await member.ask("GET", f"/subnets/{subnet['id']}"))["subnet"] == subnet


async def test_a_gateway_that_a_router_has_stays(member: Caller) -> None:
    _, subnet = await subnet_of(member)
    router = await member.make("router")
    await member.ask("PUT", f"/routers/{router['id']}/add_router_interface", {"subnet_id": subnet["id"]})
    body = {"subnet": {"gateway_ip": None}}
    await member.refused("PUT", f"/subnets/{subnet['id']}", body, status=409, kind="SubnetInUse")
    second = await member.make("router")
    path = f"/routers/{second['id']}/add_router_interface"
    await member.refused("PUT", path, {"subnet_id": subnet["id"]}, status=409, kind="IpAddressAlreadyAllocated")
    _, closed = await subnet_of(member, gateway_ip=None, cidr="10.8.0.0/24")
    assert "gateway" in await member.refused("PUT", path, {"subnet_id": closed["id"]}, status=400)
    remove = f"/routers/{second['id']}/remove_router_interface"
    await member.refused("PUT", remove, {}, status=400)
    await member.refused("PUT", remove, {"subnet_id": subnet["id"]}, status=404)
    await member.refused("PUT", remove, {"port_id": "nothing"}, status=404, kind="RouterInterfaceNotFound")


async def test_dhcp_can_be_turned_on_later(member: Caller) -> None:
    network, subnet = await subnet_of(member, enable_dhcp=False)
    await member.ask("PUT", f"/subnets/{subnet['id']}", {"subnet": {"enable_dhcp": True}})
    (service,) = (await member.ask("GET", "/ports", network_id=network["id"]))["ports"]
    assert service["device_owner"] == "network:dhcp"
    await member.ask("DELETE", f"/subnets/{subnet['id']}", status=204)
    assert (await member.ask("GET", f"/networks/{network['id']}"))["network"]["subnets"] == []


async def test_a_floating_ip_that_cannot_be_is_refused(member: Caller, operator: Caller, world: Cloud) -> None:
    public = (await member.ask("GET", "/networks", **{"router:external": True}))["networks"][0]
    at = {"floating_network_id": public["id"]}
    network, subnet = await subnet_of(member)
    bare = await member.make("port", network_id=network["id"], fixed_ips=[])
    double = await member.make("port", network_id=network["id"], fixed_ips=[{"subnet_id": subnet["id"]}] * 2)
    for fields, status, word in (
        ({"fixed_ip_address": "10.9.0.9"}, 400, "port_id"),
        ({"port_id": bare["id"]}, 400, "no fixed"),
        ({"port_id": double["id"]}, 400, "multiple"),
        ({"port_id": double["id"], "fixed_ip_address": "10.9.0.99"}, 400, "10.9.0.99"),
        ({"floating_ip_address": "203.0.113.9"}, 403, "administrator"),
    ):
        body = {"floatingip": {**at, **fields}}
        assert word in await member.refused("POST", "/floatingips", body, status=status)
    empty = await operator.make("network", **{"router:external": True})
    body = {"floatingip": {"floating_network_id": empty["id"]}}
    assert "subnet" in await member.refused("POST", "/floatingips", body, status=400)
    described = await member.make("floatingip", **at, description="a")
    change = {"floatingip": {"description": "b"}}
    after = (await member.ask("PUT", f"/floatingips/{described['id']}", change))["floatingip"]
    assert after["description"] == "b"


async def test_a_gateway_is_chosen_by_administrators_only(member: Caller, operator: Caller, world: Cloud) -> None:
    public = (await member.ask("GET", "/networks", **{"router:external": True}))["networks"][0]
    info = {"network_id": public["id"], "external_fixed_ips": [{"ip_address": "203.0.113.99"}]}
    await member.refused("POST", "/routers", {"router": {"external_gateway_info": info}}, status=403)
    router = await operator.make("router", external_gateway_info=info)
    assert router["external_gateway_info"]["external_fixed_ips"][0]["ip_address"] == "203.0.113.99"
    again = {"router": {"external_gateway_info": {"network_id": public["id"]}}}
    after = (await operator.ask("PUT", f"/routers/{router['id']}", again))["router"]
    assert after["external_gateway_info"] == router["external_gateway_info"]
    lost = {"router": {"external_gateway_info": {"network_id": "nothing"}}}
    await member.refused("POST", "/routers", lost, status=404, kind="NetworkNotFound")
    off = {"router": {"external_gateway_info": None}}
    after = (await operator.ask("PUT", f"/routers/{router['id']}", off))["router"]
    assert after["external_gateway_info"] is None


async def test_quotas_are_listed_checked_and_have_defaults(member: Caller, operator: Caller) -> None:
    await operator.ask("PUT", "/quotas/p1", {"quota": {"router": 3}})
    (own,) = (await operator.ask("GET", "/quotas"))["quotas"]
    assert (own["project_id"], own["router"], own["network"]) == ("p1", 3, 100)
    assert (await member.ask("GET", "/quotas"))["quotas"] == [own]
    assert (await member.ask("GET", "/quotas/p1/default"))["quota"]["router"] == 10
    await member.make("network")
    too_few = {"quota": {"network": 0, "check_limit": True}}
    assert "network" in await operator.refused("PUT", "/quotas/p1", too_few, status=400)
    assert "colour" in await operator.refused("PUT", "/quotas/p1", {"quota": {"colour": 1}}, status=400)
    await operator.refused("PUT", "/quotas/p1", {"quota": {"network": -2}}, status=400)


async def test_the_smaller_routes_answer(operator: Caller, member: Caller, world: Cloud) -> None:
    network, _ = await subnet_of(member)
    path = f"/network-ip-availabilities/{network['id']}"
    found = (await operator.ask("GET", path))["network_ip_availability"]
    assert (found["total_ips"], found["used_ips"]) == (253, 1)
    assert (await operator.ask("GET", "/network-ip-availabilities", ip_version=6))["network_ip_availabilities"]
    await operator.ask("GET", "/network-ip-availabilities", status=400, colour="red")
    await operator.refused("GET", "/network-ip-availabilities/nothing", status=404)
    await operator.refused("GET", "/agents/nothing", status=404, kind="AgentNotFound")
    await operator.ask("GET", "/agents", status=400, colour="red")
    path = f"/networks/{network['id']}/tags"
    await member.ask("PUT", f"{path}/red", status=201)
    await member.ask("GET", f"{path}/red", status=204)
    await member.refused("GET", f"{path}/blue", status=404)
    await member.ask("DELETE", f"{path}/red", status=204)
    await member.refused("PUT", f"{path}/{'x' * 256}", status=400)


async def test_networks_are_found_by_their_segment_and_subnets(operator: Caller) -> None:
    network, subnet = await subnet_of(operator)
    queries: tuple[dict[str, Any], ...] = (
        {"provider:network_type": "vlan"},
        {"provider:segmentation_id": "2000"},
        {"subnets": subnet["id"]},
        {"is_default": "false"},
    )
    for query in queries:
        found = (await operator.ask("GET", "/networks", **query))["networks"]
        assert [item["id"] for item in found] == [network["id"]]
    other: dict[str, Any] = {"provider:network_type": "vxlan"}
    assert (await operator.ask("GET", "/networks", **other))["networks"] == []
    body = {"network": {"provider:segmentation_id": 7}}
    await operator.refused("PUT", f"/networks/{network['id']}", body, status=400)
    await operator.refused("POST", "/networks", body, status=400)
