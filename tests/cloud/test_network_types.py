"""Networks of several types on one cloud and one host: a project's VXLAN network, and a server on three at once."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from typing import Any

import pytest
from openstack.connection import Connection

from .running import RunningCloud, until


def guest_says(cloud: RunningCloud, server: Any, *words: str) -> str:
    """What a program says inside a light guest; nothing when it fails."""
    prefix = cloud.prefix
    argv = ["ip", "netns", "exec", f"{prefix}-g-{server.id[:11]}", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL)
    return done.stdout if done.returncode == 0 else ""


def boot(user: Connection, name: str, networks: Any = "auto") -> Any:
    image = user.image.find_image("types") or user.image.find_image("tiny")
    flavor = user.compute.find_flavor("m1.nano", ignore_missing=False)
    server = user.compute.create_server(name=name, image_id=image.id, flavor_id=flavor.id, networks=networks)
    return user.compute.wait_for_server(server, wait=60, interval=0.1)


@pytest.fixture(scope="module")
def cloud(light_sandbox: RunningCloud) -> RunningCloud:
    light_sandbox.upload_tiny("types")
    numbers = ["--num-networks", "3", "--vlan-start", "81000", "--vpn-start", "41000"]
    light_sandbox.kilonova("network", "create", "--manager", "vxlan", "--fixed-range", "10.81.0.0/22", *numbers)
    return light_sandbox


@pytest.mark.timeout(180)
def test_a_project_of_type_vxlan_has_leases_metadata_and_floating_addresses(cloud: RunningCloud) -> None:
    user = cloud.member("overlay")
    cloud.kilonova("project", "set", "overlay", "--network-type", "vxlan")
    server = boot(user, "over")
    [(name, [address])] = server.addresses.items()
    network = json.loads(cloud.kilonova("project", "show", "overlay", "--json").stdout)["network"]
    assert (name, address["addr"][:6]) == ("auto_allocated_network", "10.81.")
    assert (network["manager"], network["bridge"], network["mtu"]) == ("vxlan", "bv81000", 1450)
    until("the lease", lambda: address["addr"] in guest_says(cloud, server, "ip", "-4", "addr", "show", "eth0"))
    assert "mtu 1450" in until("the MTU of the lease", lambda: guest_says(cloud, server, "ip", "link", "show", "eth0"))
    until("the guest's metadata", lambda: says(user, server, "metadata"))
    group = next(user.network.security_groups(name="default", project_id=user.current_project_id))
    web = {"direction": "ingress", "ethertype": "IPv4", "protocol": "tcp", "port_range_min": 80, "port_range_max": 80}
    user.network.create_security_group_rule(security_group_id=group.id, **web)
    public = next(user.network.networks(is_router_external=True))
    port = next(user.network.ports(device_id=server.id))
    floating = user.network.create_ip(floating_network_id=public.id, port_id=port.id)
    fetch = ["sandbox", "exec", "--", "curl", "-sf", "--max-time", "1", f"http://{floating.floating_ip_address}/"]
    until("HTTP through the floating address", lambda: cloud.kilonova(*fetch, check=False).stdout == "over\n")

    said = cloud.kilonova("network", "release", "overlay", check=False)
    assert (said.returncode, f"server over ({server.id})" in said.stderr) == (1, True)
    user.network.delete_ip(floating)
    user.compute.delete_server(server)
    user.compute.wait_for_delete(server, wait=30, interval=0.1)
    cloud.kilonova("network", "release", "overlay")
    shown = ["network", "show", "bv81000", "--json"]
    until("the network is free", lambda: json.loads(cloud.kilonova(*shown).stdout)["state"] == "free")


@pytest.mark.timeout(180)
def test_a_server_has_ports_on_networks_of_two_types_that_stay_apart(cloud: RunningCloud) -> None:
    user = cloud.member("two-types")
    admin = cloud.connect()
    made = []
    for kind in ("vlan", "vxlan"):
        network = admin.network.create_network(
            name=f"two-{kind}", project_id=user.current_project_id, provider_network_type=kind
        )
        gateway = {"vlan": "10.82.0.1", "vxlan": "10.83.0.1"}[kind]
        cidr = gateway.removesuffix(".1") + ".0/24"
        user.network.create_subnet(network_id=network.id, cidr=cidr, ip_version=4, gateway_ip=gateway)
        made.append(network)
    both = boot(user, "both", [{"uuid": network.id} for network in made])
    peers = {network.name: boot(user, f"peer-{network.name}", [{"uuid": network.id}]) for network in made}
    for number, network in enumerate(made):
        (peer,) = [item["addr"] for item in peers[network.name].addresses[network.name]]
        own = both.addresses[network.name][0]["addr"]
        until(f"{own} on eth{number}", partial(has, cloud, both, number, own))
        until(f"{peer} by eth{number}", partial(reaches, cloud, both, number, peer))
        assert not reaches(cloud, both, 1 - number, peer), "no way between the types"


def has(cloud: RunningCloud, server: Any, number: int, address: str) -> bool:
    return address in guest_says(cloud, server, "ip", "addr", "show", f"eth{number}")


def reaches(cloud: RunningCloud, server: Any, number: int, address: str) -> bool:
    return bool(guest_says(cloud, server, "ping", "-c", "1", "-W", "1", "-I", f"eth{number}", address))


def says(user: Connection, server: Any, wanted: str) -> str:
    """The guest's console, once it has this word."""
    said = str(user.compute.get_server_console_output(server, length=200).get("output", ""))
    return said if wanted in said else ""
