"""Units of work: atomic, isolated, serialised, durable, and readable when they cannot be done."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.exc import IntegrityError, OperationalError

from kilonova import log as logs
from kilonova.config import Config
from kilonova.errors import InsufficientStorage, NotFound, Unavailable
from kilonova.store import database
from kilonova.store.database import Store
from kilonova.store.schema import quotas


def put(tx: Connection, project: str, resource: str = "cores", limit: int = 1) -> None:
    tx.execute(insert(quotas).values(project_id=project, resource=resource, hard_limit=limit))


def count(tx: Connection) -> int:
    return tx.execute(select(func.count()).select_from(quotas)).scalar_one()


def limit_of(tx: Connection, project: str) -> int | None:
    return tx.execute(select(quotas.c.hard_limit).where(quotas.c.project_id == project)).scalar_one_or_none()


def increment(tx: Connection, project: str) -> int:
    value = (limit_of(tx, project) or 0) + 1
    tx.execute(update(quotas).where(quotas.c.project_id == project).values(hard_limit=value))
    return value


async def test_a_unit_answers_what_its_function_returns(store: Store) -> None:
    await store.write(put, "p", limit=7)
    assert await store.read(limit_of, "p") == 7


async def test_a_unit_that_fails_leaves_nothing(store: Store) -> None:
    def fails(tx: Connection) -> None:
        put(tx, "p")
        raise NotFound("no such thing")

    with pytest.raises(NotFound, match="no such thing"):
        await store.write(fails)
    assert await store.read(count) == 0


async def test_a_constraint_undoes_the_whole_unit(store: Store) -> None:
    def twice(tx: Connection) -> None:
        put(tx, "other")
        put(tx, "p")
        put(tx, "p")

    with pytest.raises(IntegrityError):
        await store.write(twice)
    assert await store.read(count) == 0
    await store.write(put, "p")


async def test_a_savepoint_can_fail_alone(store: Store) -> None:
    def unit(tx: Connection) -> None:
        put(tx, "p")
        with contextlib.suppress(IntegrityError), tx.begin_nested():
            put(tx, "q")
            put(tx, "p")

    await store.write(unit)
    assert await store.read(count) == 1


async def test_a_read_cannot_write(store: Store) -> None:
    with pytest.raises(OperationalError, match="readonly"):
        await store.read(put, "p")
    assert await store.read(count) == 0


async def test_a_read_sees_one_snapshot_while_others_write(store: Store) -> None:
    first_look, written = threading.Event(), threading.Event()

    def twice(tx: Connection) -> tuple[int, int]:
        before = count(tx)
        first_look.set()
        assert written.wait(10)
        return before, count(tx)

    reading = asyncio.create_task(store.read(twice))
    await asyncio.to_thread(first_look.wait, 10)
    await store.write(put, "p")
    written.set()
    assert await reading == (0, 0)
    assert await store.read(count) == 1


async def test_a_read_does_not_see_what_is_not_committed(store: Store) -> None:
    changed, looked = threading.Event(), threading.Event()

    def slow(tx: Connection) -> None:
        put(tx, "p")
        changed.set()
        assert looked.wait(10)

    writing = asyncio.create_task(store.write(slow))
    await asyncio.to_thread(changed.wait, 10)
    assert await store.read(count) == 0
    looked.set()
    await writing
    assert await store.read(count) == 1


async def test_concurrent_writes_lose_no_update(store: Store) -> None:
    await store.write(put, "p", limit=0)
    values = await asyncio.gather(*(store.write(increment, "p") for _ in range(50)))
    assert values == list(range(1, 51))


async def test_two_stores_on_one_file_lose_no_update(store: Store, config: Config) -> None:
    other = Store(config.database_url)
    await other.open()
    await store.write(put, "p", limit=0)
    await asyncio.gather(*(s.write(increment, "p") for _ in range(20) for s in (store, other)))
    assert await store.read(limit_of, "p") == 40
    await other.close()


async def test_two_stores_may_open_an_empty_file_at_once(tmp_path: Path) -> None:
    stores = [Store(f"sqlite:///{tmp_path}/new/k.sqlite") for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    await stores[0].write(put, "p")
    assert await stores[3].read(count) == 1
    for each in stores:
        await each.close()


@pytest.fixture
def locker(store: Store, config: Config) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the write lock until it is told to let go."""
    program = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN IMMEDIATE'); print('held', flush=True)\n"
        "sys.stdin.readline(); c.execute('ROLLBACK')\n"
    )
    path = str(config.state_dir / "kilonova.sqlite")
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def _busy_after(monkeypatch: pytest.MonkeyPatch, milliseconds: int) -> None:
    monkeypatch.setattr(database, "BUSY_S", milliseconds / 1000)


async def test_a_write_waits_for_another_process_and_is_tried_again(
    locker: subprocess.Popen[str], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    _busy_after(monkeypatch, 1)
    tries: list[int] = []
    tried_twice = asyncio.Event()
    loop = asyncio.get_running_loop()

    def pause(_seconds: float) -> None:
        tries.append(1)
        if len(tries) == 2:
            loop.call_soon_threadsafe(tried_twice.set)

    impatient = Store(config.database_url)
    monkeypatch.setattr("kilonova.store.database.time.sleep", pause)
    writing = asyncio.create_task(impatient.write(put, "p"))
    await tried_twice.wait()
    assert not writing.done()
    assert await impatient.read(count) == 0
    assert locker.stdin is not None
    locker.stdin.write("\n")
    locker.stdin.flush()
    await writing
    assert await impatient.read(count) == 1
    await impatient.close()


async def test_a_database_locked_for_too_long_says_so(
    locker: subprocess.Popen[str], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    _busy_after(monkeypatch, 1)
    monkeypatch.setattr(database, "RETRY_FOR_S", 0.02)
    impatient = Store(config.database_url)
    with pytest.raises(Unavailable, match=r"another process has kept .*kilonova\.sqlite locked"):
        await impatient.write(put, "p")
    await impatient.close()


async def test_a_full_disk_says_so(store: Store) -> None:
    def fill(tx: Connection) -> None:
        pages = tx.exec_driver_sql("PRAGMA page_count").scalar_one()
        tx.exec_driver_sql(f"PRAGMA max_page_count={pages}")
        for number in range(10_000):
            put(tx, f"project-{number}", "r" * 60)

    with pytest.raises(InsufficientStorage, match=r"kilonova\.sqlite is full"):
        await store.write(fill)
    assert await store.read(count) == 0


async def test_a_cancelled_caller_does_not_disturb_the_order_of_writes(store: Store) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(tx: Connection) -> None:
        begun.set()
        assert go_on.wait(10)
        put(tx, "begun")

    first = asyncio.create_task(store.write(slow))
    await asyncio.to_thread(begun.wait, 10)
    second = asyncio.create_task(store.write(put, "queued"))
    after = asyncio.create_task(store.write(count))
    await asyncio.sleep(0)  # lets both be queued
    first.cancel()
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    go_on.set()
    assert await after == 1
    assert await store.read(limit_of, "queued") is None


async def test_close_lets_writes_end_and_refuses_new_ones(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/k.sqlite")
    await store.open()
    writes = [asyncio.create_task(store.write(put, f"p{number}")) for number in range(20)]
    await asyncio.sleep(0)  # lets them be queued
    await store.close()
    await asyncio.gather(*writes)
    with pytest.raises(Unavailable, match="closed"):
        await store.read(count)
    await store.close()
    again = Store(store.url)
    await again.open()
    assert await again.read(count) == 20
    await again.close()


async def test_a_unit_carries_the_request_id_to_the_log(store: Store) -> None:
    logs.request_id.set("req-1")
    assert await store.write(lambda _tx: logs.request_id.get()) == "req-1"
    assert await store.read(lambda _tx: logs.request_id.get()) == "req-1"


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_store_in_memory_is_refused(url: str) -> None:
    with pytest.raises(Unavailable, match="needs a file"):
        Store(url)


def test_another_database_is_refused_without_showing_its_password() -> None:
    with pytest.raises(Unavailable, match="not supported yet") as caught:
        Store("postgresql://kilonova:hunter2@db/kilonova")
    assert "hunter2" not in caught.value.message


WRITER = """
import asyncio, sys
from sqlalchemy import insert
from kilonova.store.database import Store
from kilonova.store.schema import quotas

def pair(tx, number):
    for half in ("a", "b"):
        tx.execute(insert(quotas).values(project_id=str(number), resource=half, hard_limit=number))

async def main():
    store = Store(sys.argv[1])
    await store.open()
    async def writer(first):
        for number in range(first, 100_000, 4):
            await store.write(pair, number)
            print(number, flush=True)
    await asyncio.gather(*(writer(first) for first in range(4)))

asyncio.run(main())
"""


@pytest.mark.parametrize("after", [1, 60])
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, after: int) -> None:
    path = tmp_path / "k.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, f"sqlite:///{path}"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        acknowledged = [int(process.stdout.readline()) for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.stdout if line.endswith("\n")]
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        halves = dict(connection.execute("SELECT hard_limit, count(*) FROM quotas GROUP BY hard_limit").fetchall())
    assert set(acknowledged) <= set(halves)
    assert set(halves.values()) == {2}
