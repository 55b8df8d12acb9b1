"""Moves the networks, routers and floating ranges of a network host that died or is drained to hosts that live.

Only rows are changed, in one transaction per host; the agents of both sides do the rest. That a host is dead is told by
its lease: one that this process saw unchanged for longer than it runs has ended for its holder too, whatever the clocks
say. Any number of processes may do this at once: each move happens only if the lease still is the one that ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, func, select, union_all, update

from kilonova.bus import Bus
from kilonova.config import Config
from kilonova.context import system_context
from kilonova.errors import KilonovaError
from kilonova.network.lease import Term, boot_time
from kilonova.network.ports import DHCP, ROUTER_GATEWAY, ROUTER_INTERFACE, VPN_CLIENT
from kilonova.scheduler.takeover import Candidate, Group, Wire, groups, place
from kilonova.store.database import Store
from kilonova.store.schema import addresses, networks, now, pool_networks, ports, routers, services, subnets

log = logging.getLogger(__name__)

_HANDOVER_WITHIN_S = 10.0
"""So long a drained host that lives may take to let go before the others take up."""
_ROWS_AT_ONCE = 500


class NetworkHost(NamedTuple):
    """A network host as its row says."""

    host: str
    enabled: bool
    forced_down: bool
    term: Term
    heard_lately: bool
    capacity: Mapping[str, Any]
    guarded: bool
    """Its kernel silences what is left there when the lease ends."""


class Cluster(NamedTuple):
    """The network hosts, and how many networks and routers each host has; "" are those that none has."""

    hosts: Sequence[NetworkHost]
    load: Mapping[str, int]


@dataclass(frozen=True)
class Move:
    """What was moved away from a host."""

    host: str
    networks: int = 0
    routers: int = 0
    ranges: int = 0
    targets: frozenset[str] = frozenset()
    concerned: frozenset[str] = frozenset()
    """Every host that has to look again."""
    left: tuple[str, ...] = ()
    """What no host can carry, and why."""


@dataclass
class Watch:
    """What one process has seen of the leases, by its own clock."""

    lease_s: float
    margin_s: float
    _seen: dict[str, tuple[Term, float, bool]] = field(default_factory=dict)

    def note(self, hosts: Iterable[NetworkHost], moment: float) -> None:
        found = {}
        for item in hosts:
            before = self._seen.get(item.host)
            if before is not None and before[0] == item.term:
                found[item.host] = before
            else:
                found[item.host] = (item.term, moment, before is not None)
        self._seen = found

    def is_over(self, item: NetworkHost, moment: float) -> bool:
        """Whether its lease has ended for its holder as well."""
        term, since, _ = self._seen[item.host]
        return term.until is not None and moment - since >= self.lease_s + self.margin_s

    def is_live(self, item: NetworkHost, moment: float) -> bool:
        """Whether it renews; what was seen once only is believed by its heartbeat."""
        term, since, renewed = self._seen[item.host]
        return term.owner is not None and moment - since < self.lease_s / 2 and (renewed or item.heard_lately)


class Failover:
    """`start` it in every process that schedules; more do no harm."""

    def __init__(self, store: Store, bus: Bus, config: Config, clock: Callable[[], float] = boot_time) -> None:
        self._store = store
        self._bus = bus
        self._clock = clock
        self._config = config
        self._watch = Watch(config.network.lease_s, config.network.takeover_margin_s)
        self._said: set[str] = set()
        self._futile: dict[str, tuple[object, ...]] = {}
        """Host -> the circumstances under which nothing of it could be moved."""
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="failover")

    async def stop(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        interval_s = self._config.network.lease_s / 15
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.sweep()
            except Exception:
                log.exception("the failover of network hosts could not finish a round; trying again")

    async def sweep(self) -> list[Move]:
        """One round; what was moved. A cloud in order costs one read."""
        found = await self._store.read(load_cluster, self._config.network.lease_s)
        moment = self._clock()
        self._watch.note(found.hosts, moment)
        candidates = [
            Candidate(item.host, found.load.get(item.host, 0), item.capacity)
            for item in found.hosts
            if item.enabled and not item.forced_down and self._watch.is_live(item, moment)
        ]
        if not candidates:
            return []
        moves = []
        for host, term, is_dead in self._leaving(found, moment):
            circumstances = (term, found.load.get(host, 0), tuple((item.host, item.capacity) for item in candidates))
            if self._futile.get(host) == circumstances:
                continue
            alone = not host and len(found.hosts) == 1
            move = await self._store.write(take_over, host, candidates, term=term, is_dead=is_dead, alone=alone)
            if move is not None:
                moves.append(move)
                if not move.targets:
                    self._futile[host] = circumstances
                await self._after(move, is_dead=is_dead)
        return moves

    def _leaving(self, found: Cluster, moment: float) -> list[tuple[str, Term | None, bool]]:
        """(host, its ended lease, whether it is dead) of those whose things have to go elsewhere; "": of none."""
        leaving: list[tuple[str, Term | None, bool]] = []
        known = {item.host for item in found.hosts}
        for item in found.hosts:
            has = found.load.get(item.host, 0) > 0
            over = self._watch.is_over(item, moment)
            if item.forced_down:
                if has or item.term.until is not None:
                    leaving.append((item.host, item.term, True))
            elif over and (item.guarded or not item.enabled or not has):
                leaving.append((item.host, item.term, True))
            elif over:
                self._say(
                    f"network host {item.host} is gone, but may still answer for its networks: it had no other network "
                    "host beside it when it was heard of last. Make sure that it is off, then disable its agent "
                    "(`openstack network agent set --disable`): its networks are then moved."
                )
            elif item.term.until is None and has:
                leaving.append((item.host, item.term, True))  # placed there when it had just been taken over
            elif not item.enabled and has:
                leaving.append((item.host, None, False))
        leaving += [(host, None, True) for host in sorted(found.load.keys() - known - {""})]
        return leaving + ([("", None, True)] if "" in found.load else [])

    async def _after(self, move: Move, *, is_dead: bool) -> None:
        """Say it and wake the hosts; one that lives lets go before the others take up."""
        for reason in move.left:
            self._say(f"{reason}; it stays with {move.host or 'no host'}")
        if not move.targets:
            return
        log.warning(
            "%s: %d networks, %d routers and %d floating ranges are now on %s",
            f"network host {move.host} {'is gone' if is_dead else 'is drained'}" if move.host else "placed at last",
            move.networks,
            move.routers,
            move.ranges,
            ", ".join(sorted(move.targets)),
        )
        context = system_context()
        if not is_dead:
            with suppress(KilonovaError):
                await self._bus.call(
                    f"network.{move.host}", "look_again", {}, context=context, deadline_s=_HANDOVER_WITHIN_S
                )
        for host in sorted(move.targets) + sorted(move.concerned - move.targets):
            await self._bus.cast(f"network.{host}", "look_again", {}, context=context)

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            log.warning("%s", text)


def load_cluster(tx: Connection, lease_s: float) -> Cluster:
    """What a round needs to know, in two queries."""
    horizon = now() - timedelta(seconds=lease_s)
    hosts = [
        NetworkHost(
            row.host,
            row.enabled,
            row.forced_down,
            Term(row.lease_owner, row.lease_until),
            row.seen_at > horizon,
            row.capacity or {},
            bool((row.progress or {}).get("guarded")),
        )
        for row in tx.execute(select(services).where(services.c.kind == "network").order_by(services.c.host))
    ]
    placed = union_all(
        select(networks.c.host).where(networks.c.external.is_(False)),
        select(routers.c.host),
        select(subnets.c.host).where(subnets.c.host.is_not(None)),
    ).subquery()
    query = select(placed.c.host, func.count()).group_by(placed.c.host)
    load: Counter[str] = Counter()
    for host, count in tx.execute(query):
        load[host or ""] += count
    return Cluster(hosts, load)


def take_over(
    tx: Connection,
    host: str,
    candidates: Sequence[Candidate],
    *,
    term: Term | None = None,
    is_dead: bool,
    alone: bool = False,
) -> Move | None:
    """Move everything of a host ("": what no host has) to `candidates`; none: its lease is no longer `term`.

    A dead one loses its lease with it, and what it had to forget is the new hosts' to forget; one that lives forgets
    for itself.
    """
    mine = and_(services.c.kind == "network", services.c.host == host)
    if term is not None:
        held = tx.execute(select(services.c.lease_owner, services.c.lease_until).where(mine)).one_or_none()
        if held is None or Term(*held) != term:
            return None
    candidates = [candidate for candidate in candidates if candidate.host != host]
    if not candidates:
        return None
    placement = place(_groups(tx, host), candidates, alone=alone)
    moved: dict[str, tuple[list[str], list[str]]] = {}
    for group, target in placement.chosen:
        its_networks, its_routers = moved.setdefault(target, ([], []))
        its_networks += [wire.network_id for wire in group.networks]
        its_routers += group.routers
    concerned: set[str] = set()
    for target, (network_ids, router_ids) in moved.items():
        concerned |= _move(tx, target, network_ids, router_ids)
    ranges = _move_ranges(tx, host, candidates) if host else set()
    if is_dead and host:
        _hand_on(tx, host, candidates)
        tx.execute(update(services).where(mine).values(lease_owner=None, lease_until=None))
    return Move(
        host,
        networks=sum(len(found) for found, _ in moved.values()),
        routers=sum(len(found) for _, found in moved.values()),
        ranges=len(ranges),
        targets=frozenset(moved) | frozenset(ranges),
        concerned=frozenset(concerned - {host, ""}),
        left=tuple(f"{group.name} can go nowhere: {reason}" for group, reason in placement.left),
    )


def _groups(tx: Connection, host: str) -> list[Group]:
    """What the host has, put together with what it is joined to."""
    columns = (networks.c.id, networks.c.host, networks.c.manager, networks.c.physical_network, networks.c.external)
    on_host = networks.c.host == host if host else networks.c.host.is_(None)
    here = tx.execute(select(*columns).where(on_host, networks.c.external.is_(False))).all()
    router_here = routers.c.host == host if host else routers.c.host.is_(None)
    router_ids = list(tx.execute(select(routers.c.id).where(router_here)).scalars())
    joined = [
        (row.device_id, row.network_id)
        for row in tx.execute(
            select(ports.c.device_id, ports.c.network_id).where(ports.c.device_owner == ROUTER_INTERFACE)
        )
    ]
    host_of: dict[str, str | None] = {}
    if joined and (here or router_ids):
        for table in (networks, routers):
            host_of |= {row.id: row.host for row in tx.execute(select(table.c.id, table.c.host))}
    wires = [Wire(row.id, row.manager, row.physical_network) for row in here]
    return groups(wires, router_ids, joined, host_of)


def _move(tx: Connection, target: str, network_ids: list[str], router_ids: list[str]) -> set[str]:
    """Rows of these networks and routers; the hosts that have ports in them."""
    concerned: set[str] = set()
    for some in _some(network_ids):
        tx.execute(update(networks).where(networks.c.id.in_(some)).values(host=target))
        served = (ports.c.network_id.in_(some), ports.c.device_owner == DHCP)
        tx.execute(update(ports).where(*served).values(host=target))
        concerned |= set(tx.execute(select(ports.c.host).where(ports.c.network_id.in_(some)).distinct()).scalars())
    for some in _some(router_ids):
        tx.execute(update(routers).where(routers.c.id.in_(some)).values(host=target))
        legs = (ports.c.device_id.in_(some), ports.c.device_owner.in_([ROUTER_INTERFACE, ROUTER_GATEWAY, VPN_CLIENT]))
        tx.execute(update(ports).where(*legs).values(host=target))
        joined = select(ports.c.network_id).where(*legs)
        concerned |= set(tx.execute(select(ports.c.host).where(ports.c.network_id.in_(joined)).distinct()).scalars())
    return concerned


def _move_ranges(tx: Connection, host: str, candidates: Sequence[Candidate]) -> set[str]:
    """A floating range goes where most of the routers are that have their address of it; the hosts."""
    found: list[str] = []
    least = min(candidates, key=lambda candidate: (candidate.load, candidate.host)).host
    live = [candidate.host for candidate in candidates]
    for subnet_id in tx.execute(select(subnets.c.id).where(subnets.c.host == host)).scalars().all():
        query = (
            select(ports.c.host, func.count())
            .join(addresses, addresses.c.port_id == ports.c.id)
            .where(addresses.c.subnet_id == subnet_id, ports.c.device_owner == ROUTER_GATEWAY, ports.c.host.in_(live))
            .group_by(ports.c.host)
            .order_by(func.count().desc(), ports.c.host)
        )
        target = next((row.host for row in tx.execute(query)), least)
        tx.execute(update(subnets).where(subnets.c.id == subnet_id).values(host=target))
        found.append(target)
    return set(found)


def _hand_on(tx: Connection, host: str, candidates: Sequence[Candidate]) -> None:
    """What a dead host was to forget: its filters are silent, the leases of its dnsmasq died with it."""
    server = (
        select(func.coalesce(networks.c.host, subnets.c.host))
        .select_from(subnets.join(networks, networks.c.id == subnets.c.network_id))
        .where(subnets.c.id == addresses.c.subnet_id)
        .scalar_subquery()
    )
    waiting = and_(
        addresses.c.port_id.is_(None),
        addresses.c.released_at.is_not(None),
        addresses.c.released_host == host,
    )
    tx.execute(update(addresses).where(waiting).values(released_host=server))
    released = (pool_networks.c.released_host == host, pool_networks.c.released_at.is_not(None))
    tx.execute(update(pool_networks).where(*released).values(released_host=candidates[0].host))


def _some(ids: Sequence[str]) -> Iterable[list[str]]:
    for position in range(0, len(ids), _ROWS_AT_ONCE):
        yield list(ids[position : position + _ROWS_AT_ONCE])
