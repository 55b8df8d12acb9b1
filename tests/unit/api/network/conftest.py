"""The network API over a cloud with a pool, a floating range and a network host, asked by several callers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from sqlalchemy import insert

from kilonova.api.network import registry
from kilonova.api.routing import Services
from kilonova.api.server import application
from kilonova.bus.local import LocalBus
from kilonova.cloud import floating_ranges, pool
from kilonova.cloud.controller import Cloud
from kilonova.context import Context, system_context
from kilonova.ids import new_id
from kilonova.store.schema import services as service_rows

Document = dict[str, Any]


@dataclass
class Caller:
    """One caller of the API, with a token."""

    client: httpx.AsyncClient
    token: str
    project_id: str

    async def ask(self, method: str, path: str, body: object = None, *, status: int = 200, **query: Any) -> Any:
        """The decoded answer; fails when the status is another one."""
        headers = {"X-Auth-Token": self.token}
        url = f"/network{path}" if path.startswith("/kilonova") else f"/network/v2.0{path}"
        response = await self.client.request(method, url, json=body, params=query, headers=headers)
        assert response.status_code == status, response.text
        return response.json() if response.content else None

    async def make(self, kind: str, **fields: Any) -> Document:
        plural = {"security_group": "security-groups", "security_group_rule": "security-group-rules"}
        path = f"/{plural.get(kind, kind + 's')}"
        made: Document = (await self.ask("POST", path, {kind: fields}, status=201))[kind]
        return made

    async def refused(self, method: str, path: str, body: object = None, *, status: int, kind: str = "") -> str:
        """The message of an error with this status and type."""
        error = (await self.ask(method, path, body, status=status))["NeutronError"]
        assert kind in ("", error["type"]), error
        message: str = error["message"]
        return message


@dataclass
class Woken:
    """The hosts whose network agents were told to look again."""

    hosts: list[str] = field(default_factory=list)

    def take(self) -> set[str]:
        taken, self.hosts[:] = set(self.hosts), []
        return taken


@pytest.fixture
async def network_host(cloud: Cloud) -> str:
    """A live network host."""
    row = {"id": new_id(), "kind": "network", "host": "host1"}
    await cloud.store.write(lambda tx: tx.execute(insert(service_rows).values(**row)) and None)
    return "host1"


@pytest.fixture
async def world(cloud: Cloud, network_host: str) -> Cloud:
    """A pool of three networks and a floating range."""
    await pool.create(cloud, system_context(), pool.PoolRequest(num_networks=3))
    await floating_ranges.create(cloud, system_context(), network_host, "203.0.113.0/24")
    return cloud


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=application([registry], services))
    async with httpx.AsyncClient(transport=transport, base_url="http://cloud") as client:
        yield client


@pytest.fixture
def member(client: httpx.AsyncClient, token_of: Callable[..., str]) -> Caller:
    return Caller(client, token_of("member", project_id="p1"), "p1")


@pytest.fixture
def other(client: httpx.AsyncClient, token_of: Callable[..., str]) -> Caller:
    return Caller(client, token_of("member", project_id="p2"), "p2")


@pytest.fixture
def reader(client: httpx.AsyncClient, token_of: Callable[..., str]) -> Caller:
    return Caller(client, token_of("reader", project_id="p1"), "p1")


@pytest.fixture
def operator(client: httpx.AsyncClient, token_of: Callable[..., str]) -> Caller:
    """An administrator."""
    return Caller(client, token_of("admin", project_id="ops"), "ops")


@pytest.fixture
async def woken(bus: LocalBus, network_host: str) -> Woken:
    woken = Woken()

    def listener(host: str) -> Callable[..., Any]:
        async def look_again(_context: Context, _args: dict[str, Any]) -> None:
            woken.hosts.append(host)

        return look_again

    for host in (network_host, "compute1", "compute2"):
        bus.subscribe(f"network.{host}", {"look_again": listener(host)})
    return woken
