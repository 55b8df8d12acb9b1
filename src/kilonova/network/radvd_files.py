"""What a router's radvd reads: one file for all its legs. Pure.

The digest of the text is part of the file's name, so a running process tells by its command line what it announces.
Sources: radvd.conf(5); RFC 4861, section 6.2.1; RFC 8106.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from kilonova.network.fragments import inside_device
from kilonova.network.ipv6 import LEAST_MTU
from kilonova.network.plan import InterfacePlan, RouterPlan

LEAST_INTERVAL_S, LARGEST_INTERVAL_S = 30, 100
"""Between announcements that nobody asked for; a guest's question is answered at once."""
LIFETIME_S = 1800
"""How long a guest keeps its default route when it hears nothing more: longer than an agent's absence."""


@dataclass(frozen=True)
class RadvdFiles:
    config_name: str
    config: str


def radvd_files(plan: RouterPlan) -> RadvdFiles | None:
    """None: the router has nothing to announce."""
    legs = [_leg(interface) for interface in plan.interfaces if interface.advertisement is not None]
    if not legs:
        return None
    config = "".join(legs)
    return RadvdFiles(f"radvd-{hashlib.sha256(config.encode()).hexdigest()[:16]}.conf", config)


def _leg(interface: InterfacePlan) -> str:
    announced = interface.advertisement
    assert announced is not None
    lines = [
        "AdvSendAdvert on;",
        f"MinRtrAdvInterval {LEAST_INTERVAL_S};",
        f"MaxRtrAdvInterval {LARGEST_INTERVAL_S};",
        f"AdvDefaultLifetime {LIFETIME_S};",
        f"AdvManagedFlag {_switch(announced.managed)};",
        f"AdvOtherConfigFlag {_switch(announced.other)};",
    ]
    if interface.mtu >= LEAST_MTU:
        lines.append(f"AdvLinkMTU {interface.mtu};")
    for prefix in announced.prefixes:
        lines.append(f"prefix {prefix.cidr} {{ AdvOnLink on; AdvAutonomous {_switch(prefix.automatic)}; }};")
    if announced.dns:
        lines.append(f"RDNSS {' '.join(announced.dns[:_MOST_SERVERS])} {{ AdvRDNSSLifetime {LIFETIME_S}; }};")
    if not _NO_DOMAIN.fullmatch(announced.domain):
        lines.append(f"DNSSL {announced.domain} {{ AdvDNSSLLifetime {LIFETIME_S}; }};")
    body = "".join(f"    {line}\n" for line in lines)
    return f"interface {inside_device(interface)}\n{{\n{body}}};\n"


_NO_DOMAIN = re.compile(
    r"[0-9]+(\.[0-9]+)?|abro|clients|high|infinity|interface|low|medium|nat64prefix|off|on|prefix|route|DNSSL|RDNSS"
    r"|(Adv|AutoIgnore|Base6|Decrement|Deprecate|Flush|HomeAgent|Ignore|Max|Min|Remove|Unicast)[A-Za-z0-9]+"
)
"""Words and numbers of radvd's own language: as a domain they are refused with the whole file."""
_MOST_SERVERS = 3
"""radvd takes no more in one option."""


def _switch(value: bool) -> str:
    return "on" if value else "off"
