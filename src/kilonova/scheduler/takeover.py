"""Chooses where the networks and routers of a dead or drained network host go. Pure: no database, no bus.

A router and the networks it joins make a group, with the routers and networks that those join; a group goes to one
host, that can carry all of it: where part of it is already, else to the least loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kilonova.network.managers import manager_named
from kilonova.network.managers.wires import wires_of


@dataclass(frozen=True)
class Wire:
    """A network as far as it matters who can carry it."""

    network_id: str
    manager: str
    physical_network: str


@dataclass(frozen=True)
class Candidate:
    """A live, enabled network host."""

    host: str
    load: int = 0
    """Networks and routers that are there."""
    capacity: Mapping[str, Any] = field(default_factory=dict)
    """As its heartbeat says; what it has not told yet it is taken to have."""


@dataclass(frozen=True)
class Group:
    """What belongs together. `near`: live hosts that have another part of it."""

    networks: tuple[Wire, ...]
    routers: tuple[str, ...]
    near: frozenset[str] = frozenset()

    @property
    def size(self) -> int:
        return len(self.networks) + len(self.routers)

    @property
    def name(self) -> str:
        """For messages."""
        if self.networks:
            return f"network {self.networks[0].network_id}"
        return f"router {self.routers[0]}"


@dataclass(frozen=True)
class Placement:
    """Group -> host, and the groups that no host can carry, with the reason."""

    chosen: tuple[tuple[Group, str], ...]
    left: tuple[tuple[Group, str], ...]


def groups(
    networks: Sequence[Wire],
    routers: Iterable[str],
    joined: Iterable[tuple[str, str]],
    host_of: Mapping[str, str | None],
) -> list[Group]:
    """Networks and routers to move, put together by `joined`, the (router, network) pairs of the whole cloud.

    `host_of`: where those things are that `joined` names and that are not moved.
    """
    wires = {wire.network_id: wire for wire in networks}
    moving = set(wires) | set(routers)
    parent: dict[str, str] = {}

    def root(item: str) -> str:
        while parent.setdefault(item, item) != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for router_id, network_id in joined:
        parent[root(router_id)] = root(network_id)
    members: dict[str, list[str]] = {}
    for item in sorted({*parent, *moving}):
        members.setdefault(root(item), []).append(item)
    found = []
    for items in members.values():
        if not moving.intersection(items):
            continue
        near = {host_of.get(item) for item in items if item not in moving}
        found.append(
            Group(
                tuple(wires[item] for item in items if item in wires),
                tuple(item for item in items if item in moving and item not in wires),
                frozenset(host for host in near if host),
            )
        )
    return found


def place(wanted: Iterable[Group], candidates: Sequence[Candidate], *, alone: bool = False) -> Placement:
    """A host for every group that one can carry; large ones first. `alone`: no frame has to leave the only host."""
    load = {candidate.host: candidate.load for candidate in candidates}
    chosen: list[tuple[Group, str]] = []
    left: list[tuple[Group, str]] = []
    for group in sorted(wanted, key=lambda item: (-item.size, item.name)):
        unmet: dict[str, str] = {}
        for candidate in candidates:
            need = next((need for wire in group.networks if (need := unmet_need(wire, candidate.capacity))), "")
            if need and not alone:
                unmet[candidate.host] = need
        able = [candidate.host for candidate in candidates if candidate.host not in unmet]
        if not able:
            left.append((group, "; ".join(f"{host}: {need}" for host, need in sorted(unmet.items()))))
            continue
        host = min(able, key=lambda name: (name not in group.near, load[name], name))
        load[host] += group.size
        chosen.append((group, host))
    return Placement(tuple(chosen), tuple(left))


def unmet_need(wire: Wire, capacity: Mapping[str, Any]) -> str:
    """What a host that is not alone lacks to carry a network, in words."""
    return manager_named(wire.manager).unmet_need(wire.physical_network, wires_of("", capacity), False) or ""
