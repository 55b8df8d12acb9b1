"""Writes down when VPN clients were last heard of, and sees soon when nobody serves a VPN any more.

A client that is in use makes a handshake every two minutes, so that is how often its row changes at most.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection

from kilonova.errors import KilonovaError
from kilonova.network.host.interface import Host
from kilonova.network.plan import HostPlan
from kilonova.network.rows import VpnClientRow
from kilonova.store import schema, statements
from kilonova.store.database import Store

log = logging.getLogger(__name__)

EVERY_S = 5.0
SHARE = 0.01
"""Of a processor: when looking takes long, it is done more rarely."""


def newer(rows: Sequence[VpnClientRow], seen: Mapping[str, Mapping[str, int]]) -> dict[str, datetime]:
    """Client -> its last handshake, where the row does not know it yet."""
    found: dict[str, datetime] = {}
    for row in rows:
        moment = seen.get(row.vpn_id, {}).get(row.public_key)
        if moment is not None:
            at = datetime.fromtimestamp(moment, UTC)
            if row.handshake_at is None or row.handshake_at < at:
                found[row.id] = at
    return found


class VpnWatch:
    """One per agent. `last` gives what its last pass read and planned; `alarm` makes it look at the host at once."""

    def __init__(
        self,
        store: Store,
        host: Host,
        last: Callable[[], tuple[Sequence[VpnClientRow], HostPlan] | None],
        alarm: Callable[[], None],
    ) -> None:
        self._store = store
        self._host = host
        self._last = last
        self._alarm = alarm
        self._written: dict[str, datetime] = {}

    async def run(self) -> None:
        """Until cancelled."""
        pause_s = EVERY_S
        while True:
            await asyncio.sleep(pause_s)
            began = time.monotonic()
            try:
                await self.look()
            except Exception:
                log.exception("VPN handshakes")
            pause_s = max(EVERY_S, (time.monotonic() - began) / SHARE)

    async def look(self) -> None:
        """Once."""
        last = self._last()
        if last is None or not last[0]:
            return
        rows, plan = last
        try:
            seen = await asyncio.to_thread(self._host.handshakes, plan)
        except (KilonovaError, OSError) as error:
            log.warning("a VPN does not answer, looking at the host again: %s", error)
            self._alarm()
            return
        found = newer(rows, seen)
        news = {client_id: at for client_id, at in found.items() if self._written.get(client_id) != at}
        if news:
            await self._store.write(_record, news)
        self._written = found


def _record(tx: Connection, news: Mapping[str, datetime]) -> None:
    for client_id, at in news.items():
        statements.change(tx, schema.vpn_clients, {"id": client_id}, handshake_at=at)
