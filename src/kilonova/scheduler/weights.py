"""Which of the hosts that pass is best: a weighted sum of measures between 0 and 1, the greatest wins."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kilonova.scheduler.host_state import HostState

Measure = Callable[[HostState], float]


def free_ram(host: HostState) -> float:
    """Spread: the share of memory that is free."""
    return host.free_ram_mb / host.ram_mb if host.ram_mb > 0 else 0.0


def free_vcpus(host: HostState) -> float:
    return host.free_vcpus / host.vcpus if host.vcpus > 0 else 0.0


def few_instances(host: HostState) -> float:
    """Breaks ties between hosts of one size."""
    return 1.0 / (1 + host.instances)


WEIGHTS: tuple[tuple[float, Measure], ...] = ((1.0, free_ram), (0.25, free_vcpus), (0.05, few_instances))


def weight(host: HostState, weights: Sequence[tuple[float, Measure]] = WEIGHTS) -> float:
    return sum(factor * measure(host) for factor, measure in weights)
