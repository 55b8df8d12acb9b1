"""The VLAN manager: one VLAN of the trunk and one bridge per network, made on demand on every host that needs it."""

from __future__ import annotations

from zlib import crc32

from sqlalchemy import Connection, select, union_all

from kilonova.config import Config
from kilonova.errors import BadRequest, NoMoreNetworks
from kilonova.store.schema import networks, pool_networks

FIRST_ID = 1
LAST_ID = 4094
"""IEEE 802.1Q: 0 means no VLAN, 4095 is reserved."""


class VlanManager:
    def bridge_name(self, config: Config, physical_network: str, segmentation_id: int) -> str:
        """`br<id>`; another physical network than the default one adds a mark, as a host may have both."""
        if physical_network == config.network.physical_network:
            return f"br{segmentation_id}"
        return f"br{segmentation_id}-{crc32(physical_network.encode()):08x}"

    def check(self, physical_network: str, first: int, last: int) -> None:
        if first < FIRST_ID or last > LAST_ID:
            raise BadRequest(
                f"VLAN ids go from {FIRST_ID} to {LAST_ID}: {first} to {last} on {physical_network} does not fit"
                if first != last
                else f"VLAN ids go from {FIRST_ID} to {LAST_ID}: {first} on {physical_network} is none"
            )

    def free_id(self, tx: Connection, config: Config, physical_network: str) -> int:
        """The least id of the users' range that neither a network nor the pool has."""
        first, last = config.network.user_vlan_first, config.network.user_vlan_last
        taken = union_all(
            *(
                select(table.c.segmentation_id).where(
                    table.c.physical_network == physical_network, table.c.segmentation_id.between(first, last)
                )
                for table in (networks, pool_networks)
            )
        )
        used = set(tx.execute(taken).scalars())
        for number in range(first, last + 1):
            if number not in used:
                return number
        raise NoMoreNetworks(
            f"All VLAN ids from {first} to {last} of {physical_network} are in use: delete networks, "
            "or raise network.user_vlan_last in the configuration."
        )
