"""The compute API over a real store, bus, scheduler and reaper; only the hosts are stubs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, insert, update

from kilonova.api.compute import registry
from kilonova.api.routing import Services
from kilonova.api.server import application
from kilonova.cloud import pool
from kilonova.cloud.controller import Cloud
from kilonova.cloud.flavors import ensure_defaults
from kilonova.context import Context, system_context
from kilonova.operations import OperationRunner
from kilonova.scheduler.agent import Scheduler
from kilonova.store import operations, schema
from kilonova.store.instance_rows import end_instance, finish_action
from kilonova.store.operations import Operation
from kilonova.store.schema import now
from kilonova.store.services import heartbeat

IMAGE = "11111111-1111-4111-8111-111111111111"
STATES = {
    "server.create": ("active", 1),
    "server.start": ("active", 1),
    "server.reboot": ("active", 1),
    "server.unpause": ("active", 1),
    "server.pause": ("paused", 3),
    "server.stop": ("stopped", 4),
}


class StubHost:
    """A compute host whose guests are only rows. While `held` is set, it does nothing."""

    def __init__(self, cloud: Cloud, name: str = "host1", **capacity: int) -> None:
        self.cloud, self.name = cloud, name
        self.capacity: dict[str, Any] = {"ram_mb": 65536, "vcpus": 64, "disk_gb": 1000, "vif": "tap"} | capacity
        self.held = asyncio.Event()
        self.held.set()
        topic = f"compute.{name}"
        kinds = [*STATES, "server.delete"]
        self.runner = OperationRunner(
            cloud.store, cloud.bus, topic=topic, owner=topic, work=dict.fromkeys(kinds, self._work), unwind=self._unwind
        )
        cloud.bus.subscribe(topic, {"run_operation": self.runner.on_message, "console": self._console})

    async def beat(self) -> None:
        await self.cloud.store.write(
            heartbeat,
            "compute",
            self.name,
            availability_zone="nova",
            started_at=now() - timedelta(minutes=5),
            capacity=self.capacity,
            progress={},
        )

    async def _work(self, operation: Operation) -> None:
        await self.held.wait()
        await self.cloud.store.write(self._finish, operation)

    def _finish(self, tx: Connection, operation: Operation) -> None:
        finish_action(tx, operation.resource_id, operation.request_id, f"compute_{operation.kind}", host=self.name)
        if operation.kind == "server.delete":
            end_instance(tx, operation.resource_id)
        else:
            vm_state, power = STATES[operation.kind]
            values: dict[str, Any] = {"vm_state": vm_state, "power_state": power, "task_state": None}
            if operation.kind == "server.create":
                values["launched_at"] = now()
            where = schema.instances.c.id == operation.resource_id
            tx.execute(update(schema.instances).where(where).values(**values))
        operations.complete(tx, operation.id)

    async def _unwind(self, operation: Operation, error: Exception) -> None:
        await self.cloud.store.write(operations.fail, operation.id, str(error))

    async def _console(self, _context: Context, args: dict[str, Any]) -> dict[str, str]:
        return {"output": f"{args['lines']} lines of {self.name}"}


class Client:
    """One caller: a token, a microversion, and requests below /compute/v2.1."""

    def __init__(self, http: httpx.AsyncClient, token: str, version: str) -> None:
        self.http, self.token, self.version = http, token, version

    def at(self, version: str) -> Client:
        return Client(self.http, self.token, version)

    async def ask(self, method: str, path: str, body: Any = None, *, status: int = 200) -> Any:
        """The answer's document; asserts its status."""
        headers = {"X-Auth-Token": self.token, "OpenStack-API-Version": f"compute {self.version}"}
        answer = await self.http.request(method, f"/compute/v2.1{path}", json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json() if answer.content else None

    async def server(self, *, status: int = 202, **fields: Any) -> str:
        """Create a server; its id, or the message of the refusal."""
        body = {"name": "web", "imageRef": IMAGE, "flavorRef": "42", "networks": "auto"} | fields
        made = await self.ask("POST", "/servers", {"server": body}, status=status)
        if status != 202:
            return str(next(iter(made.values()))["message"])
        return str(made["server"]["id"])

    async def wait(self, server_id: str, wanted: str) -> dict[str, Any]:
        """The server once its status is `wanted` and nothing is being done with it."""
        async with asyncio.timeout(10):
            while True:
                server: dict[str, Any] = (await self.ask("GET", f"/servers/{server_id}"))["server"]
                if server["status"] == wanted and server["OS-EXT-STS:task_state"] is None:
                    return server
                await asyncio.sleep(0.01)

    async def wait_gone(self, server_id: str) -> None:
        async with asyncio.timeout(10):
            while server_id in [s["id"] for s in (await self.ask("GET", "/servers"))["servers"]]:
                await asyncio.sleep(0.01)


MakeClient = Callable[..., Client]


@pytest.fixture
async def host(cloud: Cloud) -> AsyncIterator[StubHost]:
    host = StubHost(cloud)
    await host.beat()
    yield host
    await host.runner.stop()


@pytest.fixture
async def scheduler(cloud: Cloud) -> AsyncIterator[Scheduler]:
    scheduler = Scheduler(cloud.store, cloud.bus, cloud.config)
    await scheduler.start()
    yield scheduler
    await scheduler.stop()


@pytest.fixture
async def client_of(services: Services, token_of: Callable[..., str], cloud: Cloud) -> AsyncIterator[MakeClient]:
    """`client_of("member", project_id="p1", version="2.79")`, on a cloud with flavors, an image and a pool."""
    await cloud.store.write(_first_rows)
    await pool.create(cloud, system_context(), pool.PoolRequest(num_networks=4))
    transport = httpx.ASGITransport(app=application([registry], services))
    async with httpx.AsyncClient(transport=transport, base_url="http://cloud") as http:

        def make(*roles: str, version: str = "2.79", **who: Any) -> Client:
            return Client(http, token_of(*(roles or ("member",)), **who), version)

        yield make


@pytest.fixture
def member(client_of: MakeClient, host: StubHost, scheduler: Scheduler) -> Client:
    """A member of project p1 on a cloud whose host and scheduler run."""
    return client_of("member")


@pytest.fixture
def operator(client_of: MakeClient) -> Client:
    """An administrator."""
    return client_of("admin", user_id="root", project_id="admin")


def _first_rows(tx: Connection) -> None:
    ensure_defaults(tx)
    image = {"id": IMAGE, "project_id": "p1", "name": "tiny", "status": "active", "visibility": "public"}
    tx.execute(insert(schema.images).values(**image, size_bytes=1000, disk_format="qcow2", container_format="bare"))
    tx.execute(insert(schema.domains).values(id="default", name="Default"))
    for user in ("u1", "u2", "root"):
        tx.execute(insert(schema.users).values(id=user, domain_id="default", name=user))
