"""Cuts established flows, in the namespace of the calling thread, so that the rules decide anew about their packets."""

from __future__ import annotations

from collections.abc import Iterable

from kilonova.process import run

MANY = 4
"""From so many addresses of one zone on, the whole zone is cut: what is still allowed goes on with its next packet."""


def cut(flows: Iterable[tuple[int, str]]) -> None:
    """Delete the entries from or to (zone, address); an empty address: of the whole zone."""
    by_zone: dict[int, set[str]] = {}
    for zone, address in flows:
        by_zone.setdefault(zone, set()).add(address)
    for zone, addresses in by_zone.items():
        if "" in addresses or len(addresses) > MANY:
            _delete("-w", str(zone))
            _delete("-f", "ipv6", "-w", str(zone))
            continue
        for address in sorted(addresses):
            family = ("-f", "ipv6") if ":" in address else ()
            for side in ("-s", "-d"):
                _delete(*family, "-w", str(zone), side, address)


def cut_translated(addresses: Iterable[str]) -> None:
    """Delete the entries from or to these addresses, before translation; routers have no zones."""
    for address in sorted(addresses):
        for side in ("-s", "-d"):
            _delete(side, address)


def _delete(*arguments: str) -> None:
    """Exit code 1 is: there was none."""
    run(["conntrack", "-D", *arguments], check=False)
