"""The names of servers: one per server of a request, and the host name made of it."""

from __future__ import annotations

import re

HOSTNAME_LENGTH = 63


def numbered(name: str, index: int, count: int) -> str:
    """`web` becomes `web-1`, `web-2`, ... when several are asked for."""
    return name if count == 1 else f"{name}-{index + 1}"


def hostname_of(name: str, fallback: str) -> str:
    """A name that DNS takes (RFC 1123, one label's length), as nova makes it of a server's name."""
    ascii_name = name.encode("latin-1", "ignore").decode("latin-1")
    words = re.sub(r"[ _]", "-", ascii_name)
    words = re.sub(r"[^a-zA-Z0-9.-]+", "", words).lower().strip(".-")
    if words.replace(".", "").isdigit() and "." in words:
        words = words.replace(".", "-")  # an address must not become a name
    return words[:HOSTNAME_LENGTH].strip(".-") or f"server-{fallback}"[:HOSTNAME_LENGTH]
