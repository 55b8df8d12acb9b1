"""The compute controller of one host: runs the operations of its instances, answers for its guests, keeps both alike.

It hears `compute.<host>` (`run_operation`, `console`, `look_again`). Work on one instance is done one after another; a
delete cuts short whatever else is being done. A sweep compares guests with rows (`kilonova.compute.sweep`) at start, by
a timer and when asked, so nothing here depends on a message having arrived.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from kilonova.bus import Bus, Subscription
from kilonova.compute import rows
from kilonova.compute.driver import Driver, PowerState
from kilonova.compute.drivers import make_driver
from kilonova.compute.guests import Guests
from kilonova.compute.image_cache import ImageCache
from kilonova.compute.rows import InstanceRow
from kilonova.compute.sweep import Verdict, decide
from kilonova.config import Config
from kilonova.context import Context, system_context
from kilonova.errors import BadRequest, KilonovaError, NotFound
from kilonova.ids import InstanceId
from kilonova.operations import OperationRunner, Work
from kilonova.store.database import Store
from kilonova.store.operations import Operation
from kilonova.store.schema import now
from kilonova.store.services import heartbeat

log = logging.getLogger(__name__)

SHUTDOWN_WITHIN_S = 60.0
IMAGE_UNUSED_FOR_S = 24 * 3600.0
BROUGHT_BACK_AT_ONCE = 4


class ComputeAgent:
    """`start` it once its host's network agent runs; `stop` leaves the guests running."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        config: Config,
        *,
        image_token: Callable[[], str],
        driver: Driver | None = None,
    ) -> None:
        """`image_token` makes a token for the image service; `driver` is the configuration's unless given."""
        self._store = store
        self._bus = bus
        self._config = config
        self._host = config.host.name
        self._topic = f"compute.{self._host}"
        self.driver = driver or make_driver(config)
        self.images = ImageCache(config.state_dir / "images", f"{config.api.url}/image", image_token)
        self._guests = Guests(store, bus, config, self.driver, self.images)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._at_work: defaultdict[str, set[str]] = defaultdict(set)
        self._tasks: set[asyncio.Task[None]] = set()
        self._look_again = asyncio.Event()
        self._started_at = now()
        self.swept_at = ""
        """When guests and rows were last made alike."""
        self._subscription: Subscription | None = None
        work: dict[str, Work] = {
            "server.create": self._create,
            "server.delete": self._delete,
            "server.start": self._start,
            "server.stop": self._stop,
            "server.reboot": self._reboot,
            "server.pause": self._pause,
            "server.unpause": self._unpause,
        }
        # the owner is the host: there is one compute controller on it, and its next life may take over at once
        self._runner = OperationRunner(store, bus, topic=self._topic, owner=self._topic, work=work, unwind=self._unwind)

    async def start(self) -> None:
        """Find the guests, say what the host offers, take work."""
        await self.driver.open(self._on_guest_ended)
        await self._beat()
        handlers = {
            "run_operation": self._runner.on_message,
            "console": self._on_console,
            "look_again": self._on_look_again,
        }
        self._subscription = self._bus.subscribe(self._topic, handlers)
        self._spawn(self._beat_always(), "compute-heartbeat")
        self._spawn(self._sweep_always(), "compute-sweep")

    async def stop(self) -> None:
        """Take no more work; what is begun is resumed at the next start. Guests run on."""
        if self._subscription is not None:
            await self._subscription.close()
        await self._runner.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.driver.close()

    # -------------------------------------------------------------------------------------------- operations
    async def _create(self, operation: Operation) -> None:
        async with self._instance(operation) as instance:
            if instance is None:
                await self._gone(operation)
                return
            if instance.task_state != "deleting":
                await self._guests.build(instance, operation.context)
            if not await self._finish(operation, PowerState.RUNNING, "running"):
                await self._overtaken(operation)

    async def _delete(self, operation: Operation) -> None:
        for other in self._at_work[operation.resource_id] - {operation.id}:
            self._runner.cancel(other)
        async with self._instance(operation):
            await self._gone(operation)

    async def _start(self, operation: Operation) -> None:
        async with self._existing(operation) as instance:
            await self._guests.build(instance, operation.context)
            await self._finish(operation, PowerState.RUNNING, "running")

    async def _stop(self, operation: Operation) -> None:
        async with self._existing(operation) as instance:
            await self.driver.shutdown(instance.id, _patience_s(operation))
            await self._finish(operation, PowerState.SHUTDOWN, "shutdown")

    async def _reboot(self, operation: Operation) -> None:
        hard = str(operation.arguments.get("type", "SOFT")).upper() == "HARD"
        async with self._existing(operation) as instance:
            if hard:
                await self._guests.connect(instance, operation.context)
                await self._guests.config_drive(instance)
            alive = await self.driver.state(instance.id) in (PowerState.RUNNING, PowerState.PAUSED)
            if alive:
                await self.driver.reboot(instance.id, hard=hard, timeout_s=_patience_s(operation))
            else:
                await self._guests.build(instance, operation.context)
            await self._finish(operation, PowerState.RUNNING, "running")

    async def _pause(self, operation: Operation) -> None:
        async with self._existing(operation) as instance:
            await self.driver.pause(instance.id)
            await self._finish(operation, PowerState.PAUSED, "paused")

    async def _unpause(self, operation: Operation) -> None:
        async with self._existing(operation) as instance:
            await self.driver.unpause(instance.id)
            await self._finish(operation, PowerState.RUNNING, "running")

    async def _finish(self, operation: Operation, state: PowerState, wanted: str) -> bool:
        return await self._store.write(rows.finish, operation, self._host, state, wanted)

    async def _gone(self, operation: Operation) -> None:
        """Remove the guest, then the instance with what was made for it."""
        await self._guests.remove(InstanceId(operation.resource_id))
        hosts = await self._store.write(rows.finish_delete, operation, self._host)
        await self._guests.tell_network(hosts, operation.context)

    async def _overtaken(self, operation: Operation) -> None:
        """Somebody ended the create while it was done: a delete has its own operation, a failure leaves us to undo."""
        instance = await self._store.read(rows.load_instance, operation.resource_id)
        if instance is None or instance.vm_state == "error":
            await self._guests.remove(InstanceId(operation.resource_id))
            await self._store.write(rows.unclaim, operation.resource_id, self._host)
            await self._guests.tell_network([self._host], operation.context)

    async def _unwind(self, operation: Operation, error: KilonovaError) -> None:
        instance_id = InstanceId(operation.resource_id)
        async with self._lock(instance_id):
            if operation.kind == "server.create":
                await self._guests.remove(instance_id)
                await self._store.write(rows.fail_create, operation, self._host, error.message)
                await self._guests.tell_network([self._host], operation.context)
            elif operation.kind == "server.delete":
                await self._store.write(rows.fail_delete, operation, self._host, error.message)
            else:
                state = await self.driver.state(instance_id)
                await self._store.write(rows.fail_other, operation, self._host, error.message, state)

    def _lock(self, instance_id: str) -> asyncio.Lock:
        """Whoever holds it is alone at work on the instance; kept only as long as somebody does."""
        return self._locks.setdefault(instance_id, asyncio.Lock())

    @asynccontextmanager
    async def _instance(self, operation: Operation) -> AsyncIterator[InstanceRow | None]:
        """The instance of an operation, with nobody else at work on it."""
        instance_id = operation.resource_id
        self._at_work[instance_id].add(operation.id)
        try:
            async with self._lock(instance_id):
                yield await self._store.read(rows.load_instance, instance_id)
        finally:
            self._at_work[instance_id].discard(operation.id)
            if not self._at_work[instance_id]:
                del self._at_work[instance_id]

    @asynccontextmanager
    async def _existing(self, operation: Operation) -> AsyncIterator[InstanceRow]:
        """Raises `NotFound` when the instance is not on this host (any more)."""
        async with self._instance(operation) as instance:
            if instance is None or instance.host != self._host:
                raise NotFound(f"Instance {operation.resource_id} is not on host {self._host}.")
            yield instance

    # -------------------------------------------------------------------------------------------- bus
    async def _on_console(self, _context: Context, args: dict[str, Any]) -> dict[str, str]:
        """`{instance_id, lines}` -> `{output}`: the last lines of the guest's console (none: all that is kept)."""
        lines = args.get("lines")
        if lines is not None and not isinstance(lines, int):
            raise BadRequest("lines is a number")
        return {"output": await self.driver.console(InstanceId(str(args["instance_id"])), lines)}

    async def _on_look_again(self, _context: Context, _args: dict[str, Any]) -> None:
        self._look_again.set()

    # -------------------------------------------------------------------------------------------- heartbeat
    async def _beat(self) -> None:
        guests = await self.driver.list()
        capacity = msgspec.to_builtins(await self.driver.capacity())
        await self._store.write(
            heartbeat,
            "compute",
            self._host,
            availability_zone=self._config.host.availability_zone,
            started_at=self._started_at,
            capacity={**capacity, "vif": self.driver.vif, "running": len(guests)},
            progress={"operations": self._runner.running, "swept_at": self.swept_at},
        )

    async def _beat_always(self) -> None:
        while True:
            await asyncio.sleep(self._config.host.heartbeat_interval_s)
            await self._safely("heartbeat", self._beat)

    # -------------------------------------------------------------------------------------------- sweep
    async def _sweep_always(self) -> None:
        starting = True
        while True:
            self._look_again.clear()
            await self._safely("resume", self._runner.resume)
            if await self._safely("sweep", partial(self.sweep, starting=starting)):
                starting = False
            await self._safely("tidy", self.driver.tidy)
            await self._safely("prune", self._prune_images)
            try:
                async with asyncio.timeout(self._config.host.poll_interval_s):
                    await self._look_again.wait()
            except TimeoutError:
                pass

    async def sweep(self, *, starting: bool = False) -> None:
        """Make guests and rows alike. `starting`: guests that are not there are brought back, not taken for stopped."""
        guests = await self._guest_states()
        instances, busy = await self._store.read(rows.load_host_instances, self._host)
        verdicts = decide(instances, guests, busy, starting=starting)
        at_once = asyncio.Semaphore(BROUGHT_BACK_AT_ONCE)

        async def act(instance_id: InstanceId, verdict: Verdict) -> None:
            async with at_once:
                await self._safely(verdict.name, partial(self._act, instance_id, verdict, starting=starting))

        await asyncio.gather(*(act(instance_id, verdict) for instance_id, verdict in verdicts.items()))
        self.swept_at = now().isoformat(timespec="seconds")

    async def _guest_states(self) -> dict[InstanceId, PowerState]:
        return {instance_id: await self._state(instance_id) for instance_id in await self.driver.list()}

    async def _state(self, instance_id: InstanceId) -> PowerState:
        """A guest's state; one that does not answer in time runs."""
        try:
            return await self.driver.state(instance_id)
        except KilonovaError as error:
            log.warning("instance %s: %s", instance_id, error.message)
            return PowerState.RUNNING

    async def _act(self, instance_id: InstanceId, verdict: Verdict, *, starting: bool) -> None:
        """Do what the verdict asks, if looking again, with nobody else at work, leads to the same."""
        async with self._lock(instance_id):
            state = await self._state(instance_id)
            instance = await self._store.read(rows.load_instance, instance_id)
            busy = await self._store.read(rows.instances_at_work)
            mine = [instance] if instance is not None and instance.host == self._host else []
            guests = {} if state is PowerState.NONE else {instance_id: state}
            if decide(mine, guests, busy, starting=starting).get(instance_id) is not verdict:
                return
            log.info("instance %s: %s", instance_id, verdict.value)
            match verdict:
                case Verdict.DESTROY:
                    await self._guests.remove(instance_id)
                    await self._guests.tell_network([self._host], system_context())
                case Verdict.BRING_BACK:
                    await self._bring_back(mine[0])
                case Verdict.STOPPED:
                    await self._store.write(rows.guest_ended, instance_id, self._host)
                case Verdict.SHOW:
                    await self._store.write(rows.show_state, instance_id, state)
                case Verdict.ABANDONED:
                    await self._guests.remove(instance_id)
                    reason = f"Host {self._host} was interrupted while it made the server; delete it and try again."
                    await self._store.write(rows.abandoned, instance_id, self._host, reason)
                    await self._guests.tell_network([self._host], system_context())

    async def _bring_back(self, instance: InstanceRow) -> None:
        try:
            await self._guests.build(instance, system_context())
            if instance.wanted_power == "paused":
                await self.driver.pause(instance.id)
            await self._store.write(rows.show_state, instance.id, await self.driver.state(instance.id))
        except KilonovaError as error:
            log.warning("instance %s cannot be brought back: %s", instance.id, error.message)
            await self._store.write(rows.start_failed, instance.id, error.message)

    def _on_guest_ended(self, instance_id: InstanceId) -> None:
        async def look() -> None:
            async with self._lock(instance_id):
                await self._look_at(instance_id)

        self._spawn(look(), f"guest-ended-{instance_id}")

    async def _look_at(self, instance_id: InstanceId) -> None:
        """A guest seems to have ended by itself: if so, its instance is stopped."""
        state = await self.driver.state(instance_id)
        if state in (PowerState.RUNNING, PowerState.PAUSED):
            return
        if await self._store.write(rows.guest_ended, instance_id, self._host):
            log.info("instance %s: its guest ended by itself", instance_id)

    async def _prune_images(self) -> None:
        cached = self.images.cached()
        if cached:
            used, existing = await self._store.read(rows.image_use, self._host, cached)
            await self.images.prune(used, existing, IMAGE_UNUSED_FOR_S)

    # -------------------------------------------------------------------------------------------- tasks
    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _safely(self, name: str, work: Callable[[], Awaitable[object]]) -> bool:
        """Do one thing of a loop that must go on; whether it went well."""
        try:
            await work()
        except KilonovaError as error:
            log.warning("%s: %s", name, error.message)
        except Exception:
            log.exception("%s failed; it is tried again", name)
        else:
            return True
        return False


def _patience_s(operation: Operation) -> float:
    """How long a guest may take to power off: not so long that the operation's deadline passes."""
    remaining_s = (operation.deadline - now()).total_seconds()
    return max(1.0, min(SHUTDOWN_WITHIN_S, remaining_s / 2))
