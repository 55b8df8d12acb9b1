"""The one module that runs external programs: never through a shell, always with a deadline and a readable failure."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

from kilonova.errors import CommandFailed


def run(
    argv: Sequence[str],
    *,
    stdin: str | None = None,
    timeout_s: float = 30.0,
    check: bool = True,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a program to its end and return its standard output. Blocks: call it from a worker thread.

    Raises `CommandFailed` with the program's last words when it exits non-zero (unless `check` is false), cannot be
    started, or outlives `timeout_s` (it is killed then).
    """
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            env=None if env is None else dict(env),
            check=False,
        )
    except FileNotFoundError as error:
        raise CommandFailed(f"{argv[0]}: not installed (see `kilonova doctor`)") from error
    except (OSError, ValueError) as error:  # not executable, arguments too long, a NUL character in one
        raise CommandFailed(f"{argv[0]}: cannot be started: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(f"{' '.join(argv)}: no end after {timeout_s:g} s") from error
    if check and done.returncode:
        words = (done.stderr or done.stdout).strip()[-800:]
        end = f"exit {done.returncode}" if done.returncode > 0 else f"killed by signal {-done.returncode}"
        raise CommandFailed(f"{' '.join(argv)}: {end}: {words}")
    return done.stdout
