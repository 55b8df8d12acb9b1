"""Chooses the compute host of an instance from what is known of all hosts. Pure: no database, no bus."""

from __future__ import annotations

from collections.abc import Sequence

from kilonova.errors import NoValidHost
from kilonova.scheduler.filters import unmet_need
from kilonova.scheduler.host_state import HostState, Request
from kilonova.scheduler.weights import weight


def choose(request: Request, hosts: Sequence[HostState]) -> HostState:
    """The best host that meets every need; equal ones in the order of their names.

    Raises `NoValidHost` whose message names for each host the need it could not meet.
    """
    if not hosts:
        raise NoValidHost("No valid host was found. There is no compute host: start `kilonova service compute`.")
    unmet: list[str] = []
    passing: list[HostState] = []
    for host in hosts:
        need = unmet_need(request, host)
        if need is None:
            passing.append(host)
        else:
            unmet.append(f"{host.name}: {need}")
    if not passing:
        raise NoValidHost(f"No valid host was found. {'; '.join(unmet)}")
    return min(passing, key=lambda host: (-weight(host), host.name))
