"""MAC addresses of ports: locally administered, with the prefix that OpenStack's clouds use."""

from __future__ import annotations

import re
import secrets

from sqlalchemy import Connection, select

from kilonova.errors import BadRequest
from kilonova.network.errors import MacAddressInUse
from kilonova.store import statements
from kilonova.store.schema import ports

PREFIX = "fa:16:3e"

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def new_mac(tx: Connection) -> str:
    """A MAC that no port has; the constraint on the column catches what a concurrent transaction took."""
    while True:
        tail = secrets.token_bytes(3)
        mac = f"{PREFIX}:{tail[0]:02x}:{tail[1]:02x}:{tail[2]:02x}"
        if statements.rows(tx, ports, mac=mac).first() is None:
            return mac


def canonical_mac(text: str) -> str:
    """Lower case with colons. Raises `BadRequest` for what is no MAC of a single station."""
    mac = text.strip().lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise BadRequest(f"mac_address: '{text}' is not a valid MAC address")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise BadRequest(f"mac_address: '{text}' is not the address of a single station")
    return mac


def chosen_mac(tx: Connection, text: str, *, port_id: str = "") -> str:
    """The MAC a caller asks for. Raises `MacAddressInUse` when another port has it, `BadRequest` when it is none."""
    mac = canonical_mac(text)
    if tx.execute(select(ports.c.id).where(ports.c.mac == mac, ports.c.id != port_id)).first() is not None:
        raise MacAddressInUse(f"The mac address {mac} is already in use by another port.")
    return mac
