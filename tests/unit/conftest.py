"""A store, a bus and a cloud of each test's own, without root and without a listening socket."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from kilonova.bus.local import LocalBus
from kilonova.cloud.controller import Cloud
from kilonova.config import Config
from kilonova.store import database
from kilonova.store.database import Store


@pytest.fixture(scope="session", autouse=True)
def compiled_statements() -> Iterator[None]:
    """Every test has a store, so engines, of its own; what one of them has compiled serves the next ones too."""
    make, shared = database._engine, list[Engine]()

    def engine(*args: Any, **options: Any) -> Engine:
        made = make(*args, **options)
        shared.append(made)
        made.dialect = made.pool._dialect = shared[0].dialect
        made._compiled_cache = shared[0]._compiled_cache
        del shared[1:]
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(database, "_engine", engine)
        yield


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
