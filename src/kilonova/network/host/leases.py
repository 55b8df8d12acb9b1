"""The leases that a dnsmasq has written down, and the commands that make it give one up. Pure.

A line of its file is `EXPIRY MAC ADDRESS NAME CLIENT-ID`; those of DHCPv6 come after `duid SERVER-DUID` and have the
client's IAID in place of the MAC and its DUID in place of the client id.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Lease:
    address: str
    holder: str
    """The client's MAC, or its IAID."""
    client_id: str
    """Or its DUID."""
    server_id: str = ""
    """Of DHCPv6: the server's DUID."""

    def release_command(self, device: str, mac: str) -> list[str]:
        """The program of dnsmasq-utils that says on the device what the client would; `mac` if the lease has none."""
        if self.server_id:
            argv = ["dhcp_release6", "--iface", device, "--ip", self.address, "--iaid", self.holder.lstrip("T")]
            return [*argv, "--client-id", self.client_id, "--server-id", self.server_id]
        argv = ["dhcp_release", device, self.address, self.holder or mac]
        return argv if self.client_id in ("", "*") else [*argv, self.client_id]


def find_leases(text: str, addresses: Collection[str]) -> list[Lease]:
    """The leases of these addresses in the text of a file."""
    server_id = ""
    found: list[Lease] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == "duid":
            server_id = words[1]
        elif len(words) >= 5 and words[2] in addresses:
            found.append(Lease(words[2], words[1], words[4], server_id))
    return found
