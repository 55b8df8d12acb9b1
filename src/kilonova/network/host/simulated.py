"""A host that has no kernel: everything planned is at once so."""

from __future__ import annotations

from collections.abc import Mapping

from kilonova.config import HostConfig
from kilonova.network.host.interface import Outcome, Wires
from kilonova.network.plan import HostPlan


class SimulatedHost:
    """See `kilonova.network.host.interface.Host`."""

    def __init__(self, config: HostConfig | None = None) -> None:
        self._config = config or HostConfig()

    def open(self) -> None: ...

    def close(self) -> None: ...

    def apply(self, plan: HostPlan, *, look: bool) -> Outcome:
        return Outcome(forgotten=plan.forget)

    def hold(self, seconds: float) -> None: ...

    def wires(self) -> Wires:
        return Wires.configured(self._config)

    def handshakes(self, plan: HostPlan) -> Mapping[str, Mapping[str, int]]:
        return {}

    def has_device(self, device: str) -> bool:
        return True

    def service_namespaces(self, plan: HostPlan) -> dict[str, str]:
        return {}
