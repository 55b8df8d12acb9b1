"""Segments, bridges, MTUs and ids of each network manager."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Connection, insert

from kilonova.config import Config, NetworkConfig
from kilonova.errors import BadRequest, NoMoreNetworks
from kilonova.ids import new_id
from kilonova.network.managers import NAMES, Segment, manager_named, new_segment
from kilonova.network.managers.wires import wires_of
from kilonova.store.database import Store
from kilonova.store.schema import networks

HOST = wires_of("a", {"trunks": [], "flat_bridges": {"lan": "br-lan"}, "tunnel": {"address": "192.0.2.1", "mtu": 9000}})
NARROW = wires_of("b", {"trunks": [], "flat_bridges": {}, "tunnel": {"address": "192.0.2.2", "mtu": 1500}})


async def segment(store: Store, config: Config, manager: str, physical: str = "", number: int | None = None) -> Segment:
    return await store.read(
        new_segment, config, [HOST], manager=manager, physical_network=physical, segmentation_id=number
    )


async def test_each_manager_names_its_segment_and_bridge(store: Store, config: Config) -> None:
    assert await segment(store, config, "vlan", number=7) == Segment("vlan", "physnet1", 7, "br7")
    assert await segment(store, config, "vxlan", number=2**24 - 1) == Segment("vxlan", "vxlan", 2**24 - 1, "bv16777215")
    assert await segment(store, config, "flat", "lan") == Segment("flat", "lan", None, "br-lan")
    assert await segment(store, config, "flat-dhcp", "lan") == Segment("flat-dhcp", "lan", None, "br-lan")
    other = await segment(store, config, "vlan", "physnet2", 4094)
    assert other.bridge.startswith("br4094-")
    assert len(other.bridge) <= 15


@pytest.mark.parametrize(
    ("manager", "physical", "number", "words"),
    [
        ("vlan", "", 0, "1 to 4094"),
        ("vlan", "", 4095, "4095"),
        ("vlan", "vxlan", 5, "reserved"),
        ("vxlan", "", 0, "16777215"),
        ("vxlan", "", 2**24, "16777216"),
        ("vxlan", "physnet1", 5, "physnet1"),
        ("flat", "", None, "physical_network"),
        ("flat", "lan", 5, "no id"),
        ("flat", "dmz", None, "no live host has a bridge for dmz.*a has lan.*--flat dmz=BRIDGE"),
        ("token-ring", "", None, "token-ring"),
    ],
)
async def test_a_segment_that_cannot_be_is_refused(
    store: Store, config: Config, manager: str, physical: str, number: int | None, words: str
) -> None:
    with pytest.raises(BadRequest, match=words):
        await segment(store, config, manager, physical, number)


def add_network(tx: Connection, made: Segment) -> None:
    tx.execute(insert(networks).values(id=new_id(), project_id="p", **vars(made)))


async def test_users_get_the_least_id_that_is_free_and_then_an_error(store: Store) -> None:
    few = Config(
        Path("/nonexistent"), network=NetworkConfig(user_vlan_first=8, user_vlan_last=9, vni_first=5, vni_last=7)
    )
    for manager, ids in (("vlan", [8, 9]), ("vxlan", [5, 6])):
        for number in ids:
            made = await segment(store, few, manager)
            assert made.segmentation_id == number
            await store.write(add_network, made)
        with pytest.raises(NoMoreNetworks, match=f"{ids[0]} to {ids[-1]}"):
            await segment(store, few, manager)


def test_mtu_is_what_the_narrowest_tunnel_leaves(config: Config) -> None:
    vxlan = manager_named("vxlan")
    assert vxlan.mtu(config, [HOST]) == 8950
    assert vxlan.mtu(config, [HOST, NARROW]) == 1450
    assert vxlan.mtu(config, []) == 1450
    assert {manager_named(name).mtu(config, [NARROW]) for name in NAMES if name != "vxlan"} == {1500}
