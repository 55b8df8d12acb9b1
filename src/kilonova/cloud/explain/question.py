"""What is asked: which packet, from where to where. Pure; names are looked up by `kilonova.cloud.explain.rows`."""

from __future__ import annotations

from dataclasses import dataclass

from kilonova.errors import BadRequest
from kilonova.network.group_rules import ICMP, ICMPV6, PROTOCOL_NUMBERS, WITH_PORTS

OUTSIDE = "outside"
"""What is beyond the public gateway."""
_ECHO_REQUEST = {ICMP: 8, ICMPV6: 128}


@dataclass(frozen=True)
class Traffic:
    """The first packet of a flow: its protocol, and the port where that has ports."""

    name: str = "icmp"
    number: int = ICMP
    port: int | None = None

    def of_version(self, version: int) -> Traffic:
        """ICMP means ICMPv6 between IPv6 addresses."""
        return Traffic(self.name, ICMPV6) if version == 6 and self.number == ICMP else self

    @property
    def icmp_type(self) -> int | None:
        return _ECHO_REQUEST.get(self.number)

    def __str__(self) -> str:
        return self.name if self.port is None else f"{self.port}/{self.name}"


@dataclass(frozen=True)
class Question:
    """`source` and `destination`: an instance (name or id), a port's id, an address, or `outside`."""

    source: str
    destination: str
    traffic: Traffic = Traffic()
    project: str | None = None
    """Where names and addresses are looked up, if not in all projects that the caller may see."""
    source_address: str | None = None
    """As if the source sent from this address, whether it may or not."""


def parse_traffic(text: str) -> Traffic:
    """`80/tcp`, `53/udp`, `icmp`, or another protocol's name or number. Raises `BadRequest` naming the field."""
    if not text.isascii():  # what Unicode calls a digit need not be a number
        raise BadRequest(f"traffic: '{text}' is not PORT/PROTOCOL such as 80/tcp, 53/udp, or icmp.")
    first, separator, second = text.strip().lower().partition("/")
    port_text, name = (first, second) if separator else ("", first)
    if separator and not first.isdigit() and second.isdigit():
        port_text, name = second, first
    number = PROTOCOL_NUMBERS.get(name, int(name) if name.isdigit() else -1)
    if not 0 <= number <= 255:
        raise BadRequest(f"traffic: '{text}' is not PORT/PROTOCOL such as 80/tcp, 53/udp, or icmp.")
    name = next((known for known, value in (("tcp", 6), ("udp", 17), ("icmp", ICMP)) if value == number), name)
    if number not in WITH_PORTS:
        if port_text:
            raise BadRequest(f"traffic: '{text}': {name} has no ports.")
        return Traffic(name, number)
    if not port_text.isdigit() or not 0 < int(port_text) < 65536:
        raise BadRequest(f"traffic: '{text}': {name} needs a port between 1 and 65535, such as 80/{name}.")
    return Traffic(name, number, int(port_text))
