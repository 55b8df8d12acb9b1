"""The metadata documents, as a guest reads them."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from kilonova.metadata import (
    InstanceMetadata,
    Interface,
    InterfaceAddress,
    Route,
    answer,
    config_drive_files,
    content_type,
    ec2_instance_id,
)

DOCUMENT = InstanceMetadata(
    instance_id="0b1c2d3e-4f50-4161-8273-849506172839",
    name="web one",
    hostname="web-one",
    project_id="p" * 32,
    availability_zone="nova",
    flavor_name="m1.tiny",
    image_id="11112222-3333-4444-5555-666677778888",
    reservation_id="r-abc12345",
    key_name="mine",
    public_key="ssh-ed25519 AAAAC3Nz someone@somewhere\n",
    user_data=b"#!/bin/sh\necho \xff\n",
    metadata={"role": "web"},
    security_groups=("default", "web"),
    interfaces=(
        Interface(
            port_id="port-1",
            device="tapport-1",
            mac="fa:16:3e:00:00:01",
            mtu=1450,
            network_id="net-1",
            addresses=(InterfaceAddress("10.0.0.3", 24, "subnet-1", nameservers=("10.0.0.2",)),),
        ),
    ),
    public_ipv4="203.0.113.10",
    random_seed=b"\x00\x01",
)

STATIC = InterfaceAddress(
    "10.2.0.5",
    24,
    "subnet-2",
    dhcp=False,
    gateway="10.2.0.1",
    nameservers=("192.0.2.53",),
    routes=(Route("172.16.0.0/12", "10.2.0.9"),),
)


def text(path: str, document: InstanceMetadata = DOCUMENT) -> str:
    body = answer(document, path)
    assert body is not None, path
    return body.decode()


def test_openstack_versions_are_listed_bare_and_end_with_latest() -> None:
    lines = text("/openstack").splitlines()
    assert lines[0] == "2012-08-10"
    assert lines[-1] == "latest"


def test_root_lists_ec2_versions_and_both_slashes_answer_alike() -> None:
    assert "2009-04-04" in text("/").splitlines()
    assert text("/openstack/latest") == text("//openstack/latest/")
    assert set(text("/openstack/latest").splitlines()) == {
        "meta_data.json",
        "user_data",
        "password",
        "vendor_data.json",
        "vendor_data2.json",
        "network_data.json",
    }


def test_meta_data_names_the_instance_and_its_key() -> None:
    document = json.loads(text("/openstack/latest/meta_data.json"))
    assert document["uuid"] == DOCUMENT.instance_id
    assert document["hostname"] == "web-one"
    assert document["public_keys"] == {"mine": "ssh-ed25519 AAAAC3Nz someone@somewhere\n"}
    assert document["keys"][0]["type"] == "ssh"
    assert document["meta"] == {"role": "web"}
    assert document["project_id"] == DOCUMENT.project_id
    assert base64.b64decode(document["random_seed"]) == DOCUMENT.random_seed


def test_older_versions_lack_what_came_later() -> None:
    old = json.loads(text("/openstack/2012-08-10/meta_data.json"))
    assert not {"random_seed", "project_id", "keys"} & set(old)
    assert answer(DOCUMENT, "/openstack/2012-08-10/network_data.json") is None


def test_user_data_is_byte_for_byte_what_was_sent() -> None:
    assert answer(DOCUMENT, "/openstack/latest/user_data") == DOCUMENT.user_data
    assert answer(DOCUMENT, "/latest/user-data") == DOCUMENT.user_data


def test_without_user_data_or_key_their_documents_are_absent() -> None:
    bare = replace(DOCUMENT, user_data=None, public_key=None)
    assert answer(bare, "/openstack/latest/user_data") is None
    assert answer(bare, "/latest/user-data") is None
    assert "public-keys/" not in text("/latest/meta-data/", bare).splitlines()
    assert "public_keys" not in json.loads(text("/openstack/latest/meta_data.json", bare))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("instance-id", "i-0b1c2d3e4f5041618"),
        ("hostname", "web-one"),
        ("local-ipv4", "10.0.0.3"),
        ("public-ipv4", "203.0.113.10"),
        ("placement/availability-zone", "nova"),
        ("security-groups", "default\nweb"),
        ("public-keys", "0=mine"),
        ("public-keys/0", "openssh-key"),
        ("public-keys/0/openssh-key", "ssh-ed25519 AAAAC3Nz someone@somewhere"),
        ("instance-type", "m1.tiny"),
    ],
)
def test_ec2_tree_answers(path: str, body: str) -> None:
    assert text(f"/latest/meta-data/{path}") == body
    assert text(f"/2009-04-04/meta-data/{path}/") == body


def test_ec2_listing_marks_directories() -> None:
    lines = text("/latest/meta-data/").splitlines()
    assert {"placement/", "public-keys/", "instance-id"} <= set(lines)


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/latest/meta-data/nothing",
        "/latest/meta-data/instance-id/below",
        "/openstack/1999-01-01",
        "/latest/meta-data/public-keys/0/_name",
    ],
)
def test_unknown_paths_have_no_answer(path: str) -> None:
    assert answer(DOCUMENT, path) is None


def test_network_data_of_a_dhcp_subnet_leaves_the_address_to_dhcp() -> None:
    document = json.loads(text("/openstack/latest/network_data.json"))
    assert document["links"] == [
        {
            "id": "tapport-1",
            "vif_id": "port-1",
            "type": "bridge",
            "mtu": 1450,
            "ethernet_mac_address": "fa:16:3e:00:00:01",
        }
    ]
    assert document["networks"] == [{"id": "network0", "link": "tapport-1", "network_id": "net-1", "type": "ipv4_dhcp"}]
    assert document["services"] == [{"type": "dns", "address": "10.0.0.2"}]


def test_network_data_without_dhcp_tells_the_whole_address() -> None:
    address = InterfaceAddress(
        "10.1.0.5", 16, "s", dhcp=False, gateway="10.1.0.1", routes=(Route("172.16.0.0/12", "10.1.0.9"),)
    )
    six = InterfaceAddress("fd00::5", 64, "s6", dhcp=False, gateway="fd00::1")
    interface = replace(DOCUMENT.interfaces[0], addresses=(address, six))
    networks = json.loads(text("/openstack/latest/network_data.json", replace(DOCUMENT, interfaces=(interface,))))
    four, other = networks["networks"]
    assert (four["type"], four["ip_address"], four["netmask"]) == ("ipv4", "10.1.0.5", "255.255.0.0")
    assert four["routes"] == [
        {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.1.0.1"},
        {"network": "172.16.0.0", "netmask": "255.240.0.0", "gateway": "10.1.0.9"},
    ]
    assert (other["id"], other["type"], other["routes"][0]["network"]) == ("network1", "ipv6", "::")


@pytest.mark.parametrize(
    ("dhcp", "mode", "kind"),
    [
        (True, "slaac", "ipv6_slaac"),
        (True, "dhcpv6-stateful", "ipv6_dhcpv6-stateful"),
        (True, "dhcpv6-stateless", "ipv6_dhcpv6-stateless"),
        (True, None, "ipv6"),
        (False, None, "ipv6"),
    ],
)
def test_ipv6_network_says_how_its_address_is_got(dhcp: bool, mode: str | None, kind: str) -> None:
    address = InterfaceAddress("fd00::5", 64, "s6", dhcp=dhcp, ipv6_mode=mode, gateway="fd00::1")
    interface = replace(DOCUMENT.interfaces[0], addresses=(address,))
    document = json.loads(text("/openstack/latest/network_data.json", replace(DOCUMENT, interfaces=(interface,))))
    (network,) = document["networks"]
    assert (network["type"], network["ip_address"], network["netmask"]) == (kind, "fd00::5", "ffff:ffff:ffff:ffff::")
    assert network["routes"] == [{"network": "::", "netmask": "::", "gateway": "fd00::1"}]


def test_every_port_has_a_link_and_every_address_a_network_of_its_own() -> None:
    first = replace(DOCUMENT.interfaces[0], addresses=(*DOCUMENT.interfaces[0].addresses, STATIC))
    second = Interface(
        "port-2", "tapport-2", "fa:16:3e:00:00:02", 1500, "net-2", (replace(STATIC, address="10.2.0.6"),)
    )
    third = Interface("port-3", "tapport-3", "fa:16:3e:00:00:03", 1500, "net-3")
    document = json.loads(
        text("/openstack/latest/network_data.json", replace(DOCUMENT, interfaces=(first, second, third)))
    )
    assert [link["id"] for link in document["links"]] == ["tapport-1", "tapport-2", "tapport-3"]
    assert [(network["id"], network["link"], network["type"]) for network in document["networks"]] == [
        ("network0", "tapport-1", "ipv4_dhcp"),
        ("network1", "tapport-1", "ipv4"),
        ("network2", "tapport-2", "ipv4"),
    ]
    assert [service["address"] for service in document["services"]] == ["10.0.0.2", "192.0.2.53"]


def test_config_drive_has_what_the_nocloud_source_reads() -> None:
    leased = DOCUMENT.interfaces[0]
    six = InterfaceAddress("fd00::5", 64, "s6", ipv6_mode="dhcpv6-stateful")
    flat = Interface("port-2", "tapport-2", "fa:16:3e:00:00:02", 1500, "net-2", (STATIC, six))
    files = config_drive_files(replace(DOCUMENT, interfaces=(leased, flat)))
    assert json.loads(files["meta-data"]) == {
        "instance-id": DOCUMENT.instance_id,
        "local-hostname": "web-one",
        "public-keys": ["ssh-ed25519 AAAAC3Nz someone@somewhere"],
    }
    assert files["user-data"] == DOCUMENT.user_data
    config = json.loads(files["network-config"])
    assert config["version"] == 1
    assert config["config"] == [
        {
            "type": "physical",
            "name": "eth0",
            "mac_address": "fa:16:3e:00:00:01",
            "mtu": 1450,
            "subnets": [{"type": "dhcp4"}],
        },
        {
            "type": "physical",
            "name": "eth1",
            "mac_address": "fa:16:3e:00:00:02",
            "mtu": 1500,
            "subnets": [
                {
                    "type": "static",
                    "address": "10.2.0.5/24",
                    "gateway": "10.2.0.1",
                    "routes": [{"network": "172.16.0.0", "netmask": "255.240.0.0", "gateway": "10.2.0.9"}],
                    "dns_nameservers": ["192.0.2.53"],
                },
                {"type": "ipv6_dhcpv6-stateful"},
            ],
        },
    ]


def test_config_drive_carries_the_same_documents_without_the_password() -> None:
    files = config_drive_files(DOCUMENT)
    assert files["openstack/latest/meta_data.json"] == answer(DOCUMENT, "/openstack/latest/meta_data.json")
    assert files["openstack/latest/user_data"] == DOCUMENT.user_data
    ec2 = json.loads(files["ec2/latest/meta-data.json"])
    assert ec2["instance-id"] == ec2_instance_id(DOCUMENT.instance_id)
    assert ec2["public-keys"]["0"]["openssh-key"].startswith("ssh-ed25519 ")
    assert not any(name.endswith("password") for name in files)


def test_content_type_follows_the_name() -> None:
    assert content_type("/openstack/latest/meta_data.json") == "application/json"
    assert content_type("/latest/meta-data/hostname").startswith("text/plain")
