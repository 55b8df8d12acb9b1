"""A host to measure: a store, the bus, the real network agent and its kernel, in namespaces of a prefix of its own.

What is made is made by the cloud controller's functions in the process, so that rows, plan and kernel are those of a
running cloud; what is left out is HTTP and guests.
"""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sqlalchemy import insert

from kilonova.bus.local import LocalBus
from kilonova.cloud import floating_ranges, pool
from kilonova.cloud.controller import Cloud
from kilonova.config import Config, HostConfig
from kilonova.context import system_context
from kilonova.ids import new_id
from kilonova.network import quota
from kilonova.network.agent import NetworkAgent
from kilonova.network.assignment import ensure_project_network
from kilonova.network.host import conntrack, links, nftables
from kilonova.network.host.removal import remove_everything
from kilonova.network.ports import MadePort, make_port
from kilonova.store import schema
from kilonova.store.database import Store

HOST = "host1"
FLOATING_RANGE = "203.0.113.0/24"
GATEWAY = "203.0.113.1"


@dataclass
class Host:
    """A running agent and the cloud's use cases beside it."""

    cloud: Cloud
    agent: NetworkAgent
    directory: Path
    projects: list[str] = field(default_factory=list)
    networks: list[str] = field(default_factory=list)

    @property
    def prefix(self) -> str:
        return self.cloud.config.host.prefix

    async def call(self, method: str, **args: str) -> Any:
        return await self.cloud.bus.call(f"network.{HOST}", method, args, context=system_context(), deadline_s=120)

    async def project(self) -> str:
        """A project with its network, rows only; ports of it without limit."""
        project_id = new_id()

        def rows(tx: Any) -> str:
            tx.execute(insert(schema.quotas).values(project_id=project_id, resource="port", hard_limit=quota.UNLIMITED))
            return str(ensure_project_network(tx, self.cloud.config, project_id, system_context())["id"])

        self.projects.append(project_id)
        self.networks.append(await self.cloud.store.write(rows))
        return project_id

    async def ports(self, number: int, *, project: int = 0, vif: str = "tap") -> list[MadePort]:
        """Rows of ports bound to this host, in the default group of a project."""

        def rows(tx: Any) -> list[MadePort]:
            return [
                make_port(
                    tx,
                    network_id=self.networks[project],
                    project_id=self.projects[project],
                    host=HOST,
                    vif=vif,
                    device_owner="compute:nova",
                    device_id=new_id(),
                )
                for _ in range(number)
            ]

        return await self.cloud.store.write(rows)

    async def look(self) -> None:
        answer = await self.call("look_again")
        if answer["failures"]:
            raise RuntimeError(str(answer["failures"]))


@asynccontextmanager
async def host(networks: int, *, network_size: int = 256) -> AsyncIterator[Host]:
    """A host with a pool of so many networks; nothing is left of it afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="kilonova-bench-"))
    directory.chmod(0o755)  # noqa: ASYNC240 - before anything runs
    values: dict[str, Any] = {"prefix": "b" + secrets.token_hex(3), "public_gateway": GATEWAY}
    config = Config(
        state_dir=directory / "state",
        host=HostConfig(name=HOST, driver="namespace", poll_interval_s=3600.0, **values),
    )
    config.state_dir.mkdir()
    store, bus = Store(config.database_url), LocalBus()
    await store.open()
    agent = NetworkAgent(store, bus, config)
    try:
        await agent.start()
        cloud = Cloud(store, bus, config)
        context = system_context()
        request = pool.PoolRequest(num_networks=networks, network_size=network_size)
        await pool.create(cloud, context, request)
        await floating_ranges.create(cloud, context, HOST, FLOATING_RANGE)
        yield Host(cloud, agent, directory)
    finally:
        await agent.stop()
        await bus.close()
        await store.close()
        remove_everything(config)
        shutil.rmtree(directory, ignore_errors=True)


@dataclass
class Clock:
    """Seconds spent in the kernel on behalf of the agent, by what was asked."""

    spent: dict[str, float] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.spent.values())

    def forget(self) -> None:
        self.spent.clear()
        self.calls.clear()


@contextmanager
def kernel_clock() -> Iterator[Clock]:
    """Times what changes the kernel: links and addresses, nft transactions, flows."""
    clock = Clock()
    asked: Sequence[tuple[str, type[Any], str]] = (
        ("links", links.Links, "add"),
        ("links", links.Links, "change"),
        ("removed links", links.Links, "remove_all"),
        ("filters", nftables.Nft, "run"),
        ("flows", conntrack.Conntrack, "flows"),
        ("flows", conntrack.Conntrack, "delete"),
    )
    inside = [False]

    def timing(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if inside[0]:  # `add` calls `change`
                return work(*args, **kwargs)
            inside[0] = True
            began = time.perf_counter()
            try:
                return work(*args, **kwargs)
            finally:
                clock.spent[name] = clock.spent.get(name, 0.0) + time.perf_counter() - began
                clock.calls[name] = clock.calls.get(name, 0) + 1
                inside[0] = False

        return timed

    patches = [patch.object(owner, method, timing(name, getattr(owner, method))) for name, owner, method in asked]
    for each in patches:
        each.start()
    try:
        yield clock
    finally:
        for each in patches:
            each.stop()
