"""A process with the image API and the object store, for tests that kill it: STATE_DIR PORT."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvicorn
from starlette.types import Receive, Scope, Send

from kilonova.api.image import registry
from kilonova.api.routing import Services
from kilonova.api.server import application
from kilonova.auth.manager import AuthManager
from kilonova.bus.local import LocalBus
from kilonova.cloud.controller import Cloud
from kilonova.cloud.image_bytes import ImageBytes
from kilonova.cloud.image_upload import ImageKeeper
from kilonova.config import ApiConfig, Config
from kilonova.objectstore.component import ObjectStore
from kilonova.objectstore.http import ObjectStoreApplication
from kilonova.store.database import Store


async def serve(state_dir: Path, port: int) -> None:
    """Until the process is killed. Prints a token of the cloud's administrator once it is ready."""
    config = Config(state_dir=state_dir, api=ApiConfig(port=port))
    store = Store(config.database_url)
    await store.open()
    auth = AuthManager(store, config)
    await auth.start()
    objects = ObjectStore(store, config)
    await objects.start()
    image_bytes = ImageBytes(config.object_store_url, auth.service_token)
    await ImageKeeper(store, image_bytes, config).start()
    services = Services(Cloud(store, LocalBus(), config), auth, config, image_bytes)
    api = application([registry], services)
    object_api = ObjectStoreApplication(objects, auth.authenticate)

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        chosen = object_api if scope.get("path", "").startswith("/object-store/") else api
        await chosen(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(both, port=port, log_config=None, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print(auth.service_token(), flush=True)
    await serving


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
