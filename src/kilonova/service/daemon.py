"""Leaves the terminal: the child goes on in the background, the parent waits until it says that it is ready."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

from kilonova.errors import DeadlineExceeded, KilonovaError, Unavailable

Ready = Callable[[str], None]
"""Called once by the child: with nothing when it is ready, else with why it is not."""


def detach(output: Path, timeout_s: float) -> Ready | None:
    """Fork. The parent gets none, once the child is ready; the child gets the function that says so.

    Call it before any thread is started. Raises in the parent: `Unavailable` with the child's reason,
    `DeadlineExceeded` when it says nothing within `timeout_s`.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(writer)
        _wait(reader, pid, output, timeout_s)
        return None
    os.close(reader)
    os.setsid()
    _redirect(output)

    def ready(why_not: str) -> None:
        os.write(writer, f"E{why_not}".encode() if why_not else b"R")
        os.close(writer)

    return ready


def _redirect(output: Path) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)


def _wait(reader: int, pid: int, output: Path, timeout_s: float) -> None:
    said = b""
    give_up = time.monotonic() + timeout_s
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while (left := give_up - time.monotonic()) > 0:
            if not select.select([pipe], [], [], left)[0]:
                break
            part = pipe.read(4096)
            said += part
            if said.startswith(b"R"):
                return
            if not part:
                reason = said[1:].decode(errors="replace") or f"process {pid} ended; see {output}"
                raise Unavailable(reason)
    raise DeadlineExceeded(f"process {pid} is not ready after {timeout_s:g} s; see {output}")


def report(ready: Ready | None, error: KilonovaError | None) -> None:
    """Say "ready", or why not, to whoever waits."""
    if ready is not None:
        ready(error.message if error else "")
