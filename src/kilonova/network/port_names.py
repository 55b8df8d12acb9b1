"""The names under which a network's name server knows the addresses of a port. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from kilonova.network.texts import is_domain_name

DEFAULT_DOMAIN = "kilonova.internal"
"""Of a network that names none."""


def domain_of(dns_domain: str | None) -> str:
    """The domain of a network, without a dot at its end."""
    return plain_name(dns_domain) or DEFAULT_DOMAIN


def names_of(addresses: Iterable[str], dns_name: str | None, hostname: str | None) -> dict[str, tuple[str, ...]]:
    """Address -> its names without the domain: the chosen one, which the reverse says, and that of its server.

    An address without either is called after itself, one of IPv6 after the port's first IPv4 address if there is one.
    """
    listed = sorted(addresses)
    chosen, own = plain_name(dns_name), plain_name(hostname)
    fourth = next((address for address in listed if ":" not in address), None)
    found: dict[str, tuple[str, ...]] = {}
    for address in listed:
        unnamed = fourth if fourth and ":" in address else address
        name = own or chosen or "host-" + unnamed.replace(".", "-").replace(":", "-")
        found[address] = tuple(dict.fromkeys((chosen or name, name)))
    return found


def full_name(name: str, domain: str) -> str:
    return name if name == domain or name.endswith(f".{domain}") else f"{name}.{domain}"


def plain_name(text: str | None) -> str:
    """The name, or nothing if it is none: whatever a row says, no line of dnsmasq's files is a user's to write."""
    return text.strip(".") if text and is_domain_name(text) else ""
