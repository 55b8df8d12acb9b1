"""The VXLAN manager: one VXLAN network identifier (VNI) and one bridge per network, over the hosts' tunnels.

It needs no trunk. Who has which address behind which tunnel comes from the store: no multicast, no learning.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from kilonova.config import Config
from kilonova.errors import BadRequest
from kilonova.network.managers.segments import SegmentIds, least_free_id
from kilonova.network.managers.wires import VXLAN_OVERHEAD, HostWires

IDS = SegmentIds(1, (1 << 24) - 1, "VNIs (VXLAN network identifiers)")
"""RFC 7348: 24 bits; 0 is not used."""

NO_PHYSICAL_NETWORK = "vxlan"
"""Stands in the store where other managers name a physical network, so that a VNI is unique."""


class VxlanManager:
    name = "vxlan"
    network_type = "vxlan"
    is_shared = False
    has_dhcp = True
    id_noun = "VNI"

    def physical_network(self, config: Config, asked: str) -> str:
        if asked:
            raise BadRequest(f"physical_network: a VXLAN network is on none, leave {asked} out.")
        return NO_PHYSICAL_NETWORK

    def check(self, physical_network: str, first: int, last: int) -> None:
        IDS.check(first, last)

    def free_id(self, tx: Connection, config: Config, physical_network: str) -> int:
        first, last = config.network.vni_first, min(config.network.vni_last - 1, IDS.last)
        full = (
            f"All VNIs from {first} to {last} are in use: delete networks, or have an administrator name another one "
            "(provider:segmentation_id)."
        )
        return least_free_id(tx, physical_network, first, last, full=full)

    def bridge_name(
        self, config: Config, physical_network: str, segmentation_id: int | None, hosts: Sequence[HostWires]
    ) -> str:
        return f"bv{segmentation_id}"

    def unmet_need(self, physical_network: str, host: HostWires, is_alone: bool) -> str | None:
        return None if is_alone or not host.told or host.tunnel_mtu is not None else "no tunnel for VXLAN"

    def advice(self, physical_network: str) -> str:
        return "`kilonova up --tunnel DEVICE=ADDRESS/LENGTH` gives a host one"

    def mtu(self, config: Config, hosts: Sequence[HostWires]) -> int:
        """What the narrowest tunnel leaves."""
        widths = [host.tunnel_mtu for host in hosts if host.tunnel_mtu is not None]
        return min(widths, default=config.network.mtu - VXLAN_OVERHEAD)
