"""The listening socket: bound before anything else, so that a taken port is the first thing one hears of."""

from __future__ import annotations

import os
import socket

from kilonova.errors import BadRequest


def bind(address: str, port: int) -> socket.socket:
    """A bound TCP socket. Raises `BadRequest` when the address is taken or not this machine's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        listener.close()
        is_unknown = isinstance(error, socket.gaierror)  # its number is the resolver's, not the system's
        why = "not an address" if is_unknown else os.strerror(error.errno or 0)
        raise BadRequest(f"--listen {address}:{port}: {why}") from error
    return listener
