"""Choosing the type of a project's network: pure, explained, and true for all pools and hosts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kilonova.config import NetworkConfig
from kilonova.errors import BadRequest, NoMoreNetworks
from kilonova.network.managers import NAMES, able_hosts, manager_named
from kilonova.network.managers.wires import HostWires, wires_of
from kilonova.scheduler.network_type import Offer, choose

WEIGHTS = NetworkConfig().type_weights
ALL_WIRES = {
    "trunks": ["physnet1"],
    "flat_bridges": {"lan": "br-lan"},
    "tunnel": {"address": "192.0.2.1", "mtu": 1500},
    "groups": True,
}


def host(name: str = "a", **capacity: object) -> HostWires:
    return wires_of(name, {**ALL_WIRES, **capacity})


def offer(manager: str, free: int = 1, total: int = 2, position: int = 0) -> Offer:
    where = {"vlan": "physnet1", "vxlan": "vxlan"}.get(manager, "lan")
    return Offer(manager, where, total, free, position)


EVERYTHING = [offer(name) for name in NAMES]


def test_vlan_is_preferred_then_vxlan_then_flat_with_and_without_dhcp() -> None:
    left = list(EVERYTHING)
    chosen = []
    while left:
        decision = choose(left, [host()], WEIGHTS)
        chosen.append(decision.offer.manager)
        left = [item for item in left if item.manager != chosen[-1]]
    assert chosen == ["vlan", "vxlan", "flat-dhcp", "flat"]


def test_the_verdicts_name_every_type_and_why_the_chosen_first() -> None:
    decision = choose([offer("vlan", free=0, total=7), offer("vxlan", free=3, total=9)], [host()], WEIGHTS)
    said = [(item["manager"], item["possible"]) for item in decision.documents()]
    assert said == [("vxlan", True), ("vlan", False), ("flat-dhcp", False), ("flat", False)]
    reasons = {verdict.manager: verdict.reason for verdict in decision.verdicts}
    assert reasons["vxlan"] == "the only one to choose from: 3 of 9 networks free, on a"
    assert reasons["vlan"] == "all 7 networks on physnet1 are assigned or still held"
    assert "kilonova network create --manager flat" in reasons["flat"]


def test_a_preference_wins_over_weights_and_says_whose_it_is() -> None:
    decision = choose(EVERYTHING, [host()], WEIGHTS, requested="flat", requested_by="project p")
    assert (decision.offer.manager, decision.requested) == ("flat", "flat")
    assert decision.verdicts[0].reason.startswith("preferred by project p: lan has addresses left")


@pytest.mark.parametrize(
    ("name", "lacks", "why"),
    [
        ("vlan", {"trunks": ["physnet2"]}, r"a: no trunk for physnet1; b: no trunk.*--trunk physnet1="),
        ("vxlan", {"tunnel": None}, r"a: no tunnel.*--tunnel"),
        ("flat", {"flat_bridges": {}}, r"a: no bridge for lan.*--flat lan="),
        ("flat-dhcp", {"flat_bridges": {"dmz": "br-dmz"}}, r"b: no bridge for lan"),
        ("vlan", {"groups": False}, r"a: cannot enforce security groups"),
    ],
)
def test_an_impossible_preference_says_why_and_what_to_do(name: str, lacks: dict[str, object], why: str) -> None:
    hosts = [host("a", **lacks), host("b", **lacks)]
    with pytest.raises(NoMoreNetworks, match=rf"The network type {name}, preferred by the request, is not.*{why}"):
        choose(EVERYTHING, hosts, WEIGHTS, requested=name)


def test_one_host_alone_needs_neither_trunk_nor_tunnel_but_the_bridge() -> None:
    alone = host(trunks=[], tunnel=None, flat_bridges={})
    for name in ("vlan", "vxlan"):
        assert choose(EVERYTHING, [alone], WEIGHTS, requested=name).hosts == ("a",)
    with pytest.raises(NoMoreNetworks, match="no bridge for lan"):
        choose(EVERYTHING, [alone], WEIGHTS, requested="flat")


def test_a_cloud_without_a_live_host_gives_networks_that_are_placed_later() -> None:
    assert choose(EVERYTHING, [], WEIGHTS).hosts == ()
    with pytest.raises(NoMoreNetworks, match="no network host is alive"):
        choose(EVERYTHING, [], WEIGHTS, requested="flat-dhcp")


def test_without_anything_left_the_error_says_so_of_every_type_there_is() -> None:
    with pytest.raises(NoMoreNetworks, match=r"the pool is empty.*kilonova network create"):
        choose([], [host()], WEIGHTS)
    with pytest.raises(NoMoreNetworks, match="flat: no address is left on lan; vlan: all 2 networks"):
        choose([offer("vlan", free=0), offer("flat", free=0)], [host()], WEIGHTS)


def test_a_type_without_weight_is_for_requests_only() -> None:
    weights = WEIGHTS | {"vlan": 0.0}
    decision = choose(EVERYTHING, [host()], weights)
    assert decision.offer.manager == "vxlan"
    assert [verdict.reason for verdict in decision.verdicts if verdict.manager == "vlan"] == [
        "only on request: 1 of 2 networks on physnet1 free, on a"
    ]
    assert choose(EVERYTHING, [host()], weights, requested="vlan").offer.manager == "vlan"
    with pytest.raises(NoMoreNetworks, match="vlan: only on request"):
        choose([offer("vlan")], [host()], weights)


def test_a_type_that_is_none_is_refused() -> None:
    with pytest.raises(BadRequest, match="token-ring"):
        choose(EVERYTHING, [host()], WEIGHTS, requested="token-ring")


capacities = st.fixed_dictionaries(
    {
        "trunks": st.lists(st.sampled_from(["physnet1", "physnet2"]), max_size=2),
        "flat_bridges": st.sampled_from([{}, {"lan": "br-lan"}]),
        "tunnel": st.sampled_from([None, {"address": "192.0.2.1", "mtu": 1500}]),
        "groups": st.booleans(),
    }
)
clouds = st.lists(capacities, max_size=4)
pools = st.lists(
    st.builds(offer, st.sampled_from(NAMES), st.integers(0, 2), st.just(2), st.integers(0, 9)),
    max_size=6,
    unique_by=lambda item: item.manager,
)


@given(pools, clouds, st.sampled_from([None, *NAMES]), st.randoms())
def test_what_is_chosen_is_free_and_can_be_carried_whatever_the_order(
    pool: list[Offer], cloud: list[dict[str, object]], requested: str | None, random: object
) -> None:
    hosts = [wires_of(f"host{i}", capacity) for i, capacity in enumerate(cloud)]
    possible = [
        item.manager
        for item in pool
        if item.free and not able_hosts(manager_named(item.manager), item.physical_network, hosts)[1]
    ]
    try:
        decision = choose(pool, hosts, WEIGHTS, requested=requested)
    except NoMoreNetworks:
        assert requested not in possible if requested else not possible
        return
    manager = manager_named(decision.offer.manager)
    assert decision.offer.manager in possible
    assert requested in (None, decision.offer.manager)
    assert set(decision.hosts) == set(able_hosts(manager, decision.offer.physical_network, hosts)[0])
    assert next(verdict.manager for verdict in decision.verdicts if verdict.possible) == decision.offer.manager
    assert sorted(verdict.manager for verdict in decision.verdicts) == sorted(NAMES)
    random.shuffle(pool)  # type: ignore[attr-defined]
    assert choose(pool, hosts, WEIGHTS, requested=requested).offer == decision.offer
