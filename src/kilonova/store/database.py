"""Units of work on the data store.

A unit of work is a synchronous function whose first argument is an open SQLAlchemy `Connection`; it reads and writes,
returns plain data, and is one transaction: all of it happens or none. On SQLite one writer thread runs the writes one
after another (`BEGIN IMMEDIATE`, full fsync: an acknowledged write survives power loss) and reader threads see a
snapshot. Retries happen only here, at the edge, by calling the function again: it must have no other effect.
"""

from __future__ import annotations

import asyncio
import functools
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from kilonova.errors import Unavailable
from kilonova.store import migration

P = ParamSpec("P")
T = TypeVar("T")

READERS = 2
RETRY_FOR_S = 20.0


class Store:
    """The data store. `open` before use, `close` after; both from the event loop's thread or any other."""

    def __init__(self, url: str) -> None:
        """`url` is SQLAlchemy's; only `sqlite:///PATH` is served so far."""
        if make_url(url).get_backend_name() != "sqlite":
            raise Unavailable(f"the store {make_url(url).render_as_string()} is not supported yet: use sqlite:///PATH")
        self.url = url
        self._writer = _engine(url, begin="BEGIN IMMEDIATE")
        self._reader = _engine(url, begin="BEGIN")
        self._local = threading.local()
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._read_threads = ThreadPoolExecutor(READERS, thread_name_prefix="store-read")
        self._connections: list[Connection] = []

    async def open(self) -> None:
        """Create or upgrade the schema. Raises `Unavailable` for a database newer than this program."""
        path = make_url(self.url).database
        if path:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        await asyncio.get_running_loop().run_in_executor(self._write_thread, migration.prepare, self._writer, self.url)

    async def close(self) -> None:
        """Wait for the running units of work, then close every connection."""
        await asyncio.to_thread(self._write_thread.shutdown)
        await asyncio.to_thread(self._read_threads.shutdown)
        for connection in self._connections:
            connection.close()
        self._writer.dispose()
        self._reader.dispose()

    async def write(self, unit: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit of work that writes; answers once it is durable. Raises what `unit` raises, after rolling back."""
        call = functools.partial(self._run, self._writer, unit, args, kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._write_thread, call)

    async def read(self, unit: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit of work on a snapshot; it must not write."""
        call = functools.partial(self._run, self._reader, unit, args, kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._read_threads, call)

    def _run(self, engine: Engine, unit: Callable[..., T], args: Any, kwargs: Any) -> T:
        give_up = time.monotonic() + RETRY_FOR_S
        while True:
            connection = self._connection(engine)
            try:
                with connection.begin():
                    return unit(connection, *args, **kwargs)
            except OperationalError as error:
                if not _is_lock(error) or time.monotonic() > give_up:
                    raise
                time.sleep(random.uniform(0.005, 0.05))  # noqa: S311

    def _connection(self, engine: Engine) -> Connection:
        """This thread's own connection: opened once, kept for the thread's life."""
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None or connection.closed or connection.engine is not engine:
            connection = self._local.connection = engine.connect()
            self._connections.append(connection)
        return connection


def _is_lock(error: OperationalError) -> bool:
    return isinstance(error.orig, sqlite3.OperationalError) and "locked" in str(error.orig)


def _engine(url: str, *, begin: str) -> Engine:
    engine = create_engine(url, poolclass=NullPool, connect_args={"check_same_thread": False, "timeout": 10})

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver's guess
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-4096"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
