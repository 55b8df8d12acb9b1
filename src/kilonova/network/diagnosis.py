"""A network agent's answers about what is there: `observe` for `kilonova explain`, `audit` for `kilonova doctor`.

Both compare the kernel with the plan of the rows as they are now, so what the agent has not yet done shows as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from kilonova.context import Context
from kilonova.network.host.interface import Host
from kilonova.network.observation import Concern
from kilonova.network.plan import HostPlan


class Diagnosis:
    """One per agent: `wanted` is its plan now, `failures` what its last pass could not do.

    `look` makes a pass; with true it compares with the kernel.
    """

    def __init__(
        self,
        name: str,
        host: Host,
        wanted: Callable[[], Awaitable[HostPlan]],
        failures: Callable[[], Mapping[str, str]],
        look: Callable[[bool], Awaitable[None]],
    ) -> None:
        self._name = name
        self._host = host
        self._wanted = wanted
        self._failures = failures
        self._look = look

    async def on_observe(self, _: Context, args: dict[str, Any]) -> Any:
        """{ports, routers, networks, addresses, routes} -> an `Observation`, as plain data."""
        concern = msgspec.convert(args, Concern)
        found = await asyncio.to_thread(self._host.observe, await self._wanted(), concern)
        mine = {"", *concern.ports, *concern.routers, *concern.networks}
        failures = {owner: why for owner, why in self._failures().items() if owner in mine}
        return msgspec.to_builtins(msgspec.structs.replace(found, host=self._name, failures=failures))

    async def on_audit(self, _: Context, args: dict[str, Any]) -> Any:
        """{mend} -> an `Audit`, as plain data; with `mend` the host is looked at and mended first.

        What the rows ask for since a moment is done before: only what nobody would do by itself now is drift.
        """
        mend = bool(args.get("mend"))
        await self._look(mend)
        found = await asyncio.to_thread(self._host.audit, await self._wanted(), mend=mend)
        return msgspec.to_builtins(msgspec.structs.replace(found, host=self._name, failures=dict(self._failures())))
