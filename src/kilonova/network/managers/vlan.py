"""The VLAN manager: one VLAN of the trunk and one bridge per network, made on demand on every host that needs it."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from sqlalchemy import Connection

from kilonova.config import Config
from kilonova.errors import BadRequest
from kilonova.network.managers.segments import RESERVED, SegmentIds, least_free_id
from kilonova.network.managers.wires import HostWires

IDS = SegmentIds(1, 4094, "VLAN ids")
"""IEEE 802.1Q: 0 means no VLAN, 4095 is reserved."""


class VlanManager:
    name = "vlan"
    network_type = "vlan"
    is_shared = False
    has_dhcp = True
    id_noun = "VLAN id"

    def physical_network(self, config: Config, asked: str) -> str:
        if asked in RESERVED:
            raise BadRequest(f"physical_network: {asked} is no trunk; the name is reserved.")
        return asked or config.network.physical_network

    def check(self, physical_network: str, first: int, last: int) -> None:
        IDS.check(first, last, f" on {physical_network}")

    def free_id(self, tx: Connection, config: Config, physical_network: str) -> int:
        first, last = config.network.user_vlan_first, config.network.user_vlan_last
        full = (
            f"All VLAN ids from {first} to {last} of {physical_network} are in use: delete networks, "
            "or have an administrator name another id (provider:segmentation_id)."
        )
        return least_free_id(tx, physical_network, first, last, full=full)

    def bridge_name(
        self, config: Config, physical_network: str, segmentation_id: int | None, hosts: Sequence[HostWires]
    ) -> str:
        """`br<id>`; another physical network than the default one adds a mark, as a host may have both."""
        if physical_network == config.network.physical_network:
            return f"br{segmentation_id}"
        return f"br{segmentation_id}-{crc32(physical_network.encode()):08x}"

    def unmet_need(self, physical_network: str, host: HostWires, is_alone: bool) -> str | None:
        if is_alone or not host.told or physical_network in host.trunks:
            return None
        return f"no trunk for {physical_network}"

    def advice(self, physical_network: str) -> str:
        return f"`kilonova up --trunk {physical_network}=DEVICE` gives a host one"

    def mtu(self, config: Config, hosts: Sequence[HostWires]) -> int:
        return config.network.mtu
