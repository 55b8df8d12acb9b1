"""The keys that tokens are signed with, shared by all API processes through the store."""

from __future__ import annotations

import secrets

from sqlalchemy import Connection, insert, select

from kilonova.store.schema import signing_keys


def load(tx: Connection) -> dict[str, bytes]:
    """Every key by its id, oldest first: the last one signs."""
    rows = tx.execute(select(signing_keys.c.id, signing_keys.c.secret).order_by(signing_keys.c.created_at))
    return {row.id: bytes(row.secret) for row in rows}


def ensure(tx: Connection) -> dict[str, bytes]:
    """Make a key if there is none; the keys as `load` gives them."""
    if not load(tx):
        tx.execute(insert(signing_keys).values(id=secrets.token_hex(4), secret=secrets.token_bytes(32)))
    return load(tx)
