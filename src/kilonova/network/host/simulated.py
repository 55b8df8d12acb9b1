"""A host that has no kernel: everything planned is at once so."""

from __future__ import annotations

from collections.abc import Mapping

from kilonova.config import HostConfig
from kilonova.network.fragments import Names, fragments
from kilonova.network.host.interface import Outcome, Wires
from kilonova.network.observation import Audit, Concern, Observation, PortFacts, RouteAnswer, ServiceFacts, concerned
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

    def observe(self, plan: HostPlan, concern: Concern) -> Observation:
        """All of it is there, and every guest has its lease."""
        mine = concerned(plan, fragments(plan, Names("")), concern)
        leases = {
            service.network_id: {entry.address: entry.mac for entry in service.entries}
            for service in plan.services.values()
            if service.network_id in concern.networks
        }
        return Observation(
            host="",
            planned=tuple(sorted(mine)),
            ports={item: PortFacts(plan.ports[item].device, True) for item in concern.ports if item in plan.ports},
            services={item: ServiceFacts(True, given, tuple(given)) for item, given in leases.items()},
            routes=tuple(RouteAnswer(item.router_id, item.source, item.destination) for item in concern.routes),
            simulated=True,
        )

    def audit(self, plan: HostPlan, *, mend: bool) -> Audit:
        return Audit("")
