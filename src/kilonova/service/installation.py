"""One process of a cloud: makes the chosen components, starts them in order, stops them in reverse.

The embedded installation (`kilonova up`) is all components on one store and the in-process bus; `kilonova service`
runs some of them with the same code.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Protocol

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from kilonova.auth.manager import AuthManager
from kilonova.bus.local import LocalBus
from kilonova.cloud.controller import Cloud
from kilonova.config import Config
from kilonova.errors import Unavailable
from kilonova.store.database import Store

log = logging.getLogger(__name__)


class Component(StrEnum):
    """What a process may run; named as in the architecture."""

    API = "api"
    SCHEDULER = "scheduler"
    NETWORK = "network"
    COMPUTE = "compute"
    OBJECTSTORE = "objectstore"


ALL = frozenset(Component)


class _Runs(Protocol):
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class Installation:
    """The components of one process. `start`, then `wait` until a signal, then `stop`."""

    def __init__(self, config: Config, components: frozenset[Component] = ALL) -> None:
        self.config = config
        self.components = components
        self.store = Store(config.database_url)
        self.bus = LocalBus()
        self.cloud = Cloud(self.store, self.bus, config)
        self.auth = AuthManager(self.store, config)
        self._running: list[_Runs] = []
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._end = asyncio.Event()

    async def start(self, listener: socket.socket | None, prepare: Callable[[], Awaitable[None]]) -> None:
        """Open the store, await `prepare` (the first rows), start the components and listen."""
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, self._end.set)
        await self.store.open()
        await self._run(self.auth)
        await prepare()
        application = await self._application()
        if listener is not None and application is not None:
            await self._listen(application, listener)
        await self._start_controllers()

    async def wait(self) -> None:
        """Until SIGTERM or SIGINT."""
        await self._end.wait()

    async def stop(self) -> None:
        """Stop listening, then the components in reverse order, then the bus and the store. Guests go on."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await asyncio.gather(self._serving, return_exceptions=True)
        for component in reversed(self._running):
            try:
                await component.stop()
            except Exception:
                log.exception("%s did not stop cleanly", type(component).__name__)
        await self.bus.close()
        await self.store.close()

    async def _run(self, component: _Runs) -> None:
        await component.start()
        self._running.append(component)

    async def _start_controllers(self) -> None:
        """Agents first, so that what the scheduler hands on finds somebody."""
        if Component.NETWORK in self.components:
            from kilonova.network.agent import NetworkAgent

            await self._run(NetworkAgent(self.store, self.bus, self.config))
        if Component.COMPUTE in self.components:
            from kilonova.compute.agent import ComputeAgent

            await self._run(ComputeAgent(self.store, self.bus, self.config, image_token=self.auth.service_token))
        if Component.SCHEDULER in self.components:
            from kilonova.cloud.failover import Failover
            from kilonova.cloud.reaper import Reaper
            from kilonova.scheduler.agent import Scheduler

            await self._run(Scheduler(self.store, self.bus, self.config))
            await self._run(Reaper(self.store, self.bus, self.config))
            await self._run(Failover(self.store, self.bus, self.config))

    async def _application(self) -> ASGIApp | None:
        """The web front end of the components that have one."""
        mounts: list[tuple[str, ASGIApp]] = []
        if Component.OBJECTSTORE in self.components:
            from kilonova.objectstore.component import ObjectStore
            from kilonova.objectstore.http import ObjectStoreApplication

            objects = ObjectStore(self.store, self.config)
            await self._run(objects)
            mounts.append(("/object-store", ObjectStoreApplication(objects, self.auth.authenticate)))
        if Component.API in self.components:
            from kilonova.api.registries import all_registries
            from kilonova.api.routing import Services
            from kilonova.api.server import application
            from kilonova.cloud.image_bytes import ImageBytes
            from kilonova.cloud.image_upload import ImageKeeper

            image_bytes = ImageBytes(self.config.object_store_url, self.auth.service_token)
            await self._run(ImageKeeper(self.store, image_bytes, self.config))
            services = Services(self.cloud, self.auth, self.config, image_bytes)
            mounts.append(("", application(all_registries(), services)))
        return _Mounts(mounts) if mounts else None

    async def _listen(self, application: ASGIApp, listener: socket.socket) -> None:
        settings = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=3,
            timeout_keep_alive=60,
        )
        self._server = _Server(settings)
        self._serving = asyncio.create_task(self._server.serve([listener]), name="http")
        while not self._server.started:
            if self._serving.done():
                self._serving.result()
                raise Unavailable("the HTTP server ended at once")
            await asyncio.sleep(0.005)


class _Server(uvicorn.Server):
    """Signals belong to the installation, which stops the server itself."""

    def capture_signals(self):  # type: ignore[no-untyped-def]
        from contextlib import nullcontext

        return nullcontext()


class _Mounts:
    """Dispatches by path prefix; the longest prefix comes first."""

    def __init__(self, mounts: list[tuple[str, ASGIApp]]) -> None:
        self._mounts = sorted(mounts, key=lambda mount: len(mount[0]), reverse=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        for prefix, application in self._mounts:
            if not prefix or path == prefix or path.startswith(f"{prefix}/"):
                await application(scope, receive, send)
                return
        await PlainTextResponse("not served by this process", 404)(scope, receive, send)
