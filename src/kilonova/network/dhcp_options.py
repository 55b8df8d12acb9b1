"""DHCP options of single ports (`extra_dhcp_opts`): which may be set, and to what. Pure.

A value that does not fit its option would make dnsmasq refuse all it reads, for every port of the network; hence only
options whose values can be told right from wrong here. Sources: RFC 2132, RFC 3397, RFC 8415; `dnsmasq --help dhcp`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from kilonova.errors import BadRequest
from kilonova.network.texts import is_domain_name, plain_address, plain_network

FIRST_PRIVATE, LAST_PRIVATE = 224, 254
"""Numbers that mean what a site wants (RFC 3942)."""
LONGEST_VALUE = 200
MOST_OPTIONS = 20
_TEXT = re.compile(r"[A-Za-z0-9._:/@+=?&%~-]+")
"""Nothing that dnsmasq reads as a separator, a quotation, a comment or a wildcard."""
_LIKE_ADDRESS = re.compile(r"[0-9./]+")

Check = Callable[[str], str | None]
"""The value as dnsmasq shall read it; none: it is no value of the option."""


def _addresses(version: int) -> Check:
    def check(value: str) -> str | None:
        try:
            found = [plain_address(word.strip().strip("[]")) for word in value.split(",")]
        except ValueError:
            return None
        if any(address.version != version for address in found):
            return None
        return ",".join(f"[{address}]" if version == 6 else str(address) for address in found)

    return check


def _number(first: int, last: int) -> Check:
    return lambda value: value if value.isascii() and value.isdigit() and first <= int(value) <= last else None


def _text(value: str) -> str | None:
    return value if _TEXT.fullmatch(value) else None


def _private(value: str) -> str | None:
    """dnsmasq takes what is made of digits, dots and slashes alone for an address, and gives up where it is none."""
    if _LIKE_ADDRESS.fullmatch(value) and not value.isdigit():
        return value if _addresses(4)(value) == value else None
    return _text(value)


def _domain(value: str) -> str | None:
    return value.rstrip(".") if is_domain_name(value) else None


def _domains(value: str) -> str | None:
    words = [_domain(word.strip()) for word in value.split(",")]
    return ",".join(word for word in words if word) if all(words) else None


def _routes(value: str) -> str | None:
    words = [word.strip() for word in value.split(",")]
    try:
        routes = [(plain_network(net), plain_address(hop)) for net, hop in zip(words[::2], words[1::2], strict=True)]
    except ValueError:
        return None
    right = all(network.version == hop.version == 4 for network, hop in routes)
    return ",".join(f"{network},{hop}" for network, hop in routes) if right else None


_FOURTH: Mapping[str, tuple[int, Check]] = {
    "router": (3, _addresses(4)),
    "dns-server": (6, _addresses(4)),
    "log-server": (7, _addresses(4)),
    "domain-name": (15, _domain),
    "root-path": (17, _text),
    "mtu": (26, _number(68, 65535)),
    "ntp-server": (42, _addresses(4)),
    "netbios-ns": (44, _addresses(4)),
    "T1": (58, _number(0, 2**32 - 1)),
    "T2": (59, _number(0, 2**32 - 1)),
    "tftp-server": (66, _text),
    "bootfile-name": (67, _text),
    "domain-search": (119, _domains),
    "classless-static-route": (121, _routes),
}
_SIXTH: Mapping[str, tuple[int, Check]] = {
    "dns-server": (23, _addresses(6)),
    "domain-search": (24, _domains),
    "sntp-server": (31, _addresses(6)),
    "bootfile-url": (59, _text),
}


def option_text(name: str, value: str, version: int) -> str | None:
    """The option as a line of dnsmasq names it, without its tag; none if there is no such option or value."""
    known = _SIXTH if version == 6 else _FOURTH
    if name.isascii() and name.isdigit() and len(name) <= 3:
        name = next((word for word, (number, _) in known.items() if number == int(name)), name)
    prefix = "option6" if version == 6 else "option"
    if len(value) > LONGEST_VALUE:
        return None
    if name in known:
        checked = known[name][1](value)
    elif version == 4 and name.isascii() and name.isdigit() and FIRST_PRIVATE <= int(name) <= LAST_PRIVATE:
        return None if _private(value) is None else f"{int(name)},{value}"
    else:
        return None
    return None if checked is None else f"{prefix}:{name},{checked}"


def changed_options(before: Sequence[Mapping[str, Any]], wanted: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A port's options after a change: those that are named are set, or with no value taken away; others stay.

    Raises `BadRequest` naming an option that there is not or that has a wrong value.
    """
    options = {(item["opt_name"], item.get("ip_version", 4)): item.get("opt_value") for item in before}
    for item in wanted:
        name, value, version = item.get("opt_name") or "", item.get("opt_value"), item.get("ip_version", 4)
        if version not in (4, 6):
            raise BadRequest(f"extra_dhcp_opts: the ip_version of {name} is {version}, not 4 or 6.")
        if value is None:
            options.pop((name, version), None)
            continue
        if option_text(name, value, version) is None:
            raise BadRequest(
                f"extra_dhcp_opts: {name!r} with the value {value!r} is no DHCPv{version} option that a port can have: "
                f"{', '.join(_SIXTH if version == 6 else (*_FOURTH, f'{FIRST_PRIVATE} to {LAST_PRIVATE}'))}."
            )
        options[name, version] = value
    if len(options) > MOST_OPTIONS:
        raise BadRequest(f"extra_dhcp_opts: {len(options)} are more than {MOST_OPTIONS}.")
    return [{"opt_name": name, "opt_value": value, "ip_version": version} for (name, version), value in options.items()]
