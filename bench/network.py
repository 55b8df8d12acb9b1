#!/usr/bin/env python3
"""What the network controller costs: changes of a host, packets, first networks, addresses, many guests and projects.

Needs root for all parts but `addresses`. A ratio is of two things measured in turns in the same run, so that a busy
machine hits both; absolute times want a quiet one. Parts are chosen by --only.

Example: sudo .venv/bin/python bench/network.py --only ports --only packets --out network.json
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import address_costs
import many
import network_host
import network_paths
import packets
import report
import running
from first_network import Script, until_answered
from report import Figure, latencies

from kilonova.network import planner, rows
from kilonova.network.host import namespaces
from kilonova.store.ports import release_port


@dataclass(frozen=True)
class Options:
    ports: int
    runs: int
    guests: int
    projects: int
    give_up: Callable[[], bool]


Part = Callable[[Options], Coroutine[Any, Any, list[Figure]]]


async def ports(options: Options) -> list[Figure]:
    """One port more and one less on a host that has many."""
    async with network_host.host(options.ports // 200 + 1) as host:
        for number in range(max(1, options.ports // 200)):
            await host.project()
            await host.ports(min(200, options.ports), project=number)
        await host.look()
        times: dict[str, list[float]] = {}

        def note(name: str, seconds: float) -> None:
            times.setdefault(name, []).append(seconds)

        with network_host.kernel_clock() as clock:
            for number in range(options.runs):
                (made,) = await host.ports(1, project=number % len(host.projects))
                clock.forget()
                began = time.perf_counter()
                await host.call("wire", port_id=made.id)
                note("whole pass", time.perf_counter() - began)
                note("one port more", clock.total)
                began = time.perf_counter()
                found = await host.cloud.store.read(rows.load, network_host.HOST)
                note("rows", time.perf_counter() - began)
                began = time.perf_counter()
                planner.plan(found, host.cloud.config)
                note("plan", time.perf_counter() - began)
                await host.cloud.store.write(release_port, made.id)
                clock.forget()
                await host.look()
                note("one port less, filters and flows", clock.total - clock.spent.get("removed links", 0.0))
                note("one port less, its device", clock.spent.get("removed links", 0.0))
                if options.give_up():
                    break
    bars = {"one port more": 2.0, "one port less, filters and flows": 2.0}
    return [
        latencies(f"{name}; {options.ports} ports", spent, bars.get(name), least_ms=round(1000 * min(spent), 2))
        for name, spent in times.items()
    ]


async def paths(options: Options) -> list[Figure]:
    """What a datagram costs, by path; few and many ports on the host."""
    guests: list[str] = []
    try:
        async with network_host.host(8) as small, network_host.host(options.ports // 200 + 2) as large:
            await small.project()
            await small.ports(8)
            for number in range(max(1, options.ports // 200)):
                await large.project()
                await large.ports(min(200, options.ports) - (2 if number == 0 else 0), project=number)
            await small.look()
            await large.look()
            few, port = await network_paths.pair(small, "with groups, 10 ports", guests)
            floating = await network_paths.floating(small, port, guests[-1])
            many, _ = await network_paths.pair(large, f"with groups, {options.ports} ports", guests)
            with network_paths.bare() as (bridge, routed):
                compared = [
                    ([bridge, few, many], [None, 1.6, None]),
                    ([few, many], [None, 1.03]),
                    ([routed, floating], [None, 1.7]),
                ]
                figures: list[Figure] = []
                for chosen, bars in compared:
                    costs = await asyncio.to_thread(
                        packets.compare, chosen, turns=10 * options.runs, give_up=options.give_up
                    )
                    for cost, bar in zip(costs[1:], bars[1:], strict=True):
                        ratio = round(cost.ratio, 3)
                        extra: dict[str, float] = {"ns": round(cost.ns), "base_ns": round(costs[0].ns)}
                        name = f"{cost.name} : {costs[0].name}"
                        figures.append(Figure(name, "x", cost.turns, ratio, ratio, bar, extra=extra))
                for path in (bridge, routed, few, many, floating):
                    path.close()
            return figures
    finally:
        for name in guests:
            namespaces.delete(name)


async def first(options: Options) -> list[Figure]:
    """A project's network from nothing until dnsmasq answers; by the agent, and by a script in turns with it."""
    by_agent, by_script, written, ratios = list[float](), list[float](), list[float](), list[float]()
    async with network_host.host(options.runs + 2) as host:
        script = Script(host.directory)
        try:
            for number in range(options.runs + 1):
                began = time.perf_counter()
                await host.project()
                rows_s = time.perf_counter() - began
                network = host.networks[-1]
                began = time.perf_counter()
                await host.call("realise", network_id=network)
                assert host.agent._last is not None
                plan = host.agent._last.plan
                service = plan.services[network]
                router = next(
                    each for each in plan.routers.values() if network in {leg.network_id for leg in each.interfaces}
                )
                where = f"{host.prefix}-r-{router.router_id[:11]}"
                await asyncio.to_thread(until_answered, where, service.subnets[0].service_address)
                agent_s = time.perf_counter() - began
                script_s = await asyncio.to_thread(script.make, number)
                if number:  # the first ones load what later ones find
                    by_agent.append(agent_s)
                    by_script.append(script_s)
                    written.append(rows_s)
                    ratios.append(agent_s / script_s)
                if options.give_up():
                    break
        finally:
            script.close()
    ratio = round(statistics.median(ratios), 2)
    return [
        latencies("first network: its rows", written),
        latencies("first network: made and answering", by_agent, 60.0, least_ms=round(1000 * min(by_agent), 1)),
        latencies("the same by a script", by_script, least_ms=round(1000 * min(by_script), 1)),
        Figure("first network : script", "x", len(ratios), ratio, ratio, 1.5),
    ]


async def addresses(options: Options) -> list[Figure]:
    """Ports of one network to the last address of a /16; 64 first runs at once, of 64 projects and of one."""
    figures = await address_costs.to_the_last(options.give_up)
    with running.running("--simulate") as cloud:
        figures += await asyncio.to_thread(address_costs.first_runs, cloud)
    return figures


async def guests(options: Options) -> list[Figure]:
    with running.running("--sandbox", "--driver", "namespace") as cloud:
        return await asyncio.to_thread(many.guests, cloud, options.guests, options.give_up)


async def projects(options: Options) -> list[Figure]:
    with running.running("--sandbox", "--driver", "namespace") as cloud:
        return await asyncio.to_thread(many.projects, cloud, options.projects, options.give_up)


PARTS: dict[str, Part] = {
    "ports": ports,
    "packets": paths,
    "first": first,
    "addresses": addresses,
    "guests": guests,
    "projects": projects,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=tuple(PARTS), help="this part; may be given several times")
    parser.add_argument("--ports", type=int, default=1000, help="on the host")
    parser.add_argument("--runs", type=int, default=20, help="of each change")
    parser.add_argument("--guests", type=int, default=500)
    parser.add_argument("--projects", type=int, default=200)
    parser.add_argument("--time-limit", type=float, default=900.0, help="seconds, of all parts")
    parser.add_argument("--out", help="JSON file; else stdout")
    given = parser.parse_args()
    end = time.monotonic() + given.time_limit
    options = Options(given.ports, given.runs, given.guests, given.projects, lambda: time.monotonic() > end)
    before = report.machine()
    figures: list[Figure] = []
    for name in given.only or PARTS:
        figures += asyncio.run(PARTS[name](options))
    return report.write("network", figures, given.out, before)


if __name__ == "__main__":
    sys.exit(main())
