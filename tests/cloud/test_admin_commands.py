"""The administrator's commands, as in 2010: pool networks, floating ranges, VPN ports, lists; on a simulated cloud."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from typing import Any

import pytest

from .running import AsUser, RunningCloud, refused, told, until


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    """A control plane whose pool these tests may change."""
    cloud = RunningCloud(tmp_path_factory.mktemp("administrator") / "state", "simulate", "fake")
    try:
        cloud.up("--flat", "lan=br-lan", "--trunk", "physnet1=eth7")
        yield cloud
    finally:
        cloud.down("--purge")


def pool(cloud: RunningCloud) -> list[str]:
    return [item["cidr"] for item in told(cloud, "network", "list")]


def test_networks_are_created_listed_shown_and_deleted(cloud: RunningCloud) -> None:
    numbers = ["--num-networks", "3", "--network-size", "64", "--vlan-start", "500", "--vpn-start", "3000"]
    made = told(cloud, "network", "create", "--fixed-range", "10.8.0.0/16", *numbers)
    assert [(n["cidr"], n["segmentation_id"], n["bridge"], n["vpn_port"]) for n in made] == [
        ("10.8.0.0/26", 500, "br500", 3000),
        ("10.8.0.64/26", 501, "br501", 3001),
        ("10.8.0.128/26", 502, "br502", 3002),
    ]
    assert {n["cidr"] for n in made} <= set(pool(cloud))
    for name in ("10.8.0.64/26", "br501", made[1]["id"]):
        assert told(cloud, "network", "show", name)["id"] == made[1]["id"]
    assert "10.8.0.64/26" in cloud.kilonova("network", "show", "br501").stdout
    assert told(cloud, "network", "delete", "br501") == {"deleted": made[1]["id"]}
    assert "10.8.0.0/26 deleted" in cloud.kilonova("network", "delete", "10.8.0.0/26").stdout
    cloud.kilonova("network", "delete", made[2]["id"])
    assert not {n["cidr"] for n in made} & set(pool(cloud))
    assert "10.8.0.64/26" in refused(cloud, "network", "show", "10.8.0.64/26")


def test_the_form_of_2010_and_prefixes_work(cloud: RunningCloud) -> None:
    words = ["fixed_range=10.9.0.0/16", "num_networks=2", "network_size=16", "vlan_start=700", "vpn_start=4000"]
    said = cloud.kilonova("n", "c", *words).stdout
    assert said == "2 networks added: 10.9.0.0/28 to 10.9.0.16/28\n"
    listed = cloud.kilonova("netw", "li", "--free").stdout
    assert "br700" in listed
    assert "br701" in listed
    for bridge in ("br700", "br701"):
        cloud.kilonova("net", "del", bridge)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--fixed-range", "10.8.0.0/24", "--num-networks", "2"], ["10.8.0.0/24", "1 fit"]),
        (["--fixed-range", "10.8.0.1/24", "--num-networks", "1"], ["fixed_range", "host bits"]),
        (["--fixed-range", "nonsense", "--num-networks", "1"], ["fixed_range", "nonsense"]),
        (["--fixed-range", "fd00::/64", "--num-networks", "1"], ["fixed_range", "IPv6"]),
        (["--fixed-range", "10.8.0.0/16", "--num-networks", "0"], ["num_networks"]),
        (["--fixed-range", "10.8.0.0/16", "--num-networks", "-1"], ["num_networks"]),
        (["--fixed-range", "10.8.0.0/16", "--num-networks", "2", "--network-size", "100"], ["network_size", "100"]),
        (["--fixed-range", "10.8.0.0/16", "--num-networks", "2", "--network-size", "4"], ["network_size"]),
        (["--fixed-range", "10.8.0.0/16", "--num-networks", "4", "--vlan-start", "4092"], ["4095"]),
        (["--fixed-range", "10.8.0.0/16", "--num-networks", "4", "--vlan-start", "0"], ["VLAN"]),
        (["--fixed-range", "10.8.0.0/16", "--num-networks", "2", "--vlan-start", "150"], ["VLAN id 150", "vlan-start"]),
        (["--fixed-range", "10.8.0.0/16", "--num-networks", "2", "--vpn-start", "65535"], ["vpn_start", "65536"]),
        (["--fixed-range", "10.8.0.0/16", "--num-networks", "2", "--vpn-start", "1000"], ["VPN port 1000"]),
        (["--fixed-range", "10.0.5.0/24", "--num-networks", "1"], ["overlaps", "10.0.5.0/24"]),
        (["--fixed-range", "203.0.113.0/24", "--num-networks", "1"], ["overlaps", "public"]),
        (["--fixed-range", "10.8.0.0/16", "--num-networks", "1", "--manager", "token-ring"], ["token-ring"]),
        (["--fixed-range", "10.8.0.0/14", "--manager", "vxlan", "--vlan-start", "16777000"], ["VNI", "16777215"]),
        (["--fixed-range", "10.8.0.0/16", "--manager", "vxlan", "--physical-network", "physnet1"], ["physnet1"]),
        (["--fixed-range", "10.8.0.0/16", "--gateway", "10.8.0.1"], ["gateway", "flat"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "refused",
)
def test_a_bad_pool_is_refused_whole(cloud: RunningCloud, options: list[str], words: list[str]) -> None:
    given = {name for name in options if name.startswith("--")}
    rest = [] if "--vlan-start" in given else ["--vlan-start", "900"]
    rest += [] if "--num-networks" in given else ["--num-networks", "1000"]
    rest += [] if "--vpn-start" in given else ["--vpn-start", "5000"]
    before = rows(cloud)
    said = refused(cloud, "network", "create", *options, *rest)
    assert all(word in said for word in words), said
    assert rows(cloud) == before


def rows(cloud: RunningCloud) -> list[Any]:
    """The pool's rows as they are in the store."""
    with closing(sqlite3.connect(f"file:{cloud.state_dir}/kilonova.sqlite?mode=ro", uri=True)) as database:
        return database.execute("SELECT * FROM pool_networks ORDER BY id").fetchall()


def test_networks_and_ranges_in_use_are_kept(cloud: RunningCloud) -> None:
    user = cloud.member("tenant")
    user.network.get_auto_allocated_topology()
    [held] = told(cloud, "network", "list", "--assigned")
    assert held["project_id"] == user.current_project_id
    assert user.current_project_id in refused(cloud, "network", "delete", held["cidr"])
    vpns = told(cloud, "vpn", "list")
    assert [(v["project_name"], v["port"], v["status"]) for v in vpns] == [("tenant", held["vpn_port"], "NONE")]
    assert "not configured" in cloud.kilonova("vpn", "list").stdout

    assert "router gateways" in refused(cloud, "floating", "delete", "203.0.113.0/24")
    public = user.network.find_network("public", ignore_missing=False)
    address = user.network.create_ip(floating_network_id=public.id)
    assert "1 floating IPs" in refused(cloud, "floating", "delete", "203.0.113.0/24")
    assert [r["used"] for r in told(cloud, "floating", "list")] == [2]
    user.network.delete_ip(address)
    user.network.delete_auto_allocated_topology()
    until("the network is free again", lambda: told(cloud, "network", "list", "--assigned") == [], 10)
    assert cloud.kilonova("vpn", "list").stdout == "no project has a network\n"


def test_every_type_of_network_is_made_and_chosen_and_shown_with_reasons(cloud: RunningCloud) -> None:
    """The order of preference, project by project, while what was chosen before is used up."""
    vxlan = ["--num-networks", "1", "--vlan-start", "7000", "--vpn-start", "7000", "--manager", "vxlan"]
    cloud.kilonova("network", "create", "--fixed-range", "10.70.0.0/24", *vxlan)
    lan = ["--physical-network", "lan", "--fixed-range", "10.71.0.0/24", "--gateway", "10.71.0.254"]
    [flat] = told(cloud, "network", "create", "--manager", "flat-dhcp", *lan, "--exclude", "10.71.0.0/25")
    assert (flat["state"], flat["bridge"], flat["physical_network"]) == ("shared", "br-lan", "lan")
    admin = cloud.connect()
    names = [f"typed{i}" for i in range(3)]
    for name in names:
        admin.identity.create_project(name=name, domain_id="default")
    cloud.kilonova("project", "set", names[1], "--network-type", "vxlan")
    cloud.kilonova("project", "set", names[2], "--network-type", "flat")
    given = [told(cloud, "network", "assign", name)["network"] for name in names[:2]]
    assert [(n["manager"], n["bridge"][:2]) for n in given] == [("vlan", "br"), ("vxlan", "bv")]
    said = refused(cloud, "network", "assign", names[2])
    assert "flat, preferred by project" in said
    assert "kilonova network create --manager flat " in said
    assert told(cloud, "network", "assign", names[2], "--manager", "flat-dhcp")["network"]["id"] == flat["network_id"]
    assert "10.71.0.0/24 (flat-dhcp, br-lan)" in cloud.kilonova("network", "assign", names[2], "br-lan").stdout

    shown = told(cloud, "project", "show", names[1])
    assert (shown["network_type"], shown["network"]["mtu"]) == ("vxlan", 1450)
    assert [item["manager"] for item in shown["network"]["decision"]] == ["vxlan", "vlan", "flat-dhcp", "flat"]
    for page in (cloud.kilonova("project", "show", names[1]), cloud.kilonova("network", "show", "bv7000")):
        assert "preferred by project" in page.stdout
        assert "the pool has no flat network" in page.stdout
    assert {item["name"] for item in told(cloud, "project", "list", "--network-type", "flat")} == {names[2]}
    assert "10.70.0.0/24" in cloud.kilonova("pro", "li").stdout
    assert "it keeps its vxlan network" in cloud.kilonova("project", "set", names[1], "--network-type", "vlan").stdout
    assert (
        cloud.kilonova("project", "set", names[1], "--network-type", "auto").stdout
        == f"{names[1]}: network type auto\n"
    )
    assert "nobody" in refused(cloud, "project", "show", "nobody")

    admin_port = admin.network.create_port(network_id=given[0]["id"], project_id=shown["id"], name="left over")
    assert f"port {admin_port.id}" in refused(cloud, "network", "release", names[0])
    admin.network.delete_port(admin_port)
    for name in (names[0], "bv7000", names[2]):
        assert cloud.kilonova("network", "release", name).stdout == f"{name} released\n"
    assert "has no network" in refused(cloud, "network", "release", names[0])
    assert "nothing" in refused(cloud, "network", "release", "nothing")
    for name in ("bv7000", "br-lan"):
        until(f"{name} is deleted", partial(_deleted, cloud, name))
    assert not {"10.70.0.0/24", "10.71.0.0/24"} & set(pool(cloud))


def test_a_flat_network_needs_a_bridge_that_is_there(cloud: RunningCloud) -> None:
    before = rows(cloud)
    base = ["--manager", "flat", "--fixed-range", "10.71.0.0/24"]
    for options, words in (
        (["--physical-network", "attic"], ["attic", "host1 has lan", "--flat attic=BRIDGE"]),
        ([], ["physical_network"]),
        (["--physical-network", "lan", "--num-networks", "2"], ["num_networks"]),
        (["--physical-network", "lan", "--vlan-start", "5"], ["vlan_start"]),
    ):
        said = refused(cloud, "network", "create", *base, *options)
        assert all(word in said for word in words), said
    assert rows(cloud) == before


def test_lists_of_the_pool_have_filters_and_pages(cloud: RunningCloud) -> None:
    first = told(cloud, "network", "list", "--free", "--manager", "vlan", "--limit", "2")
    rest = told(cloud, "network", "list", "--free", "--limit", "2", "--marker", first[1]["cidr"])
    everything = told(cloud, "network", "list", "--free")
    assert [*first, *rest] == everything[:4]
    assert told(cloud, "network", "list", "--manager", "vxlan") == []
    assert cloud.kilonova("network", "list", "--physical-network", "attic").stdout == "no networks in the pool\n"
    assert cloud.kilonova("network", "list", "--manager", "token-ring", check=False).returncode == 2


def test_floating_ranges_are_created_listed_and_deleted(cloud: RunningCloud) -> None:
    made = told(cloud, "floating", "create", "host1", "198.51.100.0/24")
    assert (made["host"], made["cidr"], made["size"], made["used"]) == ("host1", "198.51.100.0/24", 253, 0)
    assert "198.51.100.0/24" in cloud.kilonova("floating", "list").stdout
    for host, cidr, words in (
        ("host1", "198.51.100.128/25", "overlaps 198.51.100.0/24"),
        ("host1", "10.0.0.0/24", "overlaps"),
        ("host9", "192.0.2.0/24", "host9"),
        ("host1", "192.0.2.1/24", "host bits"),
        ("host1", "nonsense", "nonsense"),
        ("host1", "fd00::/64", "IPv6"),
    ):
        assert words in refused(cloud, "floating", "create", host, cidr), cidr
    assert told(cloud, "floating", "delete", "198.51.100.0/24") == {"deleted": "198.51.100.0/24"}
    assert "198.51.100.0/24" in refused(cloud, "floating", "delete", "198.51.100.0/24")
    options = ["--gateway", "198.51.100.254", "--exclude", "198.51.100.1", "--exclude", "198.51.100.128/26"]
    made = told(cloud, "floating", "create", "host1", "198.51.100.0/24", *options)
    assert (made["gateway"], made["size"]) == ("198.51.100.254", 254 - 1 - 1 - 64)
    cloud.kilonova("fl", "del", "198.51.100.0/24")
    no_range = cloud.kilonova("floating", "delete", "198.51.100.7", check=False)
    assert no_range.returncode == 2
    assert "198.51.100.7" in no_range.stderr
    assert [item["cidr"] for item in told(cloud, "floating", "list")] == ["203.0.113.0/24"]


def test_lists_show_what_there_is(cloud: RunningCloud) -> None:
    admin = cloud.connect()
    image = admin.image.create_image(name="listed", disk_format="raw", container_format="bare")
    for noun, name in (("project", "admin"), ("user", "admin"), ("role", "member"), ("image", "listed")):
        assert name in {item["name"] for item in told(cloud, noun, "list")}
        assert name in cloud.kilonova(noun, "list").stdout
    admin.image.delete_image(image)
    assert cloud.kilonova("image", "list").stdout == "no images\n"
    [host] = told(cloud, "host", "list")
    assert (host["hypervisor_hostname"], host["state"]) == ("host1", "up")
    assert "host1" in cloud.kilonova("h", "l").stdout


def test_members_are_refused_what_administrators_may(cloud: RunningCloud) -> None:
    cloud.member("curious")
    mine = {"OS_USERNAME": "curious", "OS_PASSWORD": "secret-curious", "OS_PROJECT_NAME": "curious"}
    cloud_as_member = AsUser(cloud.state_dir, cloud.mode, cloud.driver, cloud.port, mine)
    said = refused(cloud_as_member, "network", "list")
    assert "admin" in said


def test_a_wrong_password_or_no_cloud_is_one_line(cloud: RunningCloud) -> None:
    wrong = AsUser(cloud.state_dir, cloud.mode, cloud.driver, cloud.port, {"OS_PASSWORD": "wrong"})
    assert refused(wrong, "project", "list")
    assert "--state-dir" in refused(cloud, "project", "list", "--state-dir", str(cloud.state_dir / "nowhere"))
    url = {"OS_AUTH_URL": "http://127.0.0.1:1/identity/v3"}
    assert "kilonova status" in refused(AsUser(cloud.state_dir, "", "", 0, url), "project", "list")


def test_an_administrator_takes_a_network_host_out_and_in_again(cloud: RunningCloud) -> None:
    """By the real client. The only host keeps what it has; a network made meanwhile is placed when it is back."""
    (agent,) = cloud.openstack_json("network", "agent", "list")
    cloud.openstack("network", "agent", "set", "--disable", "--description", "repair", agent["ID"])
    shown = cloud.openstack_json("network", "agent", "show", agent["ID"])
    assert (shown["admin_state_up"], shown["description"]) == (False, "repair")
    user = cloud.connect()
    network = user.network.create_network(name="made meanwhile")
    user.network.create_subnet(network_id=network.id, ip_version=4, cidr="10.77.0.0/24")

    def host() -> Any:
        with closing(sqlite3.connect(cloud.state_dir / "kilonova.sqlite")) as store:
            return store.execute("SELECT host FROM networks WHERE id = ?", (network.id,)).fetchone()[0]

    assert host() is None
    cloud.openstack("network", "agent", "set", "--enable", agent["ID"])
    until("the network is placed", host)
    user.network.delete_network(network)


def _deleted(cloud: RunningCloud, name: str) -> bool:
    return not cloud.kilonova("net", "del", name, check=False).returncode
