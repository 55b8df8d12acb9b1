"""Chooses how a project's network is kept apart: flat, flat-dhcp, vlan or vxlan. Pure: no database, no bus.

An explicit preference wins; else every type that the pool has and hosts can carry is weighed. The verdicts on all types
are kept with the decision, so that an administrator can read why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kilonova.errors import NoMoreNetworks
from kilonova.network.managers import NAMES, able_hosts, manager_named
from kilonova.network.managers.wires import HostWires


@dataclass(frozen=True)
class Offer:
    """What the pool has of one manager on one physical network."""

    manager: str
    physical_network: str
    total: int
    """Networks, free or not."""
    free: int
    """Networks that nobody has; of a shared manager those with an address left."""
    position: int = 0
    """Of the first free one, in the order in which the pool is handed out."""


@dataclass(frozen=True)
class Verdict:
    """What speaks for or against one type; `reason` is a sentence for an administrator."""

    manager: str
    possible: bool
    weight: float
    reason: str

    def document(self) -> dict[str, Any]:
        return {
            "manager": self.manager,
            "possible": self.possible,
            "weight": self.weight,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Decision:
    """The chosen offer, the hosts that can carry it (none: it is placed later), and the verdicts, the chosen first."""

    offer: Offer
    hosts: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    requested: str | None = None

    def documents(self) -> list[dict[str, Any]]:
        """For `project_networks.decision`."""
        return [verdict.document() for verdict in self.verdicts]


Filter = Callable[[Offer, Sequence[HostWires]], str | None]


def has_a_free_network(offer: Offer, _hosts: Sequence[HostWires]) -> str | None:
    if offer.free:
        return None
    if manager_named(offer.manager).is_shared:
        return f"no address is left on {offer.physical_network}"
    return f"all {offer.total} networks{_on(offer)} are assigned or still held"


def hosts_can_carry_it(offer: Offer, hosts: Sequence[HostWires]) -> str | None:
    _, why_not = able_hosts(manager_named(offer.manager), offer.physical_network, hosts)
    return why_not or None


FILTERS: tuple[Filter, ...] = (has_a_free_network, hosts_can_carry_it)


def choose(
    offers: Sequence[Offer],
    hosts: Sequence[HostWires],
    weights: Mapping[str, float],
    *,
    requested: str | None = None,
    requested_by: str = "the request",
) -> Decision:
    """The requested type, else of the possible ones that with the greatest weight; equal ones in the order of the pool.

    A type without a positive weight is taken only on request. Raises `NoMoreNetworks` that says for the requested type,
    or for every type, why it is not possible.
    """
    if requested is not None:
        manager_named(requested)
    judged = {name: _judge(name, offers, hosts, weights.get(name, 0.0)) for name in NAMES}
    verdicts = {name: verdict for name, (verdict, _) in judged.items()}
    if requested is not None:
        chosen = requested
        if not verdicts[chosen].possible:
            raise NoMoreNetworks(
                f"The network type {chosen}, preferred by {requested_by}, is not possible: {verdicts[chosen].reason}."
            )
        verdicts[chosen] = _with_reason(verdicts[chosen], f"preferred by {requested_by}")
    else:
        candidates = [name for name in NAMES if verdicts[name].possible and verdicts[name].weight > 0]
        if not candidates:
            raise NoMoreNetworks(_nothing_left(offers, verdicts.values()))
        chosen = min(candidates, key=lambda name: (-verdicts[name].weight, _position(judged[name][1]), name))
        verdicts[chosen] = _with_reason(
            verdicts[chosen],
            "the only one to choose from" if len(candidates) == 1 else "the greatest weight of what is possible",
        )
    offer = judged[chosen][1]
    assert offer is not None
    able, _ = able_hosts(manager_named(chosen), offer.physical_network, hosts)
    rest = sorted(
        (_unless_asked_for(verdict) for name, verdict in verdicts.items() if name != chosen),
        key=lambda verdict: (not verdict.possible, -verdict.weight, verdict.manager),
    )
    return Decision(offer, tuple(able), (verdicts[chosen], *rest), requested)


def _judge(
    name: str, offers: Sequence[Offer], hosts: Sequence[HostWires], weight: float
) -> tuple[Verdict, Offer | None]:
    """The verdict on a type and the first of its offers that will do."""
    own = sorted((offer for offer in offers if offer.manager == name), key=_position)
    if not own:
        needs = " --physical-network NAME --fixed-range CIDR" if manager_named(name).is_shared else ""
        reason = f"the pool has no {name} network (`kilonova network create --manager {name}{needs}` adds some)"
        return Verdict(name, False, weight, reason), None
    unmet: list[str] = []
    for offer in own:
        need = next((need for check in FILTERS if (need := check(offer, hosts)) is not None), None)
        if need is None:
            return Verdict(name, True, weight, _for(offer, hosts)), offer
        unmet.append(need)
    return Verdict(name, False, weight, "; ".join(unmet)), None


def _for(offer: Offer, hosts: Sequence[HostWires]) -> str:
    manager = manager_named(offer.manager)
    able, _ = able_hosts(manager, offer.physical_network, hosts)
    where = f"on {', '.join(sorted(able))}" if able else "placed once a network host is alive"
    if manager.is_shared:
        return f"{offer.physical_network} has addresses left, {where}"
    return f"{offer.free} of {offer.total} networks{_on(offer)} free, {where}"


def _with_reason(verdict: Verdict, reason: str) -> Verdict:
    return Verdict(verdict.manager, verdict.possible, verdict.weight, f"{reason}: {verdict.reason}")


def _unless_asked_for(verdict: Verdict) -> Verdict:
    return _with_reason(verdict, "only on request") if verdict.possible and verdict.weight <= 0 else verdict


def _on(offer: Offer) -> str:
    return "" if offer.manager == "vxlan" else f" on {offer.physical_network}"


def _position(offer: Offer | None) -> int:
    return offer.position if offer is not None else 0


def _nothing_left(offers: Sequence[Offer], verdicts: Any) -> str:
    if not offers:
        return (
            "No more networks available: the pool is empty; an administrator adds some with `kilonova network create`."
        )
    offered = {offer.manager for offer in offers}
    reasons = "; ".join(
        f"{verdict.manager}: {_unless_asked_for(verdict).reason}" for verdict in verdicts if verdict.manager in offered
    )
    return f"No more networks available: {reasons}. An administrator adds some with `kilonova network create`."
