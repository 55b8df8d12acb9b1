"""A store, a bus and a cloud of each test's own, without root and without a listening socket."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kilonova.bus.local import LocalBus
from kilonova.cloud.controller import Cloud
from kilonova.config import Config
from kilonova.store.database import Store


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(state_dir=tmp_path)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the present schema: to copy it is ten times as fast as to make it."""
    path = tmp_path_factory.mktemp("empty") / "kilonova.sqlite"

    async def make() -> None:
        store = Store(f"sqlite:///{path}")
        await store.open()
        await store.close()

    asyncio.run(make())
    return path


@pytest.fixture
async def store(config: Config, empty_database: Path) -> AsyncIterator[Store]:
    """An empty data store with the present schema."""
    shutil.copyfile(empty_database, config.state_dir / "kilonova.sqlite")
    store = Store(config.database_url)
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def bus() -> AsyncIterator[LocalBus]:
    bus = LocalBus()
    yield bus
    await bus.close()


@pytest.fixture
def cloud(store: Store, bus: LocalBus, config: Config) -> Cloud:
    return Cloud(store, bus, config)
