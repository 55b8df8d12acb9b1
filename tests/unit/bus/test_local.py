"""What only the bus within one process has to take care of: memory."""

from __future__ import annotations

from kilonova.bus.local import LocalBus
from kilonova.context import system_context


async def test_a_topic_nobody_serves_does_not_keep_expired_messages(bus: LocalBus) -> None:
    for _ in range(1000):
        await bus.cast("compute.dead", "look_again", {}, context=system_context(), deadline_s=-1)
    assert bus.waiting("compute.dead") == 1
    assert bus.waiting("compute.other") == 0
