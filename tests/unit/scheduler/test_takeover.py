"""Where the networks of a dead host go: what is joined stays together, on a host that can carry it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kilonova.scheduler.takeover import Candidate, Group, Wire, groups, place, unmet_need

TRUNK: dict[str, Any] = {"trunks": ["physnet1"], "tunnel": None, "flat_bridges": {}}
TUNNEL: dict[str, Any] = {"trunks": [], "tunnel": {"address": "192.0.2.1", "mtu": 1500}, "flat_bridges": {}}


def wire(name: str, manager: str = "vlan", physical_network: str = "physnet1") -> Wire:
    return Wire(name, manager, physical_network)


def test_a_router_and_its_networks_are_one_group() -> None:
    found = groups([wire("n1"), wire("n2"), wire("n3")], ["r1"], [("r1", "n1"), ("r1", "n2")], {})
    assert {(tuple(item.network_id for item in group.networks), group.routers) for group in found} == {
        (("n1", "n2"), ("r1",)),
        (("n3",), ()),
    }


def test_a_group_goes_where_the_rest_of_it_lives() -> None:
    (group,) = groups([wire("n1")], ["r1"], [("r1", "n1"), ("r1", "n2")], {"n2": "busy"})
    placement = place([group], [Candidate("idle", 0, TRUNK), Candidate("busy", 50, TRUNK)])
    assert [host for _, host in placement.chosen] == ["busy"]


def test_a_host_without_the_wire_is_passed_over_and_named() -> None:
    placement = place([Group((wire("n1"),), ("r1",))], [Candidate("a", 0, TUNNEL), Candidate("b", 9, TRUNK)])
    assert [host for _, host in placement.chosen] == ["b"]
    placement = place([Group((wire("n1"),), ("r1",))], [Candidate("a", 0, TUNNEL)])
    assert placement.chosen == ()
    assert [why for _, why in placement.left] == ["a: no trunk for physnet1"]


def test_the_only_host_of_a_cloud_needs_no_wire() -> None:
    placement = place([Group((wire("n1"),), ())], [Candidate("a", 0, TUNNEL)], alone=True)
    assert [host for _, host in placement.chosen] == ["a"]


def test_needs_of_every_manager() -> None:
    assert unmet_need(wire("n", "vlan"), TUNNEL) == "no trunk for physnet1"
    assert unmet_need(wire("n", "vxlan", "vxlan"), TRUNK) == "no tunnel for VXLAN"
    assert unmet_need(wire("n", "vxlan", "vxlan"), TUNNEL) == ""
    assert unmet_need(wire("n", "flat-dhcp", "office"), TRUNK) == "no bridge for office"
    assert unmet_need(wire("n", "flat", "office"), {**TRUNK, "flat_bridges": {"office": "br-office"}}) == ""
    assert unmet_need(wire("n", "vlan"), {}) == "", "a host that has told nothing yet is taken for able"


@given(
    joined=st.sets(st.tuples(st.integers(0, 5), st.integers(0, 9)), max_size=12),
    loads=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    without_trunk=st.sets(st.integers(0, 3)),
)
def test_everything_is_placed_once_and_nothing_is_split(
    joined: set[tuple[int, int]], loads: list[int], without_trunk: set[int]
) -> None:
    networks = [wire(f"n{number}") for number in range(10)]
    routers = [f"r{number}" for number in range(6)]
    pairs = [(f"r{router}", f"n{network}") for router, network in joined]
    candidates = [
        Candidate(f"h{number}", load, TUNNEL if number in without_trunk else TRUNK) for number, load in enumerate(loads)
    ]

    placement = place(groups(networks, routers, pairs, {}), candidates)

    where: dict[str, list[str]] = {}
    for group, host in [*placement.chosen, *((group, "") for group, _ in placement.left)]:
        for name in (*(item.network_id for item in group.networks), *group.routers):
            where.setdefault(name, []).append(host)
    assert sorted(where) == sorted([item.network_id for item in networks] + routers)
    assert all(len(hosts) == 1 for hosts in where.values())
    assert all(where[router] == where[network] for router, network in pairs)
    able = {item.host for item in candidates if item.capacity is TRUNK}
    assert {where[item.network_id][0] for item in networks} <= (able or {""})


def test_load_is_spread() -> None:
    wanted = [Group((wire(f"n{number}"),), (f"r{number}",)) for number in range(10)]
    placement = place(wanted, [Candidate("a", 0, TRUNK), Candidate("b", 0, TRUNK)])
    hosts = [host for _, host in placement.chosen]
    assert (hosts.count("a"), hosts.count("b")) == (5, 5)
