"""Networks, subnets, ports, routers and floating IPs as clients make and break them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select

from kilonova.cloud.controller import Cloud
from kilonova.store.addresses import confirm_forgotten
from kilonova.store.schema import addresses, networks, ports, subnets

if TYPE_CHECKING:
    from .conftest import Caller
else:
    Caller = Any


async def make_subnet(caller: Caller, cidr: str = "10.9.0.0/24", **fields: Any) -> tuple[Any, Any]:
    network = await caller.make("network", name="n")
    subnet = await caller.make("subnet", network_id=network["id"], cidr=cidr, ip_version=4, **fields)
    return network, subnet


async def make_path(member: Caller) -> tuple[Any, Any, Any, Any]:
    """A port on a network behind a router that is connected outside: (public, subnet, router, port)."""
    public = (await member.ask("GET", "/networks", **{"router:external": True}))["networks"][0]
    network, subnet = await make_subnet(member)
    router = await member.make("router", name="r", external_gateway_info={"network_id": public["id"]})
    await member.ask("PUT", f"/routers/{router['id']}/add_router_interface", {"subnet_id": subnet["id"]})
    port = await member.make("port", network_id=network["id"])
    return public, subnet, router, port


async def test_a_network_has_a_segment_that_only_an_administrator_sees(member: Caller, operator: Caller) -> None:
    made = await member.make("network", name="web", description="d")
    assert made["status"] == "ACTIVE"
    assert made["project_id"] == made["tenant_id"] == "p1"
    assert made["router:external"] is made["shared"] is False
    assert not [name for name in made if name.startswith("provider:")]
    seen = (await operator.ask("GET", f"/networks/{made['id']}"))["network"]
    assert (seen["provider:network_type"], seen["provider:segmentation_id"]) == ("vlan", 2000)


async def test_an_update_changes_only_what_it_names_and_counts_the_revision(member: Caller) -> None:
    made = await member.make("network", name="a", description="b")
    changed = (await member.ask("PUT", f"/networks/{made['id']}", {"network": {"name": "c"}}))["network"]
    assert (changed["name"], changed["description"]) == ("c", "b")
    assert changed["revision_number"] == made["revision_number"] + 1


@pytest.mark.parametrize(
    ("path", "body", "word"),
    [
        ("/networks", {"network": {"nmae": "x"}}, "nmae"),
        ("/networks", {"network": {"name": 5}}, "name"),
        ("/networks", {"network": {"id": "x"}}, "id"),
        ("/networks", {"network": {"mtu": "many"}}, "mtu"),
        ("/networks", {"network": {"mtu": 10}}, "mtu"),
        ("/networks", {}, "network"),
        ("/networks", {"networks": []}, "networks"),
        ("/networks", {"network": {}, "networks": [{}]}, "networks"),
        ("/subnets", {"subnet": {"cidr": "10.0.0.0/24"}}, "network_id"),
        ("/ports", {"port": {"network_id": "x", "fixed_ips": [{"ip": "1.1.1.1"}]}}, "ip"),
        ("/routers", {"router": {"routes": []}}, "routes"),
        ("/security-group-rules", {"security_group_rule": {"security_group_id": "x"}}, "direction"),
    ],
)
async def test_a_wrong_body_is_refused_by_the_name_of_its_field(
    member: Caller, path: str, body: object, word: str
) -> None:
    assert word in await member.refused("POST", path, body, status=400)


async def test_what_an_administrator_decides_is_refused_to_others(member: Caller, operator: Caller) -> None:
    for field, value in (("shared", True), ("router:external", True), ("provider:network_type", "vlan")):
        message = await member.refused("POST", "/networks", {"network": {field: value}}, status=403)
        assert field in message
    await member.refused("POST", "/networks", {"network": {"project_id": "p2"}}, status=403)
    network, _ = await make_subnet(member)
    for field, value in (("binding:host_id", "h"), ("device_owner", "network:dhcp")):
        body: Any = {"port": {"network_id": network["id"], field: value}}
        assert field in await member.refused("POST", "/ports", body, status=403)
    made = await operator.make("network", shared=True, **{"provider:network_type": "vlan"})
    assert made["shared"] is True


async def test_a_taken_segment_is_refused(operator: Caller, world: Cloud) -> None:
    for vlan in (101, "2100"):
        body = {"network": {"provider:network_type": "vlan", "provider:segmentation_id": vlan}}
        if vlan == "2100":
            await operator.ask("POST", "/networks", body, status=201)
        await operator.refused("POST", "/networks", body, status=409, kind="VlanIdInUse")


async def test_another_project_sees_and_touches_nothing(member: Caller, other: Caller, world: Cloud) -> None:
    _, subnet, router, port = await make_path(member)
    group = await member.make("security_group", name="g")
    things = {
        "networks": port["network_id"],
        "subnets": subnet["id"],
        "routers": router["id"],
        "ports": port["id"],
        "security-groups": group["id"],
        "security-group-rules": group["security_group_rules"][0]["id"],
    }
    for plural, resource_id in things.items():
        await other.refused("GET", f"/{plural}/{resource_id}", status=404)
        await other.refused("DELETE", f"/{plural}/{resource_id}", status=404)
        listed = await other.ask("GET", f"/{plural}")
        assert resource_id not in {item["id"] for item in listed[plural.replace("-", "_")]}
    body = {"port": {"network_id": port["network_id"]}}
    await other.refused("POST", "/ports", body, status=404, kind="NetworkNotFound")


async def test_a_port_does_not_pose_as_another_projects_device(member: Caller, other: Caller) -> None:
    router = await other.make("router")
    network = await member.make("network")
    body = {"port": {"network_id": network["id"], "device_id": router["id"]}}
    assert "device_id" in await member.refused("POST", "/ports", body, status=403)
    port = await member.make("port", network_id=network["id"], device_id="a machine of its own")
    change = {"port": {"device_id": router["id"]}}
    await member.refused("PUT", f"/ports/{port['id']}", change, status=403)


async def test_a_shared_network_is_used_but_not_changed_by_others(member: Caller, operator: Caller) -> None:
    network, subnet = await make_subnet(operator)
    await operator.ask("PUT", f"/networks/{network['id']}", {"network": {"shared": True}})
    port = await member.make("port", network_id=network["id"])
    assert port["fixed_ips"][0]["subnet_id"] == subnet["id"]
    await member.refused("PUT", f"/networks/{network['id']}", {"network": {"name": "mine"}}, status=403)
    fixed = {"port": {"network_id": network["id"], "fixed_ips": [{"ip_address": "10.9.0.77"}]}}
    await member.refused("POST", "/ports", fixed, status=403)
    body = {"network": {"shared": False}}
    await operator.refused("PUT", f"/networks/{network['id']}", body, status=409, kind="NetworkInUse")


async def test_a_reader_only_looks(reader: Caller) -> None:
    await reader.ask("GET", "/networks")
    await reader.refused("POST", "/networks", {"network": {}}, status=403)


async def test_many_are_made_at_once_or_none(member: Caller, cloud: Cloud) -> None:
    made = await member.ask("POST", "/networks", {"networks": [{"name": "a"}, {"name": "b"}]}, status=201)
    assert [network["name"] for network in made["networks"]] == ["a", "b"]
    bad = [{"network_id": made["networks"][0]["id"], "cidr": cidr} for cidr in ("10.0.0.0/24", "10.0.0.128/25")]
    assert "overlaps" in await member.refused("POST", "/subnets", {"subnets": bad}, status=400)
    assert await cloud.store.read(lambda tx: tx.execute(select(func.count()).select_from(subnets)).scalar()) == 0


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"cidr": "10.0.0.0/33"}, 400, "cidr"),
        ({"cidr": "words"}, 400, "cidr"),
        ({"cidr": "10.0.0.0/24", "ip_version": 6}, 400, "ip_version"),
        ({"cidr": "10.0.0.0/24", "gateway_ip": "10.0.1.1"}, 400, "gateway_ip"),
        ({"cidr": "10.0.0.0/24", "gateway_ip": "10.0.0.255"}, 400, "gateway_ip"),
        ({"cidr": "10.0.0.0/24", "allocation_pools": [{"start": "10.0.0.9", "end": "10.0.0.2"}]}, 400, "pool"),
        ({"cidr": "10.0.0.0/24", "allocation_pools": [{"start": "10.0.0.9", "end": "10.0.1.2"}]}, 400, "pool"),
        ({"cidr": "10.0.0.0/24", "allocation_pools": [{"start": "10.0.0.1", "end": "10.0.0.9"}]}, 409, "Gateway"),
        ({"cidr": "10.0.0.0/24", "dns_nameservers": ["one"]}, 400, "dns_nameservers"),
        ({"cidr": "10.0.0.0/24", "host_routes": [{"destination": "x", "nexthop": "y"}]}, 400, "host_routes"),
        ({"cidr": "0.0.0.0/0"}, 400, "cidr"),
        ({}, 400, "cidr"),
    ],
)
async def test_a_subnet_that_cannot_be_is_refused(member: Caller, fields: Any, status: int, word: str) -> None:
    network = await member.make("network")
    body = {"subnet": {"network_id": network["id"], **fields}}
    assert word in await member.refused("POST", "/subnets", body, status=status)


async def test_a_subnet_has_gateway_pool_and_services(member: Caller) -> None:
    network, subnet = await make_subnet(member)
    assert subnet["gateway_ip"] == "10.9.0.1"
    assert subnet["allocation_pools"] == [{"start": "10.9.0.2", "end": "10.9.0.254"}]
    (service,) = (await member.ask("GET", "/ports", network_id=network["id"]))["ports"]
    assert service["device_owner"] == "network:dhcp"
    assert service["fixed_ips"] == [{"subnet_id": subnet["id"], "ip_address": "10.9.0.2"}]
    await member.refused("DELETE", f"/ports/{service['id']}", status=409, kind="ServicePortInUse")
    changed = {"subnet": {"enable_dhcp": False, "gateway_ip": None, "dns_nameservers": ["9.9.9.9"]}}
    after = (await member.ask("PUT", f"/subnets/{subnet['id']}", changed))["subnet"]
    assert (after["enable_dhcp"], after["gateway_ip"], after["dns_nameservers"]) == (False, None, ["9.9.9.9"])
    assert (await member.ask("GET", "/ports"))["ports"] == []


async def test_pools_can_be_changed(member: Caller) -> None:
    network, subnet = await make_subnet(member, enable_dhcp=False)
    pools = [{"start": "10.9.0.50", "end": "10.9.0.51"}]
    await member.ask("PUT", f"/subnets/{subnet['id']}", {"subnet": {"allocation_pools": pools}})
    given = [(await member.make("port", network_id=network["id"]))["fixed_ips"][0]["ip_address"] for _ in range(2)]
    assert given == ["10.9.0.50", "10.9.0.51"]
    body = {"port": {"network_id": network["id"]}}
    message = await member.refused("POST", "/ports", body, status=409, kind="IpAddressGenerationFailure")
    assert "10.9.0.0/24" in message


async def test_a_port_takes_the_address_and_mac_it_asks_for(member: Caller) -> None:
    network, subnet = await make_subnet(member)
    wanted = [{"subnet_id": subnet["id"], "ip_address": "10.9.0.77"}]
    port = await member.make("port", network_id=network["id"], fixed_ips=wanted, mac_address="FA-16-3E-00-00-01")
    assert (port["fixed_ips"], port["mac_address"]) == (wanted, "fa:16:3e:00:00:01")
    for address, status in (("10.9.0.77", 409), ("10.9.0.255", 400), ("10.9.0.1", 400), ("192.0.2.1", 400)):
        body = {"port": {"network_id": network["id"], "fixed_ips": [{"ip_address": address}]}}
        assert address in await member.refused("POST", "/ports", body, status=status)
    same = {"port": {"network_id": network["id"], "mac_address": "fa:16:3e:00:00:01"}}
    await member.refused("POST", "/ports", same, status=409, kind="MacAddressInUse")


async def test_a_port_may_have_no_address_or_several(member: Caller) -> None:
    network, subnet = await make_subnet(member)
    assert (await member.make("port", network_id=network["id"], fixed_ips=[]))["fixed_ips"] == []
    port = await member.make("port", network_id=network["id"], fixed_ips=[{"subnet_id": subnet["id"]}] * 2)
    assert len(port["fixed_ips"]) == 2
    kept = port["fixed_ips"][0]
    body = {"port": {"fixed_ips": [kept, {"ip_address": "10.9.0.99"}]}}
    after = (await member.ask("PUT", f"/ports/{port['id']}", body))["port"]
    assert {item["ip_address"] for item in after["fixed_ips"]} == {kept["ip_address"], "10.9.0.99"}


async def test_a_released_address_is_given_again_only_when_it_is_forgotten(member: Caller, cloud: Cloud) -> None:
    network, subnet = await make_subnet(member, "10.9.0.0/30", enable_dhcp=False)
    port = await member.make("port", network_id=network["id"])
    await member.ask("DELETE", f"/ports/{port['id']}", status=204)
    body = {"port": {"network_id": network["id"]}}
    await member.refused("POST", "/ports", body, status=409)
    wanted = {"port": {"network_id": network["id"], "fixed_ips": port["fixed_ips"]}}
    assert "not yet forgotten" in await member.refused("POST", "/ports", wanted, status=409)
    await cloud.store.write(confirm_forgotten, [(subnet["id"], port["fixed_ips"][0]["ip_address"])])
    assert (await member.make("port", network_id=network["id"]))["fixed_ips"] == port["fixed_ips"]


async def test_port_security_and_its_groups_go_together(member: Caller) -> None:
    network, _ = await make_subnet(member)
    port = await member.make("port", network_id=network["id"])
    assert len(port["security_groups"]) == 1
    off = {"port": {"port_security_enabled": False}}
    await member.refused("PUT", f"/ports/{port['id']}", off, status=409, kind="PortInUse")
    body = {"port": {"port_security_enabled": False, "security_groups": []}}
    after = (await member.ask("PUT", f"/ports/{port['id']}", body))["port"]
    assert after["security_groups"] == []
    on = {"port": {"port_security_enabled": True}}
    after = (await member.ask("PUT", f"/ports/{port['id']}", on))["port"]
    assert after["security_groups"] == port["security_groups"]
    pairs = [{"ip_address": "10.9.0.200"}]
    after = (await member.ask("PUT", f"/ports/{port['id']}", {"port": {"allowed_address_pairs": pairs}}))["port"]
    assert after["allowed_address_pairs"] == [{"ip_address": "10.9.0.200", "mac_address": port["mac_address"]}]


async def test_what_is_in_use_is_not_deleted_and_the_answer_says_by_what(member: Caller, world: Cloud) -> None:
    _, subnet, router, port = await make_path(member)
    network = f"/networks/{port['network_id']}"
    assert port["id"] in await member.refused("DELETE", network, status=409, kind="NetworkInUse")
    assert port["id"] in await member.refused("DELETE", f"/subnets/{subnet['id']}", status=409, kind="SubnetInUse")
    await member.refused("DELETE", f"/routers/{router['id']}", status=409, kind="RouterInUse")
    await member.ask("DELETE", f"/ports/{port['id']}", status=204)
    await member.ask("PUT", f"/routers/{router['id']}/remove_router_interface", {"subnet_id": subnet["id"]})
    await member.ask("DELETE", f"/routers/{router['id']}", status=204)
    await member.ask("DELETE", network, status=204)

    def left(tx: Any) -> int:
        own = select(func.count()).select_from(ports).where(ports.c.project_id == "p1")
        return int(tx.execute(own).scalar()) + int(
            tx.execute(select(func.count()).select_from(networks).where(networks.c.project_id == "p1")).scalar()
        )

    assert await world.store.read(left) == 0


async def test_a_router_refuses_what_it_cannot_route(member: Caller, operator: Caller, world: Cloud) -> None:
    public, subnet, router, _ = await make_path(member)
    path = f"/routers/{router['id']}/add_router_interface"
    await member.refused("PUT", path, {"subnet_id": subnet["id"]}, status=400)
    _, overlapping = await make_subnet(member, "10.9.0.0/25")
    assert "overlaps" in await member.refused("PUT", path, {"subnet_id": overlapping["id"]}, status=400)
    await member.refused("PUT", path, {}, status=400)
    inner = await member.make("network")
    gateway = {"router": {"external_gateway_info": {"network_id": inner["id"]}}}
    await member.refused("PUT", f"/routers/{router['id']}", gateway, status=400)
    routes: Any = {"router": {"routes": [{"destination": "192.0.2.0/24", "nexthop": "10.9.0.77"}]}}
    after = (await member.ask("PUT", f"/routers/{router['id']}", routes))["router"]
    assert after["routes"] == [{"destination": "192.0.2.0/24", "nexthop": "10.9.0.77"}]
    routes["router"]["routes"][0]["nexthop"] = "172.16.0.1"
    await member.refused("PUT", f"/routers/{router['id']}", routes, status=400)
    snat = {"router": {"external_gateway_info": {"network_id": public["id"], "enable_snat": False}}}
    await member.refused("PUT", f"/routers/{router['id']}", snat, status=403)
    after = (await operator.ask("PUT", f"/routers/{router['id']}", snat))["router"]
    assert after["external_gateway_info"]["enable_snat"] is False


async def test_an_interface_by_port(member: Caller) -> None:
    network, subnet = await make_subnet(member)
    router = await member.make("router")
    port = await member.make("port", network_id=network["id"])
    path = f"/routers/{router['id']}"
    added = await member.ask("PUT", f"{path}/add_router_interface", {"port_id": port["id"]})
    assert (added["port_id"], added["subnet_id"]) == (port["id"], subnet["id"])
    seen = (await member.ask("GET", f"/ports/{port['id']}"))["port"]
    assert (seen["device_owner"], seen["device_id"]) == ("network:router_interface", router["id"])
    await member.refused("PUT", f"{path}/add_router_interface", {"port_id": port["id"]}, status=409, kind="PortInUse")
    await member.ask("PUT", f"{path}/remove_router_interface", {"port_id": port["id"]})
    await member.refused("GET", f"/ports/{port['id']}", status=404, kind="PortNotFound")


async def test_a_floating_ip_follows_its_port(member: Caller, other: Caller, world: Cloud) -> None:
    public, subnet, router, port = await make_path(member)
    floating = await member.make("floatingip", floating_network_id=public["id"])
    assert floating["status"] == "DOWN"
    path = f"/floatingips/{floating['id']}"
    after = (await member.ask("PUT", path, {"floatingip": {"port_id": port["id"]}}))["floatingip"]
    assert after["fixed_ip_address"] == port["fixed_ips"][0]["ip_address"]
    assert (after["router_id"], after["port_details"]["mac_address"]) == (router["id"], port["mac_address"])
    second = {"floatingip": {"floating_network_id": public["id"], "port_id": port["id"]}}
    await member.refused("POST", "/floatingips", second, status=409, kind="FloatingIPPortAlreadyAssociated")
    interface = {"subnet_id": subnet["id"]}
    await member.refused(
        "PUT",
        f"/routers/{router['id']}/remove_router_interface",
        interface,
        status=409,
        kind="RouterInterfaceInUseByFloatingIP",
    )
    gateway: Any = {"router": {"external_gateway_info": {}}}
    await member.refused("PUT", f"/routers/{router['id']}", gateway, status=409)
    await other.refused("GET", path, status=404)
    await member.ask("DELETE", f"/ports/{port['id']}", status=204)
    after = (await member.ask("GET", path))["floatingip"]
    assert (after["port_id"], after["router_id"], after["fixed_ip_address"]) == (None, None, None)
    await member.ask("DELETE", path, status=204)
    await member.refused("GET", path, status=404, kind="FloatingIPNotFound")


async def test_a_floating_ip_needs_a_way_to_the_port(member: Caller, other: Caller, world: Cloud) -> None:
    public = (await member.ask("GET", "/networks", **{"router:external": True}))["networks"][0]
    network, _ = await make_subnet(member)
    port = await member.make("port", network_id=network["id"])
    body = {"floatingip": {"floating_network_id": public["id"], "port_id": port["id"]}}
    await member.refused("POST", "/floatingips", body, status=404, kind="ExternalNetworkNotReachable")
    await other.refused("POST", "/floatingips", body, status=404, kind="PortNotFound")
    inner = {"floatingip": {"floating_network_id": network["id"]}}
    assert "external" in await member.refused("POST", "/floatingips", inner, status=400)
    assert (await member.ask("GET", "/floatingips"))["floatingips"] == []


async def test_quotas_are_counted_where_things_are_made(member: Caller, operator: Caller) -> None:
    await operator.ask("PUT", "/quotas/p1", {"quota": {"network": 1, "port": 1}})
    network, _ = await make_subnet(member)
    message = await member.refused("POST", "/networks", {"network": {}}, status=409, kind="OverQuota")
    assert "network" in message
    await member.make("port", network_id=network["id"])
    await member.refused("POST", "/ports", {"port": {"network_id": network["id"]}}, status=409, kind="OverQuota")
    details = (await member.ask("GET", "/quotas/p1/details.json"))["quota"]
    assert details["port"] == {"limit": 1, "used": 1, "reserved": 0}
    await member.refused("GET", "/quotas/p2", status=403)
    await member.refused("PUT", "/quotas/p1", {"quota": {"port": 5}}, status=403)
    await operator.ask("DELETE", "/quotas/p1", status=204)
    assert (await member.ask("GET", "/quotas/p1"))["quota"]["network"] == 100


async def test_a_projects_own_network_comes_from_the_pool_and_goes_back(
    member: Caller, other: Caller, world: Cloud
) -> None:
    assert (await member.ask("GET", "/auto-allocated-topology/p1", fields="dry-run"))["auto_allocated_topology"]
    assert (await member.ask("GET", "/routers"))["routers"] == []
    made = (await member.ask("GET", "/auto-allocated-topology/p1"))["auto_allocated_topology"]
    assert (await member.ask("GET", "/auto-allocated-topology/None"))["auto_allocated_topology"] == made
    (router,) = (await member.ask("GET", "/routers"))["routers"]
    assert router["external_gateway_info"]["external_fixed_ips"]
    (subnet,) = (await member.ask("GET", "/subnets"))["subnets"]
    assert (subnet["cidr"], subnet["gateway_ip"]) == ("10.0.0.0/24", "10.0.0.1")
    port = await member.make("port", network_id=made["id"])
    assert port["fixed_ips"][0]["ip_address"] == "10.0.0.3"
    await other.refused("GET", "/auto-allocated-topology/p1", status=403)
    await member.refused("DELETE", "/auto-allocated-topology/p1", status=409)
    await member.ask("DELETE", f"/ports/{port['id']}", status=204)
    await member.ask("DELETE", "/auto-allocated-topology/p1", status=204)
    assert (await member.ask("GET", "/networks", project_id="p1"))["networks"] == []
    assert (await member.ask("GET", "/routers"))["routers"] == []
    # The pool's first network is held until its host has forgotten it.
    again = (await member.ask("GET", "/auto-allocated-topology/p1"))["auto_allocated_topology"]
    assert again["id"] != made["id"]
    (subnet,) = (await member.ask("GET", "/subnets"))["subnets"]
    assert subnet["cidr"] == "10.0.1.0/24"


async def test_no_address_or_port_is_left_without_an_owner(member: Caller, world: Cloud) -> None:
    public, _, _, port = await make_path(member)
    body = {"floatingip": {"floating_network_id": public["id"], "port_id": "nothing"}}
    await member.refused("POST", "/floatingips", body, status=404)
    body = {"port": {"network_id": port["network_id"], "security_groups": ["nothing"]}}
    await member.refused("POST", "/ports", body, status=404, kind="SecurityGroupNotFound")

    def orphans(tx: Any) -> int:
        lost = select(func.count()).select_from(addresses).where(addresses.c.port_id.is_(None))
        return int(tx.execute(lost).scalar())

    assert await world.store.read(orphans) == 0
