"""What is not as it should be, in the rows and on every network host; and mending what is safe to mend."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from kilonova.cloud import leaks
from kilonova.cloud.controller import Cloud
from kilonova.context import Context
from kilonova.errors import KilonovaError
from kilonova.network.observation import Audit
from kilonova.scheduler.host_state import is_alive
from kilonova.store.schema import now, services

ANSWER_WITHIN_S = 30.0


async def audit(cloud: Cloud, context: Context, *, mend: bool) -> dict[str, Any]:
    """{rows: leaks, hosts: [{host, alive, age_s, error, drift, leaks, failures}]}; with `mend` what is left then."""
    if mend:
        hosts = await cloud.store.write(leaks.mend)
        await cloud.wake_networks(hosts, context)
        for host in await cloud.store.read(_hosts, "compute"):
            await cloud.bus.cast(f"compute.{host}", "look_again", {}, context=context)
    known = await cloud.store.read(_network_hosts)
    told = await asyncio.gather(*(_audit(cloud, context, host["host"], mend) for host in known))
    found = await cloud.store.read(leaks.find)
    return {
        "rows": msgspec.to_builtins(found),
        "hosts": [host | answer for host, answer in zip(known, told, strict=True)],
    }


async def _audit(cloud: Cloud, context: Context, host: str, mend: bool) -> dict[str, Any]:
    try:
        answer = await cloud.bus.call(
            f"network.{host}", "audit", {"mend": mend}, context=context, deadline_s=ANSWER_WITHIN_S
        )
    except KilonovaError as error:
        return {"error": error.message, "drift": [], "leaks": [], "failures": {}}
    told = msgspec.convert(answer, Audit)
    return {
        "error": None,
        "drift": [msgspec.to_builtins(item) | {"text": str(item)} for item in told.drift],
        "leaks": msgspec.to_builtins(told.leaks),
        "failures": told.failures,
    }


def _hosts(tx: Connection, kind: str) -> list[str]:
    return list(tx.execute(select(services.c.host).where(services.c.kind == kind).order_by(services.c.host)).scalars())


def _network_hosts(tx: Connection) -> list[dict[str, Any]]:
    moment = now()
    query = select(services).where(services.c.kind == "network").order_by(services.c.host)
    return [
        {
            "host": row.host,
            "alive": is_alive(row.seen_at, row.forced_down, moment),
            "age_s": round((moment - row.seen_at).total_seconds(), 1),
        }
        for row in tx.execute(query)
    ]
