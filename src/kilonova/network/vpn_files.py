"""Keys of WireGuard, and the file by which a client connects, in the format of wg-quick(8). Pure but for randomness."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

KEEPALIVE_S = 25
"""So often a client behind somebody's NAT shows that it is there."""


@dataclass(frozen=True)
class Keys:
    """Base64, as WireGuard's tools write them."""

    private: str = field(repr=False)
    public: str


def new_keys() -> Keys:
    """A fresh pair (RFC 7748)."""
    key = X25519PrivateKey.generate()
    private = base64.b64encode(key.private_bytes_raw()).decode()
    return Keys(private, base64.b64encode(key.public_key().public_bytes_raw()).decode())


@dataclass(frozen=True)
class ClientFile:
    """What the file says. Everything but the name is made by this cloud; the name is checked by who makes it."""

    project: str
    user: str
    private_key: str = field(repr=False)
    address: str
    mtu: int
    server_key: str
    endpoint: str
    """ADDRESS:PORT"""
    networks: tuple[str, ...]
    dns: tuple[str, ...] = ()
    """Servers that answer for all names, so that they may become the client's own."""
    local_dns: str = ""
    """A server that only knows the names of the project's network."""

    def text(self) -> str:
        """The file; whoever has it is the client."""
        lines = [
            f"# VPN of project {_plain(self.project)} for {_plain(self.user)}",
            "[Interface]",
            f"PrivateKey = {self.private_key}",
            f"Address = {self.address}/32",
            f"MTU = {self.mtu}",
        ]
        if self.dns:
            lines.append(f"DNS = {', '.join(self.dns)}")
        elif self.local_dns:
            lines.append(f"# {self.local_dns} knows the names of the project's servers, and no others")
        lines += [
            "",
            "[Peer]",
            f"PublicKey = {self.server_key}",
            f"Endpoint = {self.endpoint}",
            f"AllowedIPs = {', '.join(self.networks)}",
            f"PersistentKeepalive = {KEEPALIVE_S}",
        ]
        return "\n".join(lines) + "\n"


def _plain(name: str) -> str:
    """Names are users': no line of the file, which an administrator's machine obeys, is theirs to write."""
    return "".join(character if character.isprintable() else "?" for character in name)
