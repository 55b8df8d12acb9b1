"""The message bus: a wake-up, never the truth.

`call` waits for the reply of one subscriber of a topic, `cast` asks one and does not wait, `fanout` tells all.
Arguments and results are plain data (what msgpack holds). Handlers are an explicit allow-list per topic. A message that
is lost or doubled costs at most one poll interval, because every receiver also looks at the store by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from kilonova.context import Context

Handler = Callable[[Context, dict[str, Any]], Awaitable[Any]]


class Subscription(Protocol):
    async def close(self) -> None:
        """Take no more messages; those being handled are finished."""


class Bus(Protocol):
    async def call(
        self, topic: str, method: str, args: Mapping[str, Any], *, context: Context, deadline_s: float = 30.0
    ) -> Any:
        """Ask one subscriber and wait for its reply.

        Raises the `KilonovaError` the handler raised, or `DeadlineExceeded` when no reply came within `deadline_s`.
        """

    async def cast(
        self, topic: str, method: str, args: Mapping[str, Any], *, context: Context, deadline_s: float = 60.0
    ) -> None:
        """Ask one subscriber, do not wait; dropped when nobody took it within `deadline_s`."""

    async def fanout(self, topic: str, method: str, args: Mapping[str, Any], *, context: Context) -> None:
        """Tell every present subscriber of the topic."""

    def subscribe(self, topic: str, handlers: Mapping[str, Handler], *, concurrency: int = 64) -> Subscription:
        """Serve `handlers` (method name -> coroutine) on a topic; at most `concurrency` at a time."""

    async def close(self) -> None:
        """Close every subscription."""
