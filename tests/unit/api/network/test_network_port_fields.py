"""What a port says besides its addresses: DHCP options, names, address pairs; and every wrong value by its field."""

from __future__ import annotations

from typing import Any

import pytest

from kilonova.cloud.controller import Cloud

from .conftest import Caller


async def test_dhcp_options_are_set_changed_and_taken_away(member: Caller, world: Cloud) -> None:
    network = await member.make("network")
    port = await member.make(
        "port", network_id=network["id"], extra_dhcp_opts=[{"opt_name": "mtu", "opt_value": "1400"}]
    )
    assert port["extra_dhcp_opts"] == [{"opt_name": "mtu", "opt_value": "1400", "ip_version": 4}]

    wanted: list[dict[str, Any]] = [
        {"opt_name": "mtu", "opt_value": None},
        {"opt_name": "dns-server", "opt_value": "2001:db8::53", "ip_version": 6},
    ]
    changed = await member.ask("PUT", f"/ports/{port['id']}", {"port": {"extra_dhcp_opts": wanted}})
    assert changed["port"]["extra_dhcp_opts"] == wanted[1:]


async def test_a_port_tells_the_names_of_its_addresses(member: Caller, world: Cloud) -> None:
    network = await member.make("network", dns_domain="example.org.")
    await member.make("subnet", network_id=network["id"], cidr="10.0.0.0/24")
    port = await member.make("port", network_id=network["id"], dns_name="web")
    unnamed = await member.make("port", network_id=network["id"])

    assert port["dns_assignment"] == [{"ip_address": "10.0.0.3", "hostname": "web", "fqdn": "web.example.org."}]
    assert unnamed["dns_assignment"][0]["fqdn"] == "host-10-0-0-4.example.org."
    services = (await member.ask("GET", "/ports", device_owner="network:dhcp"))["ports"]
    assert [item["dns_assignment"] for item in services] == [[]]


async def test_a_name_is_one_of_the_networks_domain(member: Caller, world: Cloud) -> None:
    network = await member.make("network", dns_domain="example.org.")
    for name in ("web", "web.example.org", "a.b.example.org."):
        assert (await member.make("port", network_id=network["id"], dns_name=name))["dns_name"] == name
    for name in ("www.bank.example", "example.org", "wexample.org", "-", "a b", "x" * 64):
        body = {"port": {"network_id": network["id"], "dns_name": name}}
        assert "dns_name" in await member.refused("POST", "/ports", body, status=400)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"extra_dhcp_opts": [{"opt_name": "colour", "opt_value": "red"}]}, "extra_dhcp_opts"),
        ({"extra_dhcp_opts": [{"opt_name": "mtu", "opt_value": "1\ndhcp-script=/x"}]}, "extra_dhcp_opts"),
        ({"extra_dhcp_opts": [{"opt_name": "", "opt_value": "x"}]}, "opt_name"),
        ({"extra_dhcp_opts": [{"opt_name": "mtu", "opt_value": "1400", "more": 1}]}, "more"),
        ({"allowed_address_pairs": [{"ip_address": "10.0.0.0/33"}]}, "allowed_address_pairs"),
        ({"allowed_address_pairs": [{"ip_address": "fd00::1%eth0"}]}, "allowed_address_pairs"),
        ({"allowed_address_pairs": [{"ip_address": "::ffff:10.0.0.5"}]}, "allowed_address_pairs"),
        ({"allowed_address_pairs": [{"ip_address": "::10.0.0.5"}]}, "allowed_address_pairs"),
        ({"allowed_address_pairs": [{"ip_address": "10.0.0.5", "mac_address": "ff:ff"}]}, "mac_address"),
        ({"fixed_ips": [{"ip_address": "10.0.0.256"}]}, "ip_address"),
        ({"fixed_ips": [{"ip_address": "10.9.9.9"}]}, "fixed_ips"),
        ({"fixed_ips": [{"subnet_id": "none"}]}, "fixed_ips"),
        ({"fixed_ips": [{}]}, "fixed_ips"),
        ({"fixed_ips": [{"ip_address": "10.0.0.9"}] * 2}, "fixed_ips"),
        ({"fixed_ips": [{"ip_address": f"10.0.0.{10 + i}"} for i in range(6)]}, "fixed_ips"),
        ({"fixed_ips": [{"ip_address": "10.0.0.1"}]}, "10.0.0.1"),
        ({"mac_address": "01:00:5e:00:00:01"}, "mac_address"),
        ({"security_groups": "all"}, "security_groups"),
        ({"port_security_enabled": "maybe"}, "port_security_enabled"),
        ({"binding:vnic_type": "direct"}, "binding:vnic_type"),
        ({"admin_state_up": 3}, "admin_state_up"),
    ],
)
async def test_a_wrong_port_is_refused_by_its_field(
    member: Caller, world: Cloud, fields: dict[str, Any], named: str
) -> None:
    network = await member.make("network")
    await member.make("subnet", network_id=network["id"], cidr="10.0.0.0/24")
    port = await member.make("port", network_id=network["id"])

    body = {"port": {"network_id": network["id"]} | fields}
    assert named in await member.refused("POST", "/ports", body, status=400)
    assert named in await member.refused("PUT", f"/ports/{port['id']}", {"port": fields}, status=400)
    shown = (await member.ask("GET", f"/ports/{port['id']}"))["port"]
    assert shown == port


@pytest.mark.parametrize(
    ("routes", "named"),
    [
        ([{"destination": "10.5.0.0/16", "nexthop": "10.9.9.9"}], "10.9.9.9"),
        ([{"destination": "10.5.0.0/16", "nexthop": "10.0.0.1"}], "10.0.0.1"),
        ([{"destination": "10.5.0.0/16", "nexthop": "10.0.0.255"}], "10.0.0.255"),
        ([{"destination": "10.5.0.0/16", "nexthop": "10.0.0.0"}], "10.0.0.0"),
        ([{"destination": "10.0.0.0/24", "nexthop": "10.0.0.9"}], "10.0.0.0/24"),
        ([{"destination": "10.5.0.0/33", "nexthop": "10.0.0.9"}], "routes"),
        ([{"destination": "fd00::/64", "nexthop": "10.0.0.9"}], "routes"),
        ([{"destination": "10.5.0.0/16", "nexthop": "10.0.0.9"}] * 2, "twice"),
        ([{"destination": "10.5.0.0/16"}], "nexthop"),
        ([{"destination": f"10.{i}.0.0/16", "nexthop": "10.0.0.9"} for i in range(31)], "31"),
    ],
)
async def test_a_wrong_route_is_refused_by_its_field(
    member: Caller, world: Cloud, routes: list[dict[str, str]], named: str
) -> None:
    network = await member.make("network")
    subnet = await member.make("subnet", network_id=network["id"], cidr="10.0.0.0/24")
    router = await member.make("router")
    await member.ask("PUT", f"/routers/{router['id']}/add_router_interface", {"subnet_id": subnet["id"]})

    body = {"router": {"routes": routes}}
    assert named in await member.refused("PUT", f"/routers/{router['id']}", body, status=400)
    assert (await member.ask("GET", f"/routers/{router['id']}"))["router"]["routes"] == []
