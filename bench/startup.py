#!/usr/bin/env python3
"""How long `kilonova up` takes to its first authenticated answer, and what the idle process weighs.

Example: .venv/bin/python bench/startup.py --runs 5 --out startup.json
         sudo .venv/bin/python bench/startup.py --mode sandbox
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import report
import running

BARS_MS = {"simulate": 2000.0, "sandbox": 3000.0}
BAR_IDLE_MB = 120.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=("simulate", "sandbox"), default="simulate")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--idle", type=float, default=5.0, help="seconds to wait before memory is read")
    parser.add_argument("--out", help="JSON file; else stdout")
    options = parser.parse_args()
    before = report.machine()
    first, again, rss, pss, idle_cpu = [], [], [], [], []
    for number in range(options.runs):
        parent = Path(tempfile.mkdtemp(prefix="kilonova-bench-"))
        port = running.free_port()
        try:
            cloud = running.start(parent / "state", port, f"--{options.mode}")
            try:
                first.append(running.wait(cloud))
                cloud.process.terminate()
                cloud.process.wait(30)
                cloud = running.start(parent / "state", port)
                again.append(running.wait(cloud))
                if number == 0:
                    time.sleep(options.idle)
                    used = cloud.cpu_s()
                    time.sleep(options.idle)
                    idle_cpu.append((cloud.cpu_s() - used) / options.idle)
                    memory = cloud.memory_mb()
                    rss.append(memory["rss"])
                    pss.append(memory["pss"])
            finally:
                running.stop(cloud)
        finally:
            shutil.rmtree(parent, ignore_errors=True)
    bar = BARS_MS[options.mode]
    figures = [
        report.latencies(f"{options.mode}: first start to GET /servers", first, bar),
        report.latencies(f"{options.mode}: later start to GET /servers", again, bar),
        report.Figure("idle, resident", "MB", 1, rss[0], rss[0], BAR_IDLE_MB),
        report.Figure("idle, proportional", "MB", 1, pss[0], pss[0]),
        report.Figure("idle, processor", "%", 1, round(100 * idle_cpu[0], 2), round(100 * idle_cpu[0], 2)),
    ]
    return report.write("startup", figures, options.out, before)


if __name__ == "__main__":
    sys.exit(main())
