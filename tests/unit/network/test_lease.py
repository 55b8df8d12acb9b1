"""The lease of a network host: one agent process at a time, whatever the clocks say."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select, update

from kilonova.network import lease as leases
from kilonova.network.lease import Beat, Lease, new_owner, process_ended
from kilonova.store.database import Store
from kilonova.store.schema import now, services

LEASE_S = 15.0
BEAT = Beat("host1", "nova", now(), {"trunks": ["physnet1"]}, {"passes": 1})


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def _row(tx: Connection) -> Any:
    return tx.execute(select(services).where(services.c.kind == "network", services.c.host == "host1")).one()


async def _set(store: Store, **values: Any) -> None:
    await store.write(lambda tx: tx.execute(update(services).values(**values)).rowcount)


async def test_the_first_agent_takes_the_lease_and_its_beats_renew_it(store: Store, clock: Clock) -> None:
    lease = Lease(store, "host1", LEASE_S, clock)
    assert lease.remaining_s < 0

    found = await lease.renew(BEAT)
    clock.seconds += 10
    first = (await store.read(_row)).lease_until
    again = await lease.renew(replace(BEAT, progress={"passes": 2}))

    row = await store.read(_row)
    assert (found.held, found.kept, found.others) == (True, False, False)
    assert (again.held, again.kept) == (True, True)
    assert lease.remaining_s == LEASE_S
    assert (row.lease_owner, row.progress, row.capacity) == (lease.owner, {"passes": 2}, {"trunks": ["physnet1"]})
    assert row.lease_until > first


async def test_a_second_agent_is_refused_while_the_first_renews(store: Store, clock: Clock) -> None:
    first, second = Lease(store, "host1", LEASE_S, clock), Lease(store, "host1", LEASE_S, clock)
    await first.renew(BEAT)
    for _ in range(8):
        assert not (await second.renew(BEAT)).held
        clock.seconds += 5
        assert (await first.renew(BEAT)).held
    assert second.remaining_s < 0
    assert (await store.read(_row)).lease_owner == first.owner


async def test_a_second_agent_takes_over_what_was_not_renewed_for_a_lease(store: Store, clock: Clock) -> None:
    first, second = Lease(store, "host1", LEASE_S, clock), Lease(store, "host1", LEASE_S, clock)
    await first.renew(BEAT)
    assert not (await second.renew(BEAT)).held
    clock.seconds += LEASE_S - 0.01
    assert not (await second.renew(BEAT)).held
    assert first.remaining_s > 0

    clock.seconds += 0.01
    found = await second.renew(BEAT)

    assert first.remaining_s <= 0
    assert found.held
    assert found.kept, "no other host took over: what this host has is its own still"
    assert not (await first.renew(BEAT)).held


async def test_an_agent_that_renews_too_late_has_been_without_the_lease(store: Store, clock: Clock) -> None:
    lease = Lease(store, "host1", LEASE_S, clock)
    await lease.renew(BEAT)
    clock.seconds += LEASE_S
    assert lease.remaining_s <= 0

    found = await lease.renew(BEAT)

    assert (found.held, found.kept) == (True, True)


async def test_after_a_takeover_the_lease_was_not_kept(store: Store, clock: Clock) -> None:
    lease = Lease(store, "host1", LEASE_S, clock)
    await lease.renew(BEAT)
    await _set(store, lease_owner=None, lease_until=None)

    found = await lease.renew(BEAT)

    assert (found.held, found.kept) == (True, False)


@pytest.mark.parametrize("step_s", [-3600, 3600])
async def test_a_step_of_the_clock_neither_ends_nor_prolongs_a_lease(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    first, second = Lease(store, "host1", LEASE_S, clock), Lease(store, "host1", LEASE_S, clock)
    await first.renew(BEAT)
    monkeypatch.setattr(leases, "now", lambda: now() + timedelta(seconds=step_s))

    assert not (await second.renew(BEAT)).held
    assert first.remaining_s == LEASE_S
    assert (await first.renew(BEAT)).held
    clock.seconds += 1
    assert not (await second.renew(BEAT)).held
    clock.seconds += LEASE_S
    assert (await second.renew(BEAT)).held


async def test_a_released_lease_is_free_at_once_and_was_kept(store: Store, clock: Clock) -> None:
    first, second = Lease(store, "host1", LEASE_S, clock), Lease(store, "host1", LEASE_S, clock)
    await first.renew(BEAT)
    await first.release()
    assert first.remaining_s < 0

    found = await second.renew(BEAT)

    assert (found.held, found.kept) == (True, True)


async def test_the_lease_of_a_killed_process_is_free_at_once(store: Store, clock: Clock) -> None:
    lease = Lease(store, "host1", LEASE_S, clock)
    await lease.renew(BEAT)
    with subprocess.Popen(  # noqa: ASYNC220 - a line is all that is waited for
        [sys.executable, "-c", "from kilonova.network.lease import new_owner; print(new_owner(), flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        owner = process.stdout.readline().strip()
        await _set(store, lease_owner=owner)
        assert not process_ended(owner)
        assert not (await lease.renew(BEAT)).held
        assert not (await lease.renew(BEAT)).held
        process.kill()
    assert process_ended(owner)
    assert (await lease.renew(BEAT)).held
    await _set(store, lease_owner=owner)
    assert (await Lease(store, "host1", LEASE_S, clock).renew(BEAT)).held, "one that has just started waits for nothing"


async def test_others_are_enabled_hosts_whose_lease_nobody_took_over(store: Store, clock: Clock) -> None:
    mine, theirs = Lease(store, "host1", LEASE_S, clock), Lease(store, "host2", LEASE_S, clock)
    assert not (await mine.renew(BEAT)).others
    assert (await theirs.renew(replace(BEAT, host="host2"))).others
    assert (await mine.renew(BEAT)).others
    await _set(store, enabled=False)
    assert not (await mine.renew(BEAT)).others
    await _set(store, enabled=True, lease_until=None)
    assert not (await mine.renew(BEAT)).others


def _owner(**words: str) -> str:
    """This process's name, but for some words of it."""
    machine, boot, processes, process, started, token = new_owner().split(".")
    found = {"machine": machine, "boot": boot, "processes": processes, "process": process, "started": started}
    return ".".join([*(found | words).values(), token])


def test_of_a_process_of_another_machine_nothing_is_known() -> None:
    assert not process_ended(_owner())
    assert not process_ended(_owner(machine="other", started="1"))
    assert not process_ended(_owner(boot="other", started="1"))
    assert not process_ended(_owner(processes="other", started="1"))
    assert not process_ended("")
    assert process_ended(_owner(process=str(os.getpid()), started="1")), "the number is another process's now"


@pytest.mark.parametrize(("ago_s", "free"), [(60, True), (-10, False)])
async def test_after_a_reboot_of_the_machine_an_old_lease_is_not_waited_for(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ago_s: int, free: bool
) -> None:
    (tmp_path / "machine-id").write_text("0123456789abcdef")
    monkeypatch.setattr(leases, "_MACHINE_ID", tmp_path / "machine-id")
    lease = Lease(store, "host1", LEASE_S, clock)
    await lease.renew(BEAT)
    await _set(store, lease_owner=_owner(boot="earlier"), lease_until=now() - timedelta(seconds=ago_s))
    assert (await lease.renew(BEAT)).held is free
