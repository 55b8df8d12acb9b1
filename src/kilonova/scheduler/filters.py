"""What a host must meet. Each filter answers nothing when the host will do, else the need it cannot meet, in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kilonova.network.managers import manager_named
from kilonova.scheduler.host_state import HostState, Request

Filter = Callable[[Request, HostState], str | None]


def alive(_request: Request, host: HostState) -> str | None:
    return None if host.alive else "its compute service is down"


def enabled(_request: Request, host: HostState) -> str | None:
    if host.enabled:
        return None
    return "disabled" + (f" ({host.disabled_reason})" if host.disabled_reason else "")


def availability_zone(request: Request, host: HostState) -> str | None:
    if request.availability_zone in (None, host.availability_zone):
        return None
    return f"availability zone {request.availability_zone} needed, it is in {host.availability_zone}"


def named_host(request: Request, host: HostState) -> str | None:
    return None if request.host in (None, host.name) else f"host {request.host} was asked for"


def ram(request: Request, host: HostState) -> str | None:
    return _fits("RAM", "MB", request.ram_mb, host.free_ram_mb)


def vcpus(request: Request, host: HostState) -> str | None:
    return _fits("vCPUs", "", request.vcpus, host.free_vcpus)


def disk(request: Request, host: HostState) -> str | None:
    return _fits("disk", "GB", request.disk_gb, host.free_disk_gb)


def _fits(what: str, unit: str, needed: int, free: int) -> str | None:
    if needed <= free:
        return None
    space = f" {unit}" if unit else ""
    return f"{what} {needed}{space} needed, {max(free, 0)}{space} free"


def networks(request: Request, host: HostState) -> str | None:
    """Its frames reach each network's services: by trunk, tunnel or bridge, or because they run on the host itself."""
    if host.wires is None:
        return None
    for wire in request.wires:
        is_at_home = wire.network_host in (None, host.name)
        need = manager_named(wire.manager).unmet_need(wire.physical_network, host.wires, is_at_home)
        if need is not None:
            return need
    return None


FILTERS: tuple[Filter, ...] = (named_host, enabled, alive, availability_zone, networks, ram, vcpus, disk)


def unmet_need(request: Request, host: HostState, filters: Sequence[Filter] = FILTERS) -> str | None:
    """The first need the host cannot meet; none: it passes."""
    return next((need for check in filters if (need := check(request, host)) is not None), None)
