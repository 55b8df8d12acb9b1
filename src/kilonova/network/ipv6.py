"""How guests of an IPv6 subnet get their addresses: the modes of the Networking API and what they imply. Pure.

`ipv6_ra_mode` says what the cloud's router announces (none: an external router does), `ipv6_address_mode` what the
cloud's DHCPv6 server does. A guest of a subnet with automatic addresses makes its address of its MAC (EUI-64).
Source: Networking API v2.0, "Subnets"; RFC 4291, appendix A; RFC 4862.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, IPv6Network

SLAAC = "slaac"
STATEFUL = "dhcpv6-stateful"
STATELESS = "dhcpv6-stateless"
MODES = (SLAAC, STATEFUL, STATELESS)

AUTOMATIC_PREFIX = 64
"""The length of a prefix of which guests make addresses (RFC 4862, section 5.5.3; RFC 4291, section 2.5.1)."""
LEAST_DHCP_PREFIX = 64
"""dnsmasq serves no shorter prefix."""
LEAST_MTU = 1280
"""RFC 8200, section 5: over a smaller link there is no IPv6."""


def is_automatic(address_mode: str | None, ra_mode: str | None) -> bool:
    """Do guests make their addresses themselves, of the announced prefix?"""
    return bool({address_mode, ra_mode} & {SLAAC, STATELESS})


def gives_addresses(address_mode: str | None, ra_mode: str | None) -> bool:
    """Does the cloud's DHCPv6 server hand out the addresses? Where no mode is set an external router may tell guests to
    ask it."""
    return address_mode == STATEFUL or (address_mode is None and ra_mode is None)


def eui64(cidr: str, mac: str) -> str:
    """The address that a guest with this MAC makes of a /64."""
    return str(IPv6Network(cidr).network_address + _interface_id(mac))


@lru_cache(maxsize=16384)
def link_local(mac: str) -> str:
    """The link-local address that a guest makes of its MAC."""
    return str(IPv6Address(b"\xfe\x80" + bytes(14)) + _interface_id(mac))


def _interface_id(mac: str) -> int:
    octets = bytes.fromhex(mac.replace(":", ""))
    return int.from_bytes(bytes([octets[0] ^ 2, octets[1], octets[2], 0xFF, 0xFE, *octets[3:]]))
