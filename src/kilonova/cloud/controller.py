"""What every use case of the cloud controller is given: the store, the bus, the configuration.

The use cases are functions in this package's modules, one module per noun. Each is one transaction on the store
followed by the wake-ups that let the agents see it sooner.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kilonova.bus import Bus
from kilonova.config import Config
from kilonova.context import Context
from kilonova.store.database import Store


@dataclass(frozen=True)
class Cloud:
    store: Store
    bus: Bus
    config: Config

    async def wake_networks(self, hosts: Iterable[str | None], context: Context) -> None:
        """Tell the network agents of these hosts to look at the store again; empty names are passed over."""
        for host in sorted({host for host in hosts if host}):
            await self.bus.cast(f"network.{host}", "look_again", {}, context=context)

    async def run_operation(self, topic: str, operation_id: str, context: Context) -> None:
        """Tell the workers of a topic that an operation waits for them."""
        await self.bus.cast(topic, "run_operation", {"operation_id": operation_id}, context=context)
