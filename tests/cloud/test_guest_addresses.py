"""How guests get addresses that no DHCP for IPv4 gives them: told by the config drive, SLAAC, DHCPv6."""

from __future__ import annotations

import subprocess
from functools import partial
from typing import Any

import pytest
from openstack.connection import Connection

from .conftest import MakeCloud
from .running import RunningCloud, until

SLAAC = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
STATEFUL = {"ipv6_ra_mode": "dhcpv6-stateful", "ipv6_address_mode": "dhcpv6-stateful"}
TOLD: dict[str, str] = {}
"""No mode: the guest is told its address and nobody on the wire knows it."""


def dual_stack(user: Connection, number: int, modes: dict[str, str]) -> Any:
    """A network with DHCP for IPv4 and an IPv6 subnet, both on a router of its own."""
    network = user.network.create_network(name=f"six{number}")
    router = user.network.create_router(name=f"six{number}")
    four = user.network.create_subnet(network_id=network.id, ip_version=4, cidr=f"10.66.{number}.0/24")
    six = user.network.create_subnet(network_id=network.id, ip_version=6, cidr=f"fd66:{number}::/64", **modes)
    for subnet in (four, six):
        user.network.add_interface_to_router(router, subnet_id=subnet.id)
    return network


def boot(user: Connection, name: str, networks: list[Any], flavor: str) -> Any:
    image = user.image.find_image("tiny")
    wanted = user.compute.find_flavor(flavor, ignore_missing=False)
    server = user.compute.create_server(
        name=name, image_id=image.id, flavor_id=wanted.id, networks=[{"uuid": network.id} for network in networks]
    )
    return user.compute.wait_for_server(server, wait=60, interval=0.1)


def open_http(user: Connection) -> None:
    group = next(user.network.security_groups(name="default", project_id=user.current_project_id))
    rule = {"direction": "ingress", "ethertype": "IPv4", "protocol": "tcp", "port_range_min": 80, "port_range_max": 80}
    user.network.create_security_group_rule(security_group_id=group.id, **rule)


def sixth(server: Any, network: Any) -> str:
    return next(str(item["addr"]) for item in server.addresses[network.name] if item["version"] == 6)


def in_guest(cloud: RunningCloud, server: Any, *words: str) -> subprocess.CompletedProcess[str]:
    argv = ["ip", "netns", "exec", f"{cloud.prefix}-g-{server.id[:11]}", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL)


@pytest.mark.timeout(180)
def test_server_of_a_network_without_dhcp_is_reached_through_its_floating_address(light_sandbox: RunningCloud) -> None:
    if light_sandbox.connect().image.find_image("tiny") is None:
        light_sandbox.upload_tiny()
    user = light_sandbox.member("silent")
    network = user.network.create_network(name="silent")
    subnet = user.network.create_subnet(network_id=network.id, ip_version=4, cidr="10.67.0.0/24", enable_dhcp=False)
    router = user.network.create_router(name="silent")
    user.network.add_interface_to_router(router, subnet_id=subnet.id)
    public = next(user.network.networks(is_router_external=True))
    user.network.update_router(router, external_gateway_info={"network_id": public.id})
    open_http(user)
    server = boot(user, "silent", [network], "m1.nano")
    assert server.has_config_drive
    port = next(user.network.ports(device_id=server.id))
    floating = user.network.create_ip(floating_network_id=public.id, port_id=port.id)
    fetch = ["sandbox", "exec", "--", "curl", "-sf", "--max-time", "1", f"http://{floating.floating_ip_address}/"]
    until("HTTP on the floating IP", lambda: light_sandbox.kilonova(*fetch, check=False).stdout == "silent\n")


@pytest.mark.timeout(180)
def test_light_guests_reach_each_other_by_every_kind_of_ipv6_address(light_sandbox: RunningCloud) -> None:
    if light_sandbox.connect().image.find_image("tiny") is None:
        light_sandbox.upload_tiny()
    user = light_sandbox.member("six-light")
    networks = [dual_stack(user, 1, SLAAC), dual_stack(user, 2, TOLD)]
    one, two = (boot(user, name, networks, "m1.nano") for name in ("one", "two"))
    assert one.has_config_drive
    for network in networks:
        target = sixth(two, network)
        until(
            f"ping to {target} of {network.name}",
            partial(_pings, light_sandbox, one, target),
        )


@pytest.mark.timeout(240)
def test_a_virtual_machine_has_its_addresses_of_slaac_and_of_dhcpv6(make_cloud: MakeCloud) -> None:
    cloud = make_cloud("sandbox", "qemu")
    cloud.up()
    cloud.upload_tiny()
    user = cloud.member("six-vm")
    networks = [dual_stack(user, 1, SLAAC), dual_stack(user, 2, STATEFUL)]
    router = user.network.find_router("six1")
    public = next(user.network.networks(is_router_external=True))
    user.network.update_router(router, external_gateway_info={"network_id": public.id})
    open_http(user)
    server = boot(user, "machine", networks, "m1.tiny")
    port = next(user.network.ports(device_id=server.id, network_id=networks[0].id))
    fixed = next(item["ip_address"] for item in port.fixed_ips if "." in item["ip_address"])
    floating = user.network.create_ip(floating_network_id=public.id, port_id=port.id, fixed_ip_address=fixed)
    fetch = ["sandbox", "exec", "--", "curl", "-sf", "--max-time", "2"]
    fetch.append(f"http://{floating.floating_ip_address}/cgi-bin/info")

    def told(address: str) -> bool:
        return f" {address}/" in cloud.kilonova(*fetch, check=False).stdout

    assert not server.has_config_drive, "it learns its DHCPv6 address by HTTP"
    for network in networks:
        address = sixth(server, network)
        until(f"{address} of {network.name} in the guest", partial(told, address), 90)


def _pings(cloud: RunningCloud, server: Any, address: str) -> bool:
    return in_guest(cloud, server, "ping", "-6", "-c1", "-W1", address).returncode == 0
