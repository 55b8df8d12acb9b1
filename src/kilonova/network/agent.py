"""The network controller on one host: a level-triggered loop from the store's rows to the host's kernel.

Every request ("realise this network", "wire this port", "look again"), a timer and the start lead to the same pass:
read the rows, plan, apply. A pass serves everybody who asked before it began. What came of it is written back in one
transaction: addresses forgotten, pool networks free, states of ports, routers and floating IPs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from kilonova import metadata
from kilonova.bus import Bus, Subscription
from kilonova.config import Config
from kilonova.context import Context, system_context
from kilonova.errors import CommandFailed, Conflict, KilonovaError, NotFound, Unavailable
from kilonova.network.diagnosis import Diagnosis
from kilonova.network.host.interface import Host, Outcome, Wires
from kilonova.network.host.metadata import MetadataService
from kilonova.network.host.simulated import SimulatedHost
from kilonova.network.lease import Beat, Lease
from kilonova.network.peers import changed_groups, hosts_naming
from kilonova.network.plan import HostPlan
from kilonova.network.planner import plan
from kilonova.network.results import record, results_of
from kilonova.network.rows import HostRows, VpnClientRow, load
from kilonova.network.tunnels import hosts_to_tell
from kilonova.network.vpn_watch import VpnWatch
from kilonova.store.database import Store
from kilonova.store.metadata_rows import load_instance_metadata
from kilonova.store.schema import now

log = logging.getLogger(__name__)

_FIRST_RETRY_S = 1.0
_LOOK_SHARE = 4.0
"""After a pass of T seconds, a mere "look again" waits up to this many T, so that many of them share one pass."""
_LOOK_WITHIN_S = 0.25
_ASK_FOR_LEASE_S = 0.5


@dataclass(frozen=True)
class Pass:
    """What one turn of the loop found and did."""

    rows: HostRows
    plan: HostPlan
    outcome: Outcome


class _NoLease(Unavailable):
    """This process may not touch the host's kernel at present."""


class NetworkAgent:
    """One per host, by its lease; with `host.simulate` it plans and records as always and touches nothing."""

    def __init__(self, store: Store, bus: Bus, config: Config, host: Host | None = None) -> None:
        self._store = store
        self._bus = bus
        self._config = config
        self._started_at = now()
        self._host = host or make_host(config)
        self._lease = Lease(store, config.host.name, config.network.lease_s)
        self._holding = False
        self._settled = False
        """Nothing is left here of what another host may have taken over."""
        self._guarded = False
        self._metadata = MetadataService(self._metadata_answer)
        self._vpn_watch = VpnWatch(store, self._host, self._vpns, self._look_soon)
        self._waiters: list[asyncio.Future[Pass]] = []
        self._wake = asyncio.Event()
        self._soon: asyncio.TimerHandle | None = None
        self._ended_at = 0.0
        self._took_s = 0.0
        self._look = True
        self._tasks: list[asyncio.Task[None]] = []
        self._subscription: Subscription | None = None
        self._last: Pass | None = None
        self._passes = 0
        self._wires = Wires()
        """As last looked: what the heartbeat tells."""
        self._retry_s = _FIRST_RETRY_S
        self._diagnosis = Diagnosis(config.host.name, self._host, self._wanted, self._last_failures, self._look_at_host)

    @property
    def topic(self) -> str:
        return f"network.{self._config.host.name}"

    async def start(self) -> None:
        """Apply everything once, then serve.

        Raises `CommandFailed` when the host cannot be used at all, `Conflict` when another agent serves it.
        """
        await self._take_lease()
        await asyncio.to_thread(self._host.open)
        self._tasks = [
            asyncio.create_task(self._loop(), name="network-loop"),
            asyncio.create_task(self._heartbeats(), name="network-heartbeat"),
            asyncio.create_task(self._vpn_watch.run(), name="network-vpn-watch"),
        ]
        try:
            await self._next_pass()
            if await self._find_wires():  # the first pass has moved NICs here
                await self._beat()
        except Exception:
            await self.stop()
            raise
        handlers = {
            "realise": self._on_realise,
            "wire": self._on_wire,
            "unwire": self._on_look_again,
            "forget": self._on_look_again,
            "look_again": self._on_look_again,
            "observe": self._diagnosis.on_observe,
            "audit": self._diagnosis.on_audit,
        }
        self._subscription = self._bus.subscribe(self.topic, handlers)

    async def stop(self) -> None:
        """End; guests' traffic goes on."""
        if self._subscription is not None:
            await self._subscription.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for waiter in self._waiters:
            waiter.cancel()
        if self._soon is not None:
            self._soon.cancel()
        await self._metadata.close()
        await asyncio.to_thread(self._host.close)
        with suppress(KilonovaError):
            await self._lease.release()

    # -------------------------------------------------------------------------------------------- requests
    async def _on_realise(self, _: Context, args: dict[str, Any]) -> dict[str, Any]:
        """Answers once bridge, services and routers of the network are as the rows say."""
        network_id = str(args["network_id"])
        turn = await self._next_pass()
        if turn.plan.bridge_of(network_id) is None and network_id not in {item.id for item in turn.rows.networks}:
            raise NotFound(f"Network {network_id} is not on host {self._config.host.name}.")
        routers = {
            router.router_id
            for router in turn.plan.routers.values()
            if any(interface.network_id == network_id for interface in router.interfaces)
        }
        _raise_failure(turn, f"network {network_id}", [network_id, *sorted(routers)])
        return {"network_id": network_id}

    async def _on_wire(self, _: Context, args: dict[str, Any]) -> dict[str, Any]:
        """Answers the port's device once it exists, is on its bridge and is filtered."""
        port_id = str(args["port_id"])
        known = self._last.plan.ports.get(port_id) if self._last else None
        if known is not None and not await asyncio.to_thread(self._host.has_device, known.device):
            self._look = True  # it was there and is not any more: believe nothing
        turn = await self._next_pass()
        port = turn.plan.ports.get(port_id)
        if port is None:
            if not any(row.id == port_id and row.host == self._config.host.name for row in turn.rows.ports):
                raise NotFound(f"Port {port_id} is not bound to host {self._config.host.name}.")
            return {"port_id": port_id, "device": None}
        _raise_failure(turn, f"port {port_id}", [port.network_id, port_id])
        return {"port_id": port_id, "device": port.device}

    async def _on_look_again(self, _: Context, args: dict[str, Any]) -> dict[str, Any]:
        """Something changed. A cast does not wait; a call learns when it is done."""
        turn = await self._next_pass(urgent=False)
        return {"failures": turn.outcome.failures}

    def _plan(self, rows: HostRows) -> HostPlan:
        return replace(plan(rows, self._config), guarded=self._guarded)

    async def _wanted(self) -> HostPlan:
        """The plan of the rows as they are now."""
        return self._plan(await self._store.read(load, self._config.host.name))

    def _last_failures(self) -> dict[str, str]:
        return self._last.outcome.failures if self._last else {}

    async def _look_at_host(self, kernel: bool) -> None:
        """A pass that does what is pending; with `kernel` one that compares with the kernel."""
        self._look = self._look or kernel
        await self._next_pass()

    # -------------------------------------------------------------------------------------------- the loop
    async def _next_pass(self, *, urgent: bool = True) -> Pass:
        """The outcome of a pass that begins after now; one that is not urgent lets others join."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Pass] = loop.create_future()
        self._waiters.append(waiter)
        pause_s = self._ended_at + min(_LOOK_WITHIN_S, _LOOK_SHARE * self._took_s) - time.monotonic()
        if urgent or pause_s <= 0:
            self._wake.set()
        elif self._soon is None:
            self._soon = loop.call_later(pause_s, self._wake.set)
        return await waiter

    async def _loop(self) -> None:
        looked_at = 0.0
        while True:
            due_s = max(0.0, looked_at + self._pause_s() - time.monotonic())
            try:
                async with asyncio.timeout(due_s):
                    await self._wake.wait()
            except TimeoutError:
                self._look = True
            self._wake.clear()
            if self._soon is not None:
                self._soon.cancel()
                self._soon = None
            waiters, self._waiters = self._waiters, []
            look, self._look = self._look, False
            began = time.monotonic()
            if look:
                looked_at = began
            try:
                turn = await self._turn(look)
                self._ended_at = time.monotonic()
                self._took_s = self._ended_at - began
            except asyncio.CancelledError:
                for waiter in waiters:
                    waiter.cancel()
                raise
            except Exception as error:
                if not isinstance(error, _NoLease):
                    log.exception("a pass failed")
                self._look = True
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_exception(
                            error if isinstance(error, KilonovaError) else CommandFailed(f"network agent: {error}")
                        )
                await asyncio.sleep(_FIRST_RETRY_S if not waiters else 0.05)
                continue
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(turn)

    def _pause_s(self) -> float:
        """Until the host is looked at again: soon after a failure, then later and later."""
        if self._last is not None and self._last.outcome.failures:
            return min(self._retry_s, self._config.host.poll_interval_s)
        return self._config.host.poll_interval_s

    async def _turn(self, look: bool) -> Pass:
        if self._lease.remaining_s <= 0:
            await self._beat()
            look = True
        if self._lease.remaining_s <= 0:
            raise _NoLease(f"The network agent of host {self._config.host.name} has no lease; it asks for it again.")
        rows = await self._store.read(load, self._config.host.name)
        wanted = self._plan(rows)
        before = self._last
        outcome = await asyncio.to_thread(self._host.apply, wanted, look=look)
        failures = dict(outcome.failures)
        failures.update(await self._metadata.serve(self._reachable(wanted, failures)))
        turn = Pass(rows, wanted, Outcome(failures, outcome.forgotten, outcome.changes))
        self._report(before, turn, look)
        self._last = turn
        if look and "" not in failures and not self._settled:
            self._settled = True
            await self._hold()
        self._passes += 1
        self._retry_s = self._retry_s * 2 if failures else _FIRST_RETRY_S
        results = results_of(rows, wanted, turn.outcome)
        if results:
            await self._store.write(record, results)
        await self._tell_peers(before.plan if before else HostPlan(), wanted)
        return turn

    async def _tell_peers(self, before: HostPlan, after: HostPlan) -> None:
        """Other hosts' filters and forwarding tables name what is here."""
        hosts = hosts_to_tell(before.tunnels, after.tunnels)
        groups = changed_groups(before, after) if self._guarded else set()
        if groups:
            hosts |= await self._store.read(partial(hosts_naming, but=self._config.host.name), groups)
        for host in sorted(hosts):
            await self._bus.cast(f"network.{host}", "look_again", {}, context=system_context())

    def _reachable(self, wanted: HostPlan, failures: dict[str, str]) -> dict[str, str]:
        namespaces = self._host.service_namespaces(wanted)
        return {network_id: name for network_id, name in namespaces.items() if network_id not in failures}

    def _report(self, before: Pass | None, turn: Pass, look: bool) -> None:
        for warning in turn.plan.warnings:
            if before is None or warning not in before.plan.warnings:
                log.warning("%s", warning)
        for owner, why in turn.outcome.failures.items():
            log.error("%s is not as planned: %s", owner or f"host {self._config.host.name}", why)
        drifted = look and before is not None and before.plan == turn.plan and not before.outcome.failures
        for change in turn.outcome.changes:
            if drifted:
                log.warning("drift mended: %s", change)
            else:
                log.debug("%s", change)

    # -------------------------------------------------------------------------------------------- metadata
    async def _metadata_answer(self, network_id: str, peer: str, path: str) -> tuple[bytes, str] | None:
        service = self._last.plan.services.get(network_id) if self._last else None
        entries = service.entries if service else ()
        instance_id = next((entry.instance_id for entry in entries if entry.address == peer), "")
        if not instance_id:
            return None
        try:
            document = await self._store.read(load_instance_metadata, instance_id)
        except NotFound:
            return None
        body = metadata.answer(document, path)
        return None if body is None else (body, metadata.content_type(path))

    # -------------------------------------------------------------------------------------------- VPNs
    def _vpns(self) -> tuple[Sequence[VpnClientRow], HostPlan] | None:
        """The VPN clients as the last pass knew them; none while a failure is being retried anyway."""
        if self._last is None or self._last.outcome.failures:
            return None
        return self._last.rows.vpn_clients, self._last.plan

    # -------------------------------------------------------------------------------------------- lease
    async def _take_lease(self) -> None:
        """Wait until a process that died has lost it. Raises `Conflict` when one lives."""
        host, lease_s = self._config.host.name, self._config.network.lease_s
        waited = False
        give_up = time.monotonic() + lease_s + 2 * self._config.host.heartbeat_interval_s
        while True:
            await self._beat()
            if self._holding:
                return
            if time.monotonic() > give_up:
                raise Conflict(
                    f"Host {host} is served by another network agent, which lives: end it, or start this one under "
                    "another host name."
                )
            if not waited:
                log.warning("another network agent has served host %s: waiting until its lease ends", host)
            waited = True
            await asyncio.sleep(min(_ASK_FOR_LEASE_S, lease_s / 10))

    async def _hold(self) -> None:
        """Tell the kernel how long the lease runs, unless something may be left of what is now another host's."""
        try:
            if self._settled or self._lease.remaining_s <= 0:
                await asyncio.to_thread(self._host.hold, self._lease.remaining_s)
        except KilonovaError as error:
            log.warning("host %s: %s", self._config.host.name, error)
            self._look_soon()

    def _look_soon(self) -> None:
        self._look = True
        self._wake.set()

    # -------------------------------------------------------------------------------------------- heartbeat
    async def _heartbeats(self) -> None:
        interval_s = self._config.host.heartbeat_interval_s
        while True:
            await asyncio.sleep(interval_s if self._holding else min(interval_s, _ASK_FOR_LEASE_S))
            try:
                await self._beat()
            except Exception:
                log.exception("heartbeat")
                if self._holding and self._lease.remaining_s <= 0:
                    self._holding = False
                    log.error("host %s could not renew its lease in time: it touches nothing", self._config.host.name)

    async def _beat(self) -> None:
        """Say that the host lives and renew its lease; what the lease allows changes with it."""
        await self._find_wires()
        had = self._lease.remaining_s > 0
        found = await self._lease.renew(self._beat_of())
        held_before, self._holding = self._holding, found.held
        if not found.held:
            if held_before:
                log.error("host %s lost its lease: it touches nothing until it has it again", self._config.host.name)
                self._settled = False
                await self._hold()
            return
        if not had or not held_before:
            self._settled = found.kept
            self._look_soon()
        if found.others != self._guarded:
            self._guarded = found.others
            self._wake.set()
        await self._hold()

    async def _find_wires(self) -> bool:
        """Look which wires there are; whether that changed. A failure to look must not keep the lease from going on."""
        try:
            found = await asyncio.to_thread(self._host.wires)
        except (KilonovaError, OSError) as error:
            log.warning("the wires of host %s: %s", self._config.host.name, error)
            return False
        before, self._wires = self._wires, found
        return before != found

    def _beat_of(self) -> Beat:
        progress: dict[str, Any] = {"passes": self._passes}
        if self._last is not None:
            progress |= {
                "networks": len(self._last.plan.bridges),
                "ports": len(self._last.plan.ports),
                "routers": len(self._last.plan.routers),
                "failures": len(self._last.outcome.failures),
                "guarded": self._last.plan.guarded and "" not in self._last.outcome.failures,
            }
        host = self._config.host
        return Beat(host.name, host.availability_zone, self._started_at, self._wires.capacity(), progress)


def make_host(config: Config) -> Host:
    """The kernel's host, or with `host.simulate` one that touches nothing."""
    if config.host.simulate:
        return SimulatedHost(config.host)
    from kilonova.network.host.apply import KernelHost

    return KernelHost(config)


def _raise_failure(turn: Pass, what: str, owners: list[str]) -> None:
    """The first failure of the host or of these owners: the cause before what follows from it."""
    for owner in ("", *owners):
        if owner in turn.outcome.failures:
            raise CommandFailed(f"{what} could not be realised: {turn.outcome.failures[owner]}")
