"""Segment ids: which ones a manager has, and the least that neither a network nor the pool has."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select, union_all

from kilonova.errors import BadRequest, NoMoreNetworks
from kilonova.store.schema import networks, pool_networks

RESERVED = ("public", "vxlan")
"""Physical networks that stand for something else: the external network, and no physical network at all."""


@dataclass(frozen=True)
class SegmentIds:
    """The ids that a manager's networks may have, both ends included."""

    first: int
    last: int
    nouns: str
    """What people call them."""

    def check(self, first: int, last: int, where: str = "") -> None:
        """Raises `BadRequest` when the ids from `first` to `last` do not all exist."""
        if first >= self.first and last <= self.last:
            return
        asked = f"{first} to {last}{where} does not fit" if first != last else f"{first}{where} is none"
        raise BadRequest(f"{self.nouns} go from {self.first} to {self.last}: {asked}")


def least_free_id(tx: Connection, physical_network: str, first: int, last: int, *, full: str) -> int:
    """From `first` to `last`, both included. Raises `NoMoreNetworks` that says `full`.

    The cost grows with what is taken.
    """
    taken = union_all(
        *(
            select(table.c.segmentation_id).where(
                table.c.physical_network == physical_network, table.c.segmentation_id.between(first, last)
            )
            for table in (networks, pool_networks)
        )
    )
    used = set(tx.execute(taken).scalars())
    found = next((number for number in range(first, last + 1) if number not in used), None)
    if found is None:
        raise NoMoreNetworks(full)
    return found
