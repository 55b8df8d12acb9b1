"""Cuts established flows, in the namespace of the calling thread, so that the rules decide anew about their packets."""

from __future__ import annotations

from collections.abc import Iterable

from kilonova.network.flows import Cut
from kilonova.process import run

_WITH_PORTS = frozenset({6, 17, 33, 132, 136})


def cut(flows: Iterable[Cut]) -> None:
    """Delete the entries of these flows."""
    for flow in sorted(flows, key=str):
        arguments = ["-w", str(flow.zone), "-f", f"ipv{flow.version}"]
        if flow.source:
            arguments += ["-s", flow.source]
        if flow.target:
            arguments += ["-d", flow.target]
        if flow.protocol is not None:
            arguments += ["-p", str(flow.protocol)]
            if flow.port is not None and flow.protocol in _WITH_PORTS:
                arguments += ["--dport", str(flow.port)]
        _delete(*arguments)


def cut_translated(addresses: Iterable[str]) -> None:
    """Delete the entries from or to these addresses, before translation; routers have no zones."""
    for address in sorted(addresses):
        for side in ("-s", "-d"):
            _delete(side, address)


def _delete(*arguments: str) -> None:
    """Exit code 1 is: there was none."""
    run(["conntrack", "-D", *arguments], check=False)
