"""Security-group rules as nft text. Pure: a rule of the API becomes one statement, or none if it matches nothing.

A group is two chains (`g_ID_in`, `g_ID_out`) and, where a rule names it as the remote group, two sets of its members.
Ports share the chains of their combination of groups. Source: Networking API v2.0, "Security group rules".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from kilonova.network.texts import plain_network

PROTOCOL_NUMBERS = {
    "ah": 51,
    "dccp": 33,
    "egp": 8,
    "esp": 50,
    "gre": 47,
    "hopopt": 0,
    "icmp": 1,
    "icmpv6": 58,
    "igmp": 2,
    "ip": 0,
    "ipip": 4,
    "ipv6-encap": 41,
    "ipv6-frag": 44,
    "ipv6-icmp": 58,
    "ipv6-nonxt": 59,
    "ipv6-opts": 60,
    "ipv6-route": 43,
    "ospf": 89,
    "pgm": 113,
    "rsvp": 46,
    "sctp": 132,
    "tcp": 6,
    "udp": 17,
    "udplite": 136,
    "vrrp": 112,
}
"""Names that clients may use for a protocol number (IANA; the network API's list)."""
WITH_PORTS = frozenset({6, 17, 33, 132, 136})
ICMP, ICMPV6 = 1, 58
ALLOW_IN, ALLOW_OUT = "accept", "goto sg_ingress"


@dataclass(frozen=True)
class GroupRule:
    """A rule as the API stores it; `protocol` a name, a number, or none for any."""

    direction: Literal["ingress", "egress"]
    ethertype: Literal["IPv4", "IPv6"]
    protocol: str | None = None
    port_min: int | None = None
    port_max: int | None = None
    remote_cidr: str | None = None
    remote_group_id: str | None = None


def protocol_number(protocol: str | None, ethertype: str) -> int | None:
    """None: any protocol, as 0 is. ICMP in an IPv6 rule is ICMPv6. Raises `ValueError` for a name that is none."""
    if protocol is None or protocol.lower() in ("any", ""):
        return None
    word = protocol.lower()
    number = PROTOCOL_NUMBERS[word] if word in PROTOCOL_NUMBERS else int(word)
    if not 0 <= number <= 255:
        raise ValueError(f"{protocol} is no IP protocol")
    if number == 0:
        return None
    return ICMPV6 if number == ICMP and ethertype == "IPv6" else number


def compile_rule(rule: GroupRule) -> str | None:
    """The nft statement, its verdict included; `None` when the rule can match no packet."""
    remote = _remote(rule)
    if remote is None:
        return None
    number = protocol_number(rule.protocol, rule.ethertype)
    words = [f"meta nfproto {rule.ethertype.lower()}", remote, _protocol(number, rule)]
    words.append(ALLOW_IN if rule.direction == "ingress" else ALLOW_OUT)
    return " ".join(word for word in words if word)


def compile_rules(rules: Sequence[GroupRule], direction: str) -> tuple[str, ...]:
    """The chain of a group for a direction: its rules without doubles, in a stable order."""
    texts = {compile_rule(rule) for rule in rules if rule.direction == direction}
    return tuple(sorted(text for text in texts if text))


class Match(NamedTuple):
    """What a statement made here lets pass."""

    direction: str
    version: int
    protocol: int | None = None
    ports: tuple[int, int] | None = None
    remote: str = ""
    """A CIDR."""
    remote_group: str = ""
    """The hexadecimal digits of its id."""
    icmp_type: str = ""


_STATEMENT = re.compile(
    r"meta nfproto ipv(?P<version>[46])"
    r"(?: [io]ifname \. ip6? [sd]addr @g_(?P<group>[0-9a-f]+)_m[46])?"
    r"(?: ip6? [sd]addr (?P<remote>\S+))?"
    r"(?: meta l4proto (?P<protocol>\d+))?"
    r"(?: icmp(?:v6)? type (?P<icmp>\d+(?: icmp(?:v6)? code \d+)?))?"
    r"(?: th dport (?P<first>\d+)(?:-(?P<last>\d+))?)?"
    rf" (?P<verdict>{ALLOW_IN}|{ALLOW_OUT})"
)


@lru_cache(maxsize=16384)
def matches(statement: str) -> Match:
    """The reverse of `compile_rule`. Raises `ValueError` for what it did not make."""
    found = _STATEMENT.fullmatch(statement)
    if found is None:
        raise ValueError(f"not a group's rule: {statement}")
    first, last = found["first"], found["last"] or found["first"]
    return Match(
        direction="ingress" if found["verdict"] == ALLOW_IN else "egress",
        version=int(found["version"]),
        protocol=int(found["protocol"]) if found["protocol"] else None,
        ports=(int(first), int(last)) if first else None,
        remote=found["remote"] or "",
        remote_group=found["group"] or "",
        icmp_type=found["icmp"] or "",
    )


def chain_name(group_id: str, direction: str) -> str:
    return f"g_{group_id.replace('-', '')}_{'in' if direction == 'ingress' else 'out'}"


def members_name(group_id: str, version: int) -> str:
    """The set of (bridge, address) of a group's members."""
    return f"g_{group_id.replace('-', '')}_m{version}"


def combination_name(groups: Sequence[str]) -> str:
    """One name per set of groups, in whatever order."""
    return "c_" + hashlib.sha256(",".join(sorted(groups)).encode()).hexdigest()[:16]


def _remote(rule: GroupRule) -> str | None:
    family, version = ("ip", 4) if rule.ethertype == "IPv4" else ("ip6", 6)
    interface, side = ("iifname", "saddr") if rule.direction == "ingress" else ("oifname", "daddr")
    words: list[str] = []
    if rule.remote_group_id:
        words.append(f"{interface} . {family} {side} @{members_name(rule.remote_group_id, version)}")
    if rule.remote_cidr:
        network = plain_network(rule.remote_cidr)
        if network.version != version:
            return None
        if network.prefixlen:
            words.append(f"{family} {side} {network}")
    return " ".join(words)


def _protocol(number: int | None, rule: GroupRule) -> str:
    if number is None:
        return ""
    words = [f"meta l4proto {number}"]
    first, last = rule.port_min, rule.port_max
    if number in (ICMP, ICMPV6):
        name = "icmp" if number == ICMP else "icmpv6"
        if first is not None:
            words.append(f"{name} type {first}")
            if last is not None:
                words.append(f"{name} code {last}")
    elif number in WITH_PORTS and first is not None:
        end = first if last is None else last
        words.append(f"th dport {first}" if first == end else f"th dport {first}-{end}")
    return " ".join(words)
