"""Segment ids of networks that users make: the least one that neither a network nor the pool has."""

from __future__ import annotations

from sqlalchemy import Connection, select, union_all

from kilonova.store.schema import networks, pool_networks


def least_free_id(tx: Connection, physical_network: str, first: int, last: int) -> int | None:
    """From `first` to `last`, both included; none: all are taken. The cost grows with what is taken."""
    taken = union_all(
        *(
            select(table.c.segmentation_id).where(
                table.c.physical_network == physical_network, table.c.segmentation_id.between(first, last)
            )
            for table in (networks, pool_networks)
        )
    )
    used = set(tx.execute(taken).scalars())
    return next((number for number in range(first, last + 1) if number not in used), None)
