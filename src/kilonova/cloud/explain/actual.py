"""What the hosts told, as the walk asks for it; and, for what they were not yet asked, the notes of what is needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from kilonova.network.observation import Concern, Deviation, Observation, RouteQuestion

Wrong = Callable[[Deviation], bool]


@dataclass
class Needs:
    """The objects that one host has to be asked about."""

    ports: set[str] = field(default_factory=set)
    routers: set[str] = field(default_factory=set)
    networks: set[str] = field(default_factory=set)
    addresses: set[str] = field(default_factory=set)
    routes: set[RouteQuestion] = field(default_factory=set)

    def concern(self) -> Concern:
        routes = sorted(self.routes, key=lambda item: (item.router_id, item.source, item.destination, item.leg))
        return Concern(
            tuple(sorted(self.ports)),
            tuple(sorted(self.routers)),
            tuple(sorted(self.networks)),
            tuple(sorted(self.addresses)),
            tuple(routes),
        )


class Hosts:
    """Host -> what it told, or why it told nothing. Asked about a host it does not know, it notes what was needed."""

    def __init__(self, told: Mapping[str, Observation | str] | None = None) -> None:
        self._told = told or {}
        self.needs: dict[str, Needs] = defaultdict(Needs)

    def see(
        self,
        host: str,
        *,
        ports: Iterable[str] = (),
        routers: Iterable[str] = (),
        networks: Iterable[str] = (),
        addresses: Iterable[str] = (),
        routes: Iterable[RouteQuestion] = (),
    ) -> Sight:
        needs = self.needs[host]
        needs.ports |= set(ports)
        needs.routers |= set(routers)
        needs.networks |= set(networks)
        needs.addresses |= set(addresses)
        needs.routes |= set(routes)
        told = self._told.get(host, "it was not asked")
        return Sight(host, None, told) if isinstance(told, str) else Sight(host, told)


@dataclass(frozen=True)
class Sight:
    """One host's state; `told` none: it is not known, for the reason `silence`."""

    host: str
    told: Observation | None
    silence: str = ""

    def wrong(self, matters: Wrong) -> list[Deviation]:
        """The deviations that matter."""
        return [item for item in self.told.deviations if matters(item)] if self.told else []

    def is_planned(self, fragment: str) -> bool:
        return self.told is None or fragment in self.told.planned

    def failure(self, *owners: str) -> str:
        """Why the agent could not realise one of these, if it could not."""
        if self.told is None:
            return ""
        return next((self.told.failures[owner] for owner in owners if owner in self.told.failures), "")


def anything(*tests: Wrong) -> Wrong:
    return lambda item: any(test(item) for test in tests)


def link(name: str, *, address: str = "") -> Wrong:
    """A device that is missing, down, on another bridge or, if `address` is given, without that address."""

    def test(item: Deviation) -> bool:
        if item.kind != "link" or item.name != name:
            return False
        if not item.found:
            return True
        fields = set(item.key.split(","))
        lacks = bool(address) and any(word.split("/")[0] == address for word in _words(item.wanted, "with "))
        return bool(fields & {"up", "master", "kind"}) or lacks

    return test


def _words(text: str, mark: str) -> list[str]:
    return [word for part in text.split(mark)[1:] for word in part.replace(",", " ").split()]


def element(*sets: str, has: Iterable[str] = ()) -> Wrong:
    """An element of one of the sets ("kn_l2 ip_ok"), one part of whose key is each of `has`."""
    parts = tuple(has)

    def test(item: Deviation) -> bool:
        if item.kind != "element" or item.name not in sets or not item.wanted:
            return False
        key = {part.strip('"') for part in item.key.split(" . ")}
        return all(part in key for part in parts)

    return test


def chain(*names: str) -> Wrong:
    """A chain ("kn_sg forwarded") that is missing or altered."""
    return lambda item: item.kind in ("chain", "set") and item.name in names


def chain_without(name: str, rule: str) -> Wrong:
    """A chain in which one rule is missing, or that holds rules which nobody planned."""
    return lambda item: (
        item.kind == "chain" and item.name == name and (rule in item.wanted.split("\n") or "foreign" in item.key)
    )


def namespace(fragment: str) -> Wrong:
    return lambda item: item.kind == "namespace" and item.fragment == fragment


def sysctl(name: str) -> Wrong:
    return lambda item: item.kind == "sysctl" and item.name == name
