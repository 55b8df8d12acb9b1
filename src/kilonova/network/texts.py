"""Texts of users that end up in what other programs read: addresses in nft rules and dnsmasq's options, names of hosts.

`ipaddress` takes any characters behind the `%` of an IPv6 zone (RFC 4007), line breaks and braces included, and keeps
them in the text. A zone means something on one host only, so none is ever right here.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_LONGEST_NAME = 253
LARGEST_PAIR = 256
"""An allowed address pair of more addresses than this is refused: port security off says the same cheaper."""


def plain_address(text: str) -> IPv4Address | IPv6Address:
    """An address without a zone. Raises `ValueError`."""
    _refuse_zone(text)
    return ip_address(text)


def plain_network(text: str) -> IPv4Network | IPv6Network:
    """A CIDR without a zone; host bits are cut off. Raises `ValueError`."""
    _refuse_zone(text)
    return ip_network(text, strict=False)


def is_domain_name(text: str) -> bool:
    """Whether it is a host's or a domain's name (RFC 1123), with or without a dot at its end."""
    return len(text) <= _LONGEST_NAME and _DOMAIN_NAME.fullmatch(text) is not None


def _refuse_zone(text: str) -> None:
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
