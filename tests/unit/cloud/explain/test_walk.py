"""The pure walk: which way a packet takes, and what each host that tells something makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kilonova.cloud.explain.question import Traffic, parse_traffic
from kilonova.cloud.explain.rows import Floating, Group, Service
from kilonova.errors import BadRequest
from kilonova.network.observation import Deviation, Neighbour, Observation

from .snapshots import EVERYTHING, Scene, hop, replace_told, words


@pytest.fixture
def scene() -> Scene:
    """Two guests on two hosts, a third one behind the same router, which is on host1 with the public network."""
    scene = Scene()
    scene.public()
    scene.network("a", "10.0.0.0/24")
    scene.network("b", "10.0.1.0/24")
    scene.guest("web", "a", "10.0.0.3", "host2")
    scene.guest("client", "a", "10.0.0.4", "host3")
    scene.guest("far", "b", "10.0.1.3", "host2")
    scene.router("r", ("a", "10.0.0.1"), ("b", "10.0.1.1"), gateway=("public", "203.0.113.10"))
    scene.floating.append(Floating("f", "203.0.113.50", "web", "10.0.0.3", "r", "public"))
    return scene


def names(scene: Scene, source: str, destination: str) -> list[str]:
    found = scene.explain(source, destination)
    assert found.verdict == "arrives", words(found)
    return [f"{item.name}@{item.where.split(':')[0]}" for item in found.hops if item.direction == "forward"]


def test_the_way_between_hosts_is_bridge_wire_wire_bridge(scene: Scene) -> None:
    found = names(scene, "client", "web")
    assert [item for item in found if item.startswith(("bridge", "wire", "router"))] == [
        "bridge@host3",
        "wire@host3",
        "wire@host2",
        "bridge@host2",
    ]


def test_the_way_through_a_router_of_another_host(scene: Scene) -> None:
    found = [item for item in names(scene, "client", "far") if item.startswith(("bridge", "wire", "router", "route@"))]
    assert found == [
        *("bridge@host3", "wire@host3", "wire@host1", "bridge@host1", "router@host1", "route@host1"),
        *("bridge@host1", "wire@host1", "wire@host2", "bridge@host2"),
    ]


def test_each_host_is_asked_about_its_own_objects_only(scene: Scene) -> None:
    needs = scene.needs("client", "far").needs
    assert needs["host3"].ports == {"client"}
    assert needs["host2"].ports == {"far"}
    assert needs["host1"].routers == {"r"}
    assert {(item.source, item.destination) for item in needs["host1"].routes} == {
        ("10.0.0.4", "10.0.1.3"),
        ("10.0.1.3", "10.0.0.4"),
    }
    assert needs["host1"].addresses == {"10.0.0.4", "10.0.1.3"}


def test_a_host_without_a_wire_is_named(scene: Scene) -> None:
    told = scene.as_planned("host2", scene.needs("client", "web"), wires={})
    found = scene.explain("client", "web", told={"host2": told})
    assert found.culprit is not None
    assert (found.culprit.name, found.culprit.where.split(":")[0]) == ("wire", "host2")
    assert found.culprit.command == "kilonova up --trunk physnet1=DEVICE"


@pytest.mark.parametrize(
    ("source", "destination", "name", "host", "deviation"),
    [
        ("client", "web", "wire", "host2", ("bridge br-a", "a", "link", "trunk0.101", "up", "up", "down")),
        ("client", "web", "wire", "host2", ("tunnel vx9", "a", "forwarding", "fa dst 192.0.2.1", "", "there", "")),
        ("client", "web", "wire", "host2", ("uplink eth1", "eth1", "link", "eth1", "up", "up", "down")),
        ("client", "far", "router", "host1", ("router r", "r", "namespace", "kn-r-r", "", "there", "")),
        (
            "client",
            "far",
            "router",
            "host1",
            ("router ports r", "r", "link", "rtrr-a", "master", "on br", "on no bridge"),
        ),
        ("client", "far", "router", "host1", ("rules", "r", "sysctl", "net.ipv4.ip_forward", "", "1", "0")),
        ("outside", "web", "floating IP", "host1", ("router r", "r", "element", "kn_nat fip", "203.0.113.50", "x", "")),
        ("client", "outside", "source NAT", "host1", ("router r", "r", "chain", "kn_nat post", "missing", "rule", "0")),
        ("client", "outside", "outside gateway", "host1", ("outside port", "", "link", "outside", "up", "up", "down")),
        (
            "client",
            "web",
            "anti-spoofing",
            "host3",
            ("port client", "client", "element", "kn_l2 mac_ok", '"tapclient" . fa:16:3e:00:00:03', "there", ""),
        ),
        ("client", "web", "destination device", "host2", ("rules", "", "chain", "kn_l2 to_tap", "missing", "r", "0")),
    ],
)
def test_a_difference_is_named_at_the_hop_that_it_hits(
    scene: Scene, source: str, destination: str, name: str, host: str, deviation: tuple[str, ...]
) -> None:
    fragment, owner, kind, thing, key, wanted, there = deviation
    item = Deviation(fragment, owner, "kn-x", kind, thing, key, wanted, there)
    told = scene.as_planned(host, scene.needs(source, destination), deviations=(item,))
    found = scene.explain(source, destination, told={host: told})
    assert found.culprit is not None, words(found)
    assert (found.culprit.name, found.culprit.where.split(":")[0]) == (name, host), words(found)
    assert found.verdict == "dropped"
    assert thing in found.culprit.why


@pytest.mark.parametrize(
    "deviation",
    [
        ("port web", "web", "link", "tapweb", "mtu", "mtu 1500", "mtu 1400"),
        ("port web", "web", "element", "kn_l2 ip6_ok", '"tapweb" . x . fe80::1', "there", ""),
        ("service a", "a", "link", "svc0", "up", "up", "down"),
        ("group h", "h", "chain", "kn_sg g_h_in", "missing", "rule", "0"),
        ("router r", "r", "link", "intother", "up", "up", "down"),
        ("later thing", "web", "gadget", "new", "", "there", ""),
    ],
)
def test_a_difference_that_hits_another_packet_is_none_of_this_one(scene: Scene, deviation: tuple[str, ...]) -> None:
    fragment, owner, kind, thing, key, wanted, there = deviation
    item = Deviation(fragment, owner, "kn-x", kind, thing, key, wanted, there)
    told = scene.as_planned("host2", scene.needs("client", "web"), deviations=(item,))
    assert scene.explain("client", "web", told={"host2": told}).verdict == "arrives"


def test_a_host_that_does_not_answer_is_unknown_and_the_age_of_its_heartbeat_is_told(scene: Scene) -> None:
    scene.services["network", "host2"] = Service("network", "host2", 95.0, False)
    found = scene.explain("client", "web", told={"host2": "no answer"})
    assert found.verdict == "unknown"
    assert found.culprit is not None
    assert "host2 is dead: its last heartbeat was 95 s ago" in found.culprit.why
    assert {item.verdict for item in found.hops if item.where.startswith("host3")} == {"ok"}
    scene.instances["i-web"] = replace(scene.instances["i-web"], vm_state="stopped", power_state=4)
    found = scene.explain("client", "web", told={"host2": "no answer"})
    assert (found.verdict, found.culprit and found.culprit.name) == ("dropped", "destination guest")


def test_a_dead_compute_agent_leaves_the_guest_unknown(scene: Scene) -> None:
    scene.services["compute", "host2"] = Service("compute", "host2", 40.0, False)
    found = scene.explain("client", "web")
    assert (found.verdict, found.culprit and found.culprit.name) == ("unknown", "destination guest")


def test_a_host_without_its_lease_is_named(scene: Scene) -> None:
    told = scene.as_planned("host1", scene.needs("client", "far"), silenced=True)
    found = scene.explain("client", "far", told={"host1": told})
    assert found.culprit is not None
    assert found.culprit.name == "router"
    assert "lost its lease" in found.culprit.why


def test_ipv6_takes_the_same_way(scene: Scene) -> None:
    scene.network("c", "fd00:1::/64")
    scene.network("d", "fd00:2::/64")
    scene.guest("six", "c", "fd00:1::5", "host2")
    scene.guest("seven", "d", "fd00:2::5", "host3")
    scene.guest("near", "c", "fd00:1::6", "host2")
    scene.router("r6", ("c", "fd00:1::1"), ("d", "fd00:2::1"))
    for end in ("near", "seven"):
        found = scene.explain("six", end)
        assert found.verdict == "arrives", words(found)
        assert "r-ping6" in hop(found, "ingress group").intent
    element = (
        "port six",
        "six",
        "element",
        "kn_l2 na_ok",
        f'"tapsix" . {hex(0xFD00000100000000 << 64 | 5)}',
        "there",
        "",
    )
    item = Deviation(*element[:2], "kn-x", *element[2:])
    told = scene.as_planned("host2", scene.needs("six", "near"), deviations=(item,))
    found = scene.explain("six", "near", told={"host2": told})
    assert (found.verdict, found.culprit and found.culprit.name) == ("dropped", "anti-spoofing"), words(found)
    found = scene.explain("six", "web")
    assert (found.verdict, found.culprit and found.culprit.name) == ("dropped", "addresses")


def test_a_floating_ip_of_another_router(scene: Scene) -> None:
    scene.network("z", "10.9.0.0/24")
    scene.guest("other", "z", "10.9.0.3", "host3")
    scene.router("rz", ("z", "10.9.0.1"), gateway=("public", "203.0.113.11"), host="host3")
    found = scene.explain("other", "203.0.113.50")
    assert found.verdict == "arrives", words(found)
    routers = [item.where for item in found.hops if item.name == "router"]
    assert routers == ["host3: router rz", "host1: router r"]
    assert "from 203.0.113.11" not in hop(found, "ingress group").why


def test_static_routes_lead_through_a_second_router(scene: Scene) -> None:
    scene.network("t", "10.5.0.0/24")
    scene.guest("deep", "t", "10.5.0.3", "host2")
    scene.port("r2-leg", "b", "10.0.1.254", owner="network:router_interface", device_id="r2")
    scene.router("r2", ("t", "10.5.0.1"), routes=(("10.0.0.0/24", "10.0.1.1"),))
    scene.routers["r2"] = replace(scene.routers["r2"], legs=(*scene.routers["r2"].legs, scene.ports["r2-leg"]))
    assert scene.explain("client", "deep").verdict == "dropped"
    scene.routers["r"] = replace(scene.routers["r"], routes=(("10.5.0.0/24", "10.0.1.254"),))
    found = scene.explain("client", "deep")
    assert found.verdict == "arrives", words(found)
    assert [item.where.split()[-1] for item in found.hops if item.name == "router"] == ["r", "r2"]
    scene.routers["r2"] = replace(scene.routers["r2"], routes=(("0.0.0.0/0", "10.0.1.1"),))
    scene.routers["r"] = replace(scene.routers["r"], routes=(("172.16.0.0/12", "10.0.1.254"),))
    found = scene.explain("client", "172.16.1.1")
    assert found.culprit is not None
    assert "circle" in found.culprit.why


def test_a_guest_that_routes_is_unknown(scene: Scene) -> None:
    scene.subnets["s-a"] = replace(scene.subnets["s-a"], host_routes=(("172.16.0.0/12", "10.0.0.3"),))
    found = scene.explain("client", "172.16.1.1")
    assert (found.verdict, found.culprit and found.culprit.name) == ("unknown", "next hop")


def test_without_source_nat_the_answer_is_unknown(scene: Scene) -> None:
    scene.routers["r"] = replace(scene.routers["r"], enable_snat=False)
    found = scene.explain("client", "outside")
    assert (found.verdict, found.culprit and found.culprit.name) == ("unknown", "source NAT")
    assert scene.explain("web", "outside").verdict == "arrives"


def test_vpn_clients_and_unknown_owners(scene: Scene) -> None:
    scene.port("laptop", "a", "10.0.0.200", owner="network:vpn_client", groups=("g",))
    for source, destination in (("laptop", "web"), ("web", "laptop")):
        found = scene.explain(source, destination)
        assert "VPN" in [item.name for item in found.hops], words(found)
        assert found.verdict == "arrives", words(found)
    scene.port("odd", "a", "10.0.0.201", owner="network:something_later", host="host2")
    assert scene.explain("odd", "web").hops
    assert scene.explain("web", "odd").hops


def test_metadata_is_answered_by_the_networks_service(scene: Scene) -> None:
    found = scene.explain("client", "169.254.169.254", "80/tcp")
    assert found.verdict == "arrives"
    assert hop(found, "service").where.startswith("host1")


def test_another_mac_that_answers_is_told(scene: Scene) -> None:
    asked = scene.needs("client", "web")
    imposter = (Neighbour("a", "10.0.0.3", "fa:16:3e:99:99:99", "REACHABLE"),)
    found = scene.explain("client", "web", told={"host1": scene.as_planned("host1", asked, neighbours=imposter)})
    assert (found.verdict, found.culprit and found.culprit.name) == ("dropped", "destination address")
    scene.ports["web"] = replace(scene.ports["web"], pairs=("10.0.0.3/32",))
    found = scene.explain("client", "web", told={"host1": scene.as_planned("host1", asked, neighbours=imposter)})
    assert found.verdict == "arrives"


def test_a_member_is_told_no_host_and_no_router_of_others(scene: Scene) -> None:
    scene.routers["r"] = replace(scene.routers["r"], project_id="another", name="their-secret-router")
    broken = Deviation("router r", "r", "kn-r-r", "link", "intsecret-a", "up", "up", "down")
    gone = Deviation("router r", "r", "kn-r-secret", "namespace", "kn-r-secret", wanted="there")
    told = scene.as_planned("host1", scene.needs("client", "far"), deviations=(broken, gone))
    found = scene.explain("client", "far", told={"host1": told}, project_id="p")
    assert found.verdict == "dropped"
    assert not any(f"host{number}" in words(found) for number in (1, 2, 3))
    assert "secret" not in words(found)


def test_a_member_is_told_nothing_of_the_machine(scene: Scene) -> None:
    silence = "network.host1 did not answer observe within 4 s"
    failed = dict.fromkeys(("", "client", "web", "r"), "radvd -C /secret/path: no")
    odd = scene.as_planned(
        "host1",
        scene.needs("client", "far"),
        planned=(),
        failures=failed,
        foreign_tables=dict.fromkeys(("kn-switch", "kn-r-r"), ("secret",)),
    )
    answers: tuple[Observation | str, ...] = (silence, odd)
    for told in answers:
        found = scene.explain("client", "far", told={"host1": told}, project_id="p")
        assert found.verdict != "arrives"
        assert not any(word in words(found) for word in ("host1", "secret", "ip netns")), words(found)
        operators = words(scene.explain("client", "far", told={"host1": told}))
        assert "host1" in operators
        assert "secret" in operators or told is silence


def test_allowed_pairs_and_port_security_open_what_they_say(scene: Scene) -> None:
    spoofed = "10.0.0.77"
    found = scene.explain("client", "web", source_address=spoofed)
    assert (found.verdict, found.culprit and found.culprit.name) == ("dropped", "anti-spoofing")
    scene.ports["client"] = replace(scene.ports["client"], pairs=("10.0.0.64/26",))
    assert scene.explain("client", "web", source_address=spoofed).verdict == "arrives"
    scene.ports["client"] = replace(scene.ports["client"], pairs=(), secured=False)
    assert scene.explain("client", "web", source_address=spoofed).verdict == "arrives"


def test_a_remote_group_counts_its_members_where_routers_bring_them(scene: Scene) -> None:
    within = [rule for rule in EVERYTHING if rule.direction == "egress"]
    from kilonova.cloud.explain.rows import Rule

    within.append(Rule("r-in", "ingress", "IPv4", None, None, None, None, "g"))
    scene.groups["g"] = Group("g", "default", tuple(within))
    assert scene.explain("client", "web").verdict == "dropped"
    scene.members = {("g", "a", "10.0.0.4")}
    assert scene.explain("client", "web").verdict == "arrives"
    assert scene.explain("client", "far").verdict == "arrives"
    found = scene.explain("outside", "web")
    assert found.culprit is not None
    assert found.culprit.command.endswith("--ingress --protocol icmp g")


def test_simulated_hosts_do_as_planned(scene: Scene) -> None:
    asked = scene.needs("client", "far")
    told = {host: replace_told(scene.as_planned(host, asked), simulated=True) for host in asked.needs}
    assert scene.explain("client", "far", told=told).verdict == "arrives"


@pytest.mark.parametrize(
    ("text", "traffic"),
    [
        ("80/tcp", Traffic("tcp", 6, 80)),
        ("tcp/80", Traffic("tcp", 6, 80)),
        ("53/UDP", Traffic("udp", 17, 53)),
        ("icmp", Traffic()),
        ("1", Traffic()),
        ("gre", Traffic("gre", 47)),
        ("112", Traffic("112", 112)),
    ],
)
def test_traffic_is_read(text: str, traffic: Traffic) -> None:
    assert parse_traffic(text) == traffic


@pytest.mark.parametrize(
    "text", ["", "tcp", "80", "80/", "0/tcp", "65536/tcp", "80/icmp", "x/tcp", "http", "256", "-1"]
)
def test_traffic_that_is_none_is_refused(text: str) -> None:
    if text == "80":
        assert parse_traffic(text).number == 80
        return
    with pytest.raises(BadRequest, match="traffic"):
        parse_traffic(text)
