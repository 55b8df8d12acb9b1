"""IPv6 subnets by the network API: modes, automatic addresses, pools, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from kilonova.cloud.controller import Cloud
from kilonova.network.ipv6 import eui64

from .conftest import Caller, Document

CIDR = "2001:db8:1::/64"
MODES = ("slaac", "dhcpv6-stateful", "dhcpv6-stateless")


async def subnet6(caller: Caller, network: Document, mode: str | None = None, **fields: Any) -> Document:
    modes = {} if mode is None else {"ipv6_ra_mode": mode, "ipv6_address_mode": mode}
    return await caller.make("subnet", **{"network_id": network["id"], "ip_version": 6, "cidr": CIDR} | modes | fields)


def addresses(port: Document) -> set[str]:
    return {item["ip_address"] for item in port["fixed_ips"]}


async def dual(caller: Caller, mode: str) -> tuple[Document, Document, Document]:
    """A network with a subnet of each version."""
    network = await caller.make("network")
    fourth = await caller.make("subnet", network_id=network["id"], cidr="10.0.0.0/24")
    return network, fourth, await subnet6(caller, network, mode)


async def test_a_subnet_has_gateway_pool_and_modes(member: Caller, world: Cloud) -> None:
    made = await subnet6(member, await member.make("network"), "slaac")

    assert made["gateway_ip"] == "2001:db8:1::1"
    assert made["allocation_pools"] == [{"start": "2001:db8:1::2", "end": "2001:db8:1:0:ffff:ffff:ffff:ffff"}]
    assert (made["ipv6_ra_mode"], made["ipv6_address_mode"]) == ("slaac", "slaac")
    assert made["ip_version"] == 6


async def test_a_port_makes_its_automatic_address_of_its_mac(member: Caller, world: Cloud) -> None:
    network, fourth, sixth = await dual(member, "slaac")
    port = await member.make("port", network_id=network["id"])
    chosen = await member.make(
        "port", network_id=network["id"], fixed_ips=[{"subnet_id": fourth["id"], "ip_address": "10.0.0.77"}]
    )
    bare = await member.make("port", network_id=network["id"], fixed_ips=[])

    own = eui64(CIDR, port["mac_address"])
    assert own in addresses(port)
    assert len(addresses(port)) == 2
    assert addresses(chosen) == {"10.0.0.77", eui64(CIDR, chosen["mac_address"])}
    assert addresses(bare) == set()
    assert {"subnet_id": sixth["id"], "ip_address": own} in port["fixed_ips"]


async def test_a_stateful_subnet_hands_out_addresses_of_its_pool(member: Caller, world: Cloud) -> None:
    network = await member.make("network")
    pool = [{"start": "2001:db8:1::100", "end": "2001:db8:1::101"}]
    await subnet6(member, network, "dhcpv6-stateful", allocation_pools=pool)
    first = await member.make("port", network_id=network["id"])  # the services have the other one

    assert addresses(first) == {"2001:db8:1::101"}
    body = {"port": {"network_id": network["id"]}}
    await member.refused("POST", "/ports", body, status=409, kind="IpAddressGenerationFailure")
    named = [{"ip_address": "2001:DB8:1::0005"}]
    assert addresses(await member.make("port", network_id=network["id"], fixed_ips=named)) == {"2001:db8:1::5"}


@pytest.mark.parametrize("mode", ["dhcpv6-stateful", None])
async def test_a_port_has_an_address_of_each_version(member: Caller, world: Cloud, mode: str | None) -> None:
    network = await member.make("network")
    await member.make("subnet", network_id=network["id"], cidr="10.0.0.0/24")
    await subnet6(member, network, mode)

    assert addresses(await member.make("port", network_id=network["id"])) == {"10.0.0.3", "2001:db8:1::3"}


async def test_ports_get_the_address_of_an_automatic_subnet_that_comes_later(member: Caller, world: Cloud) -> None:
    network = await member.make("network")
    await member.make("subnet", network_id=network["id"], cidr="10.0.0.0/24")
    ports = [await member.make("port", network_id=network["id"]) for _ in range(3)]
    subnet = await subnet6(member, network, "dhcpv6-stateless")

    for port in ports:
        shown = (await member.ask("GET", f"/ports/{port['id']}"))["port"]
        assert addresses(shown) == addresses(port) | {eui64(CIDR, port["mac_address"])}
    await member.ask("DELETE", f"/subnets/{subnet['id']}", status=204)
    shown = (await member.ask("GET", f"/ports/{ports[0]['id']}"))["port"]
    assert addresses(shown) == addresses(ports[0])


async def test_an_automatic_address_stays_whatever_is_asked_for(member: Caller, world: Cloud) -> None:
    network, fourth, sixth = await dual(member, "slaac")
    port = await member.make("port", network_id=network["id"])
    own = eui64(CIDR, port["mac_address"])

    async def change(**fields: Any) -> Document:
        return (await member.ask("PUT", f"/ports/{port['id']}", {"port": fields}))["port"]  # type: ignore[no-any-return]

    changed = await change(fixed_ips=[{"subnet_id": fourth["id"], "ip_address": "10.0.0.9"}])
    assert addresses(changed) == {"10.0.0.9", own}
    assert addresses(await change(fixed_ips=changed["fixed_ips"])) == {"10.0.0.9", own}
    assert addresses(await change(fixed_ips=[{"subnet_id": sixth["id"]}])) == {own}
    assert addresses(await change(fixed_ips=[])) == {own}
    moved = await change(mac_address="02:00:00:00:00:09")
    assert addresses(moved) == {eui64(CIDR, "02:00:00:00:00:09")}


async def test_an_automatic_address_is_not_chosen(member: Caller, world: Cloud) -> None:
    network, _, sixth = await dual(member, "slaac")
    fixed = [{"subnet_id": sixth["id"], "ip_address": "2001:db8:1::5"}]
    body = {"port": {"network_id": network["id"], "fixed_ips": fixed}}

    said = await member.refused("POST", "/ports", body, status=400, kind="AllocationOnAutoAddressSubnet")
    assert "2001:db8:1::5" in said


async def test_a_freed_automatic_address_is_free_again(member: Caller, world: Cloud) -> None:
    """Its offset is past what a pool's column holds."""
    from kilonova.store.addresses import confirm_forgotten

    network, _, sixth = await dual(member, "slaac")
    port = await member.make("port", network_id=network["id"], mac_address="fa:16:3e:00:00:09")
    await member.ask("DELETE", f"/ports/{port['id']}", status=204)
    again = {"port": {"network_id": network["id"], "mac_address": "fa:16:3e:00:00:09"}}
    assert "not yet forgotten" in await member.refused("POST", "/ports", again, status=409)

    rows = [(sixth["id"], eui64(CIDR, "fa:16:3e:00:00:09"))]
    assert await world.store.write(confirm_forgotten, rows) == 1
    await member.ask("POST", "/ports", again, status=201)


async def test_a_router_stands_at_the_gateway_and_at_a_port(member: Caller, world: Cloud) -> None:
    _, fourth, sixth = await dual(member, "slaac")
    router = await member.make("router")
    await member.ask("PUT", f"/routers/{router['id']}/add_router_interface", {"subnet_id": fourth["id"]})
    answer = await member.ask("PUT", f"/routers/{router['id']}/add_router_interface", {"subnet_id": sixth["id"]})

    port = (await member.ask("GET", f"/ports/{answer['port_id']}"))["port"]
    assert addresses(port) == {"2001:db8:1::1"}
    await member.refused("DELETE", f"/subnets/{sixth['id']}", status=409, kind="SubnetInUse")
    hop = {"destination": "2001:db8:9::/48", "nexthop": "2001:db8:1::9"}
    changed = await member.ask("PUT", f"/routers/{router['id']}", {"router": {"routes": [hop]}})
    assert changed["router"]["routes"] == [hop]
    remove = f"/routers/{router['id']}/remove_router_interface"
    said = await member.refused(
        "PUT", remove, {"subnet_id": sixth["id"]}, status=409, kind="RouterInterfaceInUseByRoute"
    )
    assert "2001:db8:1::9" in said
    await member.ask("PUT", f"/routers/{router['id']}", {"router": {"routes": []}})
    await member.ask("PUT", remove, {"subnet_id": sixth["id"]})


async def test_a_gateway_outside_has_an_address_of_each_version(operator: Caller, world: Cloud) -> None:
    public = (await operator.ask("GET", "/networks?router:external=true"))["networks"][0]
    await subnet6(operator, public, enable_dhcp=False)
    router = await operator.make("router", external_gateway_info={"network_id": public["id"]})
    outside = {item["ip_address"] for item in router["external_gateway_info"]["external_fixed_ips"]}

    assert "2001:db8:1::2" in outside
    assert len(outside) == 2
    floating = await operator.make("floatingip", floating_network_id=public["id"])
    assert ":" not in floating["floating_ip_address"]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"ipv6_ra_mode": "slack"}, "ipv6_ra_mode"),
        ({"ipv6_address_mode": "on"}, "ipv6_address_mode"),
        ({"ipv6_ra_mode": "slaac", "ipv6_address_mode": "dhcpv6-stateful"}, "ipv6_ra_mode"),
        ({"ipv6_ra_mode": "slaac", "cidr": "2001:db8::/63"}, "/64"),
        ({"ipv6_address_mode": "dhcpv6-stateless", "cidr": "2001:db8::/80"}, "/64"),
        ({"ipv6_address_mode": "dhcpv6-stateful", "cidr": "2001:db8::/48"}, "cidr"),
        ({"ipv6_ra_mode": "slaac", "enable_dhcp": False}, "enable_dhcp"),
        ({"cidr": "10.0.0.0/24", "ip_version": 4, "ipv6_ra_mode": "slaac"}, "ipv6_ra_mode"),
        ({"cidr": "10.0.0.0/24"}, "ip_version"),
        ({"ip_version": 4}, "ip_version"),
        ({"cidr": "fe80::/64"}, "cidr"),
        ({"cidr": "ff02::/64"}, "cidr"),
        ({"cidr": "::/64"}, "cidr"),
        ({"cidr": "2001:db8::%eth0/64"}, "cidr"),
        ({"gateway_ip": "2001:db8:2::1"}, "gateway_ip"),
        ({"gateway_ip": "2001:db8:1::"}, "gateway_ip"),
        ({"gateway_ip": "10.0.0.1"}, "gateway_ip"),
        ({"gateway_ip": "fe80::1%eth0"}, "gateway_ip"),
        ({"dns_nameservers": ["192.0.2.53"]}, "dns_nameservers"),
        ({"dns_nameservers": ["2001:db8::53%lo"]}, "dns_nameservers"),
        ({"host_routes": [{"destination": "10.0.0.0/8", "nexthop": "10.0.0.1"}]}, "host_routes"),
        ({"host_routes": [{"destination": "2001:db8::/48", "nexthop": "10.0.0.1"}]}, "host_routes"),
        ({"allocation_pools": [{"start": "10.0.0.2", "end": "10.0.0.9"}]}, "pool"),
        ({"allocation_pools": [{"start": "2001:db8:1::9", "end": "2001:db8:1::2"}]}, "pool"),
        ({"allocation_pools": [{"start": "2001:db8:1::9", "end": "2001:db8:2::"}]}, "pool"),
        ({"allocation_pools": [{"start": "2001:db8:1:0:9000::", "end": "2001:db8:1:0:9000::9"}]}, "2^63"),
        ({"allocation_pools": [{"start": "2001:db8:1::2%0", "end": "2001:db8:1::9"}]}, "allocation_pools"),
    ],
)
async def test_a_wrong_subnet_is_refused_by_its_field(
    member: Caller, world: Cloud, fields: dict[str, Any], named: str
) -> None:
    network = await member.make("network")
    body = {"subnet": {"network_id": network["id"], "ip_version": 6, "cidr": CIDR} | fields}

    assert named in await member.refused("POST", "/subnets", body, status=400)
    assert (await member.ask("GET", "/subnets", network_id=network["id"]))["subnets"] == []


async def test_what_cannot_change_is_refused_by_its_field(member: Caller, world: Cloud) -> None:
    _, _, sixth = await dual(member, "slaac")
    for fields, named in (
        ({"ipv6_ra_mode": "dhcpv6-stateful"}, "ipv6_ra_mode"),
        ({"ipv6_address_mode": None}, "ipv6_address_mode"),
        ({"cidr": "2001:db8:7::/64"}, "cidr"),
        ({"enable_dhcp": False}, "enable_dhcp"),
        ({"dns_nameservers": ["9.9.9.9"]}, "dns_nameservers"),
        ({"gateway_ip": "2001:db8:2::1"}, "gateway_ip"),
    ):
        assert named in await member.refused("PUT", f"/subnets/{sixth['id']}", {"subnet": fields}, status=400)
    assert (await member.ask("GET", f"/subnets/{sixth['id']}"))["subnet"] == sixth


async def test_a_subnet_changes_while_it_is_used(member: Caller, world: Cloud) -> None:
    network, _, sixth = await dual(member, "dhcpv6-stateful")
    await member.make("port", network_id=network["id"])
    fields: dict[str, Any] = {
        "gateway_ip": "2001:db8:1::ffff",
        "allocation_pools": [{"start": "2001:db8:1::10", "end": "2001:db8:1::20"}],
        "dns_nameservers": ["2001:db8::53"],
        "host_routes": [{"destination": "2001:db8:9::/48", "nexthop": "2001:db8:1::9"}],
        "name": "new",
    }
    changed = (await member.ask("PUT", f"/subnets/{sixth['id']}", {"subnet": fields}))["subnet"]

    assert {name: changed[name] for name in fields} == fields
    assert "2001:db8:1::10" in addresses(await member.make("port", network_id=network["id"]))
    gone = (await member.ask("PUT", f"/subnets/{sixth['id']}", {"subnet": {"gateway_ip": None}}))["subnet"]
    assert gone["gateway_ip"] is None
    taken = {"subnet": {"gateway_ip": "2001:db8:1::3"}}
    assert "gateway_ip" in await member.refused("PUT", f"/subnets/{sixth['id']}", taken, status=409)


async def test_ipv6_needs_a_link_that_carries_it(member: Caller, world: Cloud) -> None:
    narrow = await member.make("network", mtu=1000)
    body = {"subnet": {"network_id": narrow["id"], "cidr": CIDR, "ip_version": 6}}
    assert "1280" in await member.refused("POST", "/subnets", body, status=400)

    network = await member.make("network")
    await subnet6(member, network)
    assert "mtu" in await member.refused("PUT", f"/networks/{network['id']}", {"network": {"mtu": 1000}}, status=400)


async def test_addresses_are_found_in_whatever_form_they_are_written(member: Caller, world: Cloud) -> None:
    network = await member.make("network")
    await subnet6(member, network)
    port = await member.make("port", network_id=network["id"], fixed_ips=[{"ip_address": "2001:db8:1::5"}])

    found = (await member.ask("GET", "/ports", fixed_ips="ip_address=2001:DB8:1:0:0::5"))["ports"]
    assert [item["id"] for item in found] == [port["id"]]


async def test_services_of_all_subnets_have_one_port(operator: Caller, world: Cloud) -> None:
    network, fourth, _ = await dual(operator, "slaac")
    query = {"network_id": network["id"], "device_owner": "network:dhcp"}
    (port,) = (await operator.ask("GET", "/ports", **query))["ports"]
    assert addresses(port) == {"10.0.0.2", "2001:db8:1::2"}

    await operator.ask("PUT", f"/subnets/{fourth['id']}", {"subnet": {"enable_dhcp": False}})
    (port,) = (await operator.ask("GET", "/ports", **query))["ports"]
    assert addresses(port) == {"2001:db8:1::2"}
