"""Units of work on the data store.

A unit of work is a synchronous function whose first argument is an open SQLAlchemy `Connection`; it reads and writes,
returns plain data, and is one transaction: all of it happens or none. On SQLite one writer thread runs the writes one
after another (`BEGIN IMMEDIATE`, full fsync: an acknowledged write survives power loss) and reader threads see a
snapshot. Retries happen only here, at the edge, by calling the function again: it must have no other effect.

A caller that is cancelled does not learn whether its unit was committed; one that had not begun never runs. Writes of
one process keep their order, so whatever is written next sees the outcome.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import NullPool

from kilonova.errors import BadRequest, InsufficientStorage, Unavailable
from kilonova.store import migration

P = ParamSpec("P")
T = TypeVar("T")

READERS = 2
BUSY_S = 2.0
"""How long SQLite itself waits for another process's lock before the unit of work is tried again."""
RETRY_FOR_S = 20.0
_TOO_MUCH_ASKED = ("Expression tree is too large", "too many SQL variables")
"""SQLite's words for a statement that a client has made too long by its filters."""


class Store:
    """The data store. `open` before use, `close` after; both from the event loop's thread or any other."""

    def __init__(self, url: str) -> None:
        """`url` is SQLAlchemy's; only `sqlite:///PATH` is served so far."""
        if make_url(url).get_backend_name() != "sqlite":
            raise Unavailable(f"the store {make_url(url).render_as_string()} is not supported yet: use sqlite:///PATH")
        path = make_url(url).database
        if not path or path == ":memory:":
            raise Unavailable("the store needs a file: use sqlite:///PATH")
        self.url = url
        self._path = Path(path)
        self._writer = _engine(url, begin="BEGIN IMMEDIATE")
        self._reader = _engine(url, begin="BEGIN", pragmas=("query_only=ON",))
        self._local = threading.local()
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="store-write")
        self._read_threads = ThreadPoolExecutor(READERS, thread_name_prefix="store-read")
        self._connections: list[Connection] = []
        self._closed = False

    async def open(self) -> None:
        """Create or upgrade the schema. Raises `Unavailable` for a database newer than this program."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Signing keys and password hashes are in it; SQLite gives its companion files the same mode.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._path.chmod(0o600)
        prepare = functools.partial(self._retrying, migration.prepare, self._writer, self.url)
        await asyncio.get_running_loop().run_in_executor(self._write_thread, prepare)

    async def close(self) -> None:
        """Let the units of work already asked for end, refuse further ones, then close every connection."""
        self._closed = True
        await asyncio.to_thread(self._write_thread.shutdown)
        await asyncio.to_thread(self._read_threads.shutdown)
        for connection in self._connections:
            connection.close()
        self._writer.dispose()
        self._reader.dispose()

    async def write(self, unit: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit of work that writes; answers once it is durable.

        Raises what `unit` raises, after rolling back; `Unavailable` when another process holds the database for longer
        than `RETRY_FOR_S` or the store is closed; `InsufficientStorage` when the disk is full.
        """
        return await self._submit(self._write_thread, self._writer, lambda tx: unit(tx, *args, **kwargs))

    async def read(self, unit: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a unit of work on a snapshot; the database refuses its writes. Raises as `write` does."""
        return await self._submit(self._read_threads, self._reader, lambda tx: unit(tx, *args, **kwargs))

    async def _submit(self, threads: ThreadPoolExecutor, engine: Engine, unit: Callable[[Connection], T]) -> T:
        # The context goes along so that log lines of the unit carry the request id.
        call = functools.partial(contextvars.copy_context().run, self._retrying, self._run, engine, unit)
        if self._closed:
            raise Unavailable("the data store is closed: this process is shutting down")
        return await asyncio.get_running_loop().run_in_executor(threads, call)

    def _run(self, engine: Engine, unit: Callable[[Connection], T]) -> T:
        connection = self._connection(engine)
        with connection.begin():
            return unit(connection)

    def _retrying(self, attempt: Callable[..., T], *args: Any) -> T:
        give_up = time.monotonic() + RETRY_FOR_S
        while True:
            try:
                return attempt(*args)
            except OperationalError as error:
                code = _sqlite_code(error)
                if code == sqlite3.SQLITE_FULL:
                    raise InsufficientStorage(f"the disk of the data store {self._path} is full") from error
                if any(words in str(error.orig) for words in _TOO_MUCH_ASKED):
                    raise BadRequest("The request names too many values to look for at once: ask in parts") from None
                if code not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                    raise
                if time.monotonic() > give_up:
                    message = f"another process has kept the data store {self._path} locked for {RETRY_FOR_S:g} s"
                    raise Unavailable(message) from error
                time.sleep(random.uniform(0.005, 0.05))  # noqa: S311

    def _connection(self, engine: Engine) -> Connection:
        """This thread's own connection: opened once, kept for the thread's life."""
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None or connection.closed or connection.engine is not engine:
            connection = self._local.connection = engine.connect()
            self._connections.append(connection)
        return connection


def _sqlite_code(error: DBAPIError) -> int | None:
    """SQLite's primary result code."""
    return error.orig.sqlite_errorcode & 0xFF if isinstance(error.orig, sqlite3.Error) else None


def _engine(url: str, *, begin: str, pragmas: tuple[str, ...] = ()) -> Engine:
    engine = create_engine(
        url,
        poolclass=NullPool,
        connect_args={"check_same_thread": False, "timeout": BUSY_S},
        json_deserializer=msgspec.json.decode,  # a list of 1000 servers holds 3000 documents
    )

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, not by the driver's guess
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "cache_size=-4096", *pragmas):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
