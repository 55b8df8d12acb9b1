"""The lease of a network host: which agent process alone may touch its kernel, and until when.

It is two columns of the host's row in `services`, renewed with the heartbeat. Nobody compares clocks: a holder counts
its own seconds from before it asked, others count theirs from when they saw a renewal, so that a lease which others
believe ended has ended for its holder too. A step of a clock changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, insert, or_, select, update

from kilonova.ids import new_id
from kilonova.store.database import Store
from kilonova.store.schema import now, services

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MACHINE_ID = Path("/etc/machine-id")
_WORDS = 6
"""Of an owner's name: the three of its place, process, when it started, a random one."""


@dataclass(frozen=True)
class Beat:
    """What a heartbeat says about its host."""

    host: str
    availability_zone: str
    started_at: datetime
    capacity: dict[str, Any]
    progress: dict[str, Any]


class Term(NamedTuple):
    """A lease as the store has it; equal terms are the same renewal."""

    owner: str | None
    until: datetime | None


@dataclass(frozen=True)
class Renewal:
    """What came of asking for the lease."""

    held: bool
    kept: bool
    """Nobody took this host's networks over since it was held the last time."""
    others: bool
    """There are other network hosts that may take over."""
    term: Term
    """As it was before: who holds it when it was refused."""


def renew(tx: Connection, owner: str, lease_s: float, beat: Beat, *, ended: Term | None = None) -> Renewal:
    """Beat and take or renew the lease, unless another holds it; `ended` is a term that the caller knows to be over."""
    mine = (services.c.kind == "network", services.c.host == beat.host)
    usable = (services.c.enabled.is_(True), services.c.forced_down.is_(False), services.c.lease_until.is_not(None))
    rest = (services.c.kind == "network", services.c.host != beat.host, *usable)
    others = tx.execute(select(services.c.id).where(*rest).limit(1)).first() is not None
    row = tx.execute(select(services.c.lease_owner, services.c.lease_until).where(*mine)).one_or_none()
    term = Term(*row) if row is not None else Term(None, None)
    free = or_(services.c.lease_owner.is_(None), services.c.lease_owner == owner)
    if ended is not None:
        free = or_(free, and_(services.c.lease_owner == ended.owner, services.c.lease_until == ended.until))
    moment = now()
    values = {
        "seen_at": moment,
        "started_at": beat.started_at,
        "capacity": beat.capacity,
        "progress": beat.progress,
        "lease_owner": owner,
        "lease_until": moment + timedelta(seconds=lease_s),
    }
    if row is None:
        zone = {"availability_zone": beat.availability_zone}
        tx.execute(insert(services).values(id=new_id(), kind="network", host=beat.host, **zone, **values))
        return Renewal(True, False, others, term)
    held = tx.execute(update(services).where(*mine, free).values(**values)).rowcount > 0
    return Renewal(held, held and term.until is not None, others, term)


def release(tx: Connection, owner: str, host: str) -> None:
    """Let another process of this host have it at once; other hosts wait until it would have ended."""
    mine = (services.c.kind == "network", services.c.host == host, services.c.lease_owner == owner)
    tx.execute(update(services).where(*mine).values(lease_owner=None))


class Lease:
    """One agent process's side of it."""

    def __init__(self, store: Store, host: str, lease_s: float, clock: Callable[[], float] | None = None) -> None:
        """`clock` counts seconds, also those that the machine slept."""
        self.owner = new_owner()
        self._store = store
        self._host = host
        self._lease_s = lease_s
        self._clock = clock or boot_time
        self._until = float("-inf")
        self._seen: tuple[Term, float] | None = None

    @property
    def remaining_s(self) -> float:
        """How long this process may still touch the kernel; not positive: it may not."""
        return self._until - self._clock()

    async def renew(self, beat: Beat) -> Renewal:
        """Ask for it; again at once when it was refused and is seen to be over, so that no restart waits.

        Raises what the store raises; then it goes on running out.
        """
        found = await self._ask(beat)
        return await self._ask(beat) if not found.held and self._ended() is not None else found

    async def _ask(self, beat: Beat) -> Renewal:
        asked_at = self._clock()
        found = await self._store.write(renew, self.owner, self._lease_s, beat, ended=self._ended())
        if found.held:
            self._until, self._seen = asked_at + self._lease_s, None
            return found
        self._until = float("-inf")
        if self._seen is None or self._seen[0] != found.term:
            self._seen = (found.term, self._clock())
        return found

    async def release(self) -> None:
        """Give it up."""
        self._until = float("-inf")
        await self._store.write(release, self.owner, self._host)

    def _ended(self) -> Term | None:
        """The term of another process that is known to be over: it died here, or did not renew in time."""
        if self._seen is None:
            return None
        term, since = self._seen
        owner, until = term.owner or "", term.until
        # The one look at a clock: of a machine that started anew no process lives on, but a clone's may.
        over = until is not None and until < now() and rebooted_since(owner)
        return term if over or self._clock() - since >= self._lease_s or process_ended(owner) else None


def boot_time() -> float:
    """Seconds since the machine started, those it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def new_owner() -> str:
    """A name for this process that another one on the same machine can tell the fate of."""
    return f"{'.'.join(_place())}.{os.getpid()}.{_started(os.getpid())}.{secrets.token_hex(3)}"


def process_ended(owner: str) -> bool:
    """Whether the process ran on this machine and is gone. False: it lives, or nobody here can know."""
    words = owner.split(".")
    if len(words) != _WORDS or _Place._make(words[:3]) != _place():
        return False
    return _started(int(words[3])) != words[4]


def rebooted_since(owner: str) -> bool:
    """Whether the process ran on this machine before its last start. A clone of the machine looks the same."""
    words = owner.split(".")
    here = _place()
    return len(words) == _WORDS and bool(here.machine) and words[0] == here.machine and words[1] != here.boot


class _Place(NamedTuple):
    """Where a process number means something."""

    machine: str
    boot: str
    processes: str


def _place() -> _Place:
    """This machine, its present run, and the space of process numbers."""
    try:
        machine = hashlib.sha256(_MACHINE_ID.read_bytes()).hexdigest()[:8]
    except OSError:
        machine = ""
    return _Place(machine, _BOOT_ID.read_text()[:8], str(os.stat("/proc/self/ns/pid").st_ino))


def _started(process: int) -> str:
    """When a process started, in ticks after boot; empty: there is no such process (a zombie is none)."""
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if words[0] in "ZX" else words[19]
