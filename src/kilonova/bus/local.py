"""The bus within one process: the same rules as over a broker, so nothing works here that would not work there.

Arguments and replies go through msgpack, messages expire at their deadline, a method outside the allow-list is refused,
and a handler's defect reaches the caller as `InternalError` without its details.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any

import msgspec

from kilonova import log as logs
from kilonova.bus import Handler
from kilonova.context import Context
from kilonova.errors import DeadlineExceeded, InternalError, KilonovaError, NotSupported

log = logging.getLogger(__name__)


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    topic: str
    method: str
    args: bytes
    context: Context
    deadline: float
    reply: asyncio.Future[bytes | KilonovaError] | None = None

    @property
    def expired(self) -> bool:
        return time.monotonic() > self.deadline or (self.reply is not None and self.reply.done())


class _Queue(asyncio.Queue[_Message]):
    """Forgets what expired at its head, so that a topic nobody serves does not fill the memory."""

    def _init(self, maxsize: int) -> None:
        self._queue: deque[_Message] = deque()

    def _put(self, item: _Message) -> None:
        while self._queue and self._queue[0].expired:
            self._queue.popleft()
        self._queue.append(item)


class LocalBus:
    """Queues per topic in memory; what nobody has taken by its deadline is dropped."""

    def __init__(self) -> None:
        self._queues: dict[str, _Queue] = defaultdict(_Queue)
        self._subscriptions: dict[str, list[_LocalSubscription]] = defaultdict(list)

    async def call(
        self, topic: str, method: str, args: Mapping[str, Any], *, context: Context, deadline_s: float = 30.0
    ) -> Any:
        reply: asyncio.Future[bytes | KilonovaError] = asyncio.get_running_loop().create_future()
        self._queues[topic].put_nowait(_message(topic, method, args, context, deadline_s, reply))
        try:
            async with asyncio.timeout(deadline_s):
                answer = await reply
        except TimeoutError:
            raise DeadlineExceeded(f"{topic} did not answer {method} within {deadline_s:g} s") from None
        if isinstance(answer, KilonovaError):
            raise answer
        return msgspec.msgpack.decode(answer)

    async def cast(
        self, topic: str, method: str, args: Mapping[str, Any], *, context: Context, deadline_s: float = 60.0
    ) -> None:
        self._queues[topic].put_nowait(_message(topic, method, args, context, deadline_s, None))

    async def fanout(self, topic: str, method: str, args: Mapping[str, Any], *, context: Context) -> None:
        for subscription in self._subscriptions[topic]:
            subscription.tell(_message(topic, method, args, context, 60.0, None))

    def subscribe(self, topic: str, handlers: Mapping[str, Handler], *, concurrency: int = 64) -> _LocalSubscription:
        subscription = _LocalSubscription(self, topic, handlers, self._queues[topic], concurrency)
        self._subscriptions[topic].append(subscription)
        return subscription

    def waiting(self, topic: str) -> int:
        """How many messages of a topic nobody has taken yet."""
        return self._queues[topic].qsize() if topic in self._queues else 0

    def forget(self, subscription: _LocalSubscription) -> None:
        if subscription in self._subscriptions[subscription.topic]:
            self._subscriptions[subscription.topic].remove(subscription)

    async def close(self) -> None:
        for subscriptions in list(self._subscriptions.values()):
            for subscription in list(subscriptions):
                await subscription.close()


def _message(
    topic: str,
    method: str,
    args: Mapping[str, Any],
    context: Context,
    deadline_s: float,
    reply: asyncio.Future[bytes | KilonovaError] | None,
) -> _Message:
    return _Message(
        topic=topic,
        method=method,
        args=msgspec.msgpack.encode(args),
        context=context,
        deadline=time.monotonic() + deadline_s,
        reply=reply,
    )


class _LocalSubscription:
    def __init__(
        self,
        bus: LocalBus,
        topic: str,
        handlers: Mapping[str, Handler],
        queue: asyncio.Queue[_Message],
        concurrency: int,
    ) -> None:
        self.topic = topic
        self._bus = bus
        self._handlers = dict(handlers)
        self._slots = asyncio.Semaphore(concurrency)
        self._running: set[asyncio.Task[None]] = set()
        self._consumer = asyncio.create_task(self._consume(queue), name=f"bus-{topic}")

    async def _consume(self, queue: asyncio.Queue[_Message]) -> None:
        while True:
            await self._slots.acquire()
            try:
                message = await queue.get()
            except asyncio.CancelledError:
                self._slots.release()
                raise
            self._begin(message).add_done_callback(lambda _: self._slots.release())

    def tell(self, message: _Message) -> None:
        """Handle a fan-out message as soon as a slot is free."""
        self._begin(message, wait=True)

    def _begin(self, message: _Message, *, wait: bool = False) -> asyncio.Task[None]:
        work = self._when_free(message) if wait else self._handle(message)
        task = asyncio.create_task(work, name=f"{message.topic}.{message.method}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def _when_free(self, message: _Message) -> None:
        async with self._slots:
            await self._handle(message)

    async def _handle(self, message: _Message) -> None:
        if message.expired:
            return
        logs.request_id.set(message.context.request_id)
        try:
            handler = self._handlers.get(message.method)
            if handler is None:
                raise NotSupported(f"{message.topic} has no method {message.method}")
            result = msgspec.msgpack.encode(await handler(message.context, msgspec.msgpack.decode(message.args)))
        except KilonovaError as error:
            self._fail(message, error)
        except asyncio.CancelledError:
            self._fail(message, InternalError(f"{message.topic} stopped during {message.method}"))
            raise
        except Exception:
            log.exception("%s.%s failed", message.topic, message.method)
            self._fail(message, InternalError(f"{message.topic} failed in {message.method}; its log has the cause"))
        else:
            if message.reply and not message.reply.done():
                message.reply.set_result(result)

    def _fail(self, message: _Message, error: KilonovaError) -> None:
        if message.reply is None:
            log.warning("%s.%s: %s", message.topic, message.method, error)
        elif not message.reply.done():
            message.reply.set_result(KilonovaError.from_kind(error.kind, error.message))

    async def close(self) -> None:
        self._bus.forget(self)
        self._consumer.cancel()
        # A handler may close its own subscription; it cannot wait for itself.
        await asyncio.gather(self._consumer, *(self._running - {asyncio.current_task()}), return_exceptions=True)
