"""Figures as JSON: medians beside what they should be, and the speed of the machine in the same run."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Figure:
    name: str
    unit: str
    n: int
    median: float
    p95: float
    bar: float | None = None
    """What it should be at most (at least, for a rate); none: not promised."""
    more_is_better: bool = False
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def meets_bar(self) -> bool | None:
        if self.bar is None:
            return None
        return self.median >= self.bar if self.more_is_better else self.median <= self.bar


def latencies(name: str, seconds: Sequence[float], bar_ms: float | None = None, **extra: float) -> Figure:
    """A figure in milliseconds of single operations."""
    ms = sorted(1000 * value for value in seconds)
    p95 = ms[min(len(ms) - 1, int(0.95 * len(ms)))]
    return Figure(name, "ms", len(ms), round(statistics.median(ms), 2), round(p95, 2), bar_ms, extra=extra)


def rate(name: str, n: int, wall_s: float, bar: float | None = None, **extra: float) -> Figure:
    """A figure in operations a second."""
    value = round(n / wall_s, 1)
    return Figure(name, "1/s", n, value, value, bar, more_is_better=True, extra=extra)


def timed(times: list[float], work: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    answer = work()
    times.append(time.perf_counter() - began)
    return answer


def machine() -> dict[str, Any]:
    """How fast this machine is now: the baseline that figures of other runs are compared by."""
    began = time.perf_counter()
    total = 0
    for number in range(1_000_000):
        total += number & 7
    loop_ms = (time.perf_counter() - began) * 1000
    block = bytes(1 << 20)
    began = time.perf_counter()
    for _ in range(64):
        hashlib.sha256(block)
    sha_mb_s = 64 / (time.perf_counter() - began)
    syncs: list[float] = []
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(50):
            file.write(bytes(4096))
            file.flush()
            timed(syncs, lambda: os.fsync(file.fileno()))
    return {
        "processors": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "python_loop_ms": round(loop_ms, 1),
        "sha256_mb_s": round(sha_mb_s),
        "fsync_4k_ms": round(1000 * statistics.median(syncs), 2),
    }


def write(benchmark: str, figures: Sequence[Figure], out: str | None, before: dict[str, Any]) -> int:
    """Print a table to stderr and JSON to `out` (or stdout); 1 when a figure misses its bar."""
    print(f"{'':44}{'median':>10}{'p95':>10}  unit {'bar':>7}", file=sys.stderr)
    for figure in figures:
        bar = "" if figure.bar is None else f"{figure.bar:g}{'' if figure.meets_bar else '  MISSED'}"
        print(f"{figure.name:44}{figure.median:10.2f}{figure.p95:10.2f}  {figure.unit:4} {bar:>7}", file=sys.stderr)
    document = {
        "benchmark": benchmark,
        "machine": {"before": before, "after": machine()},
        "figures": [{**asdict(figure), "meets_bar": figure.meets_bar} for figure in figures],
    }
    text = json.dumps(document, indent=1)
    if out:
        Path(out).write_text(text + "\n")
    else:
        print(text)
    return int(any(figure.meets_bar is False for figure in figures))
