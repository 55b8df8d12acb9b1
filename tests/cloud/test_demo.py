"""The tour of `make demo`, as it is: real guests in QEMU, on a cloud and a port of the test's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .running import ROOT, TINY, free_port


def lines_to_copy(said: str) -> list[str]:
    """The commands with which the tour ends; tests are root already."""
    told = said.partition("to use it:")[2].splitlines()
    lines = [line.strip() for line in told if line.startswith("  ") and not line.startswith("  sudo -s")]
    assert len(lines) >= 8
    return lines


@pytest.mark.timeout(420)
def test_the_tour_of_the_demo_passes_twice_in_a_row_and_its_last_lines_work(tmp_path: Path) -> None:
    assert TINY.exists(), f"{TINY} is missing: `make image` builds it"
    state = tmp_path / "demo"
    argv = [sys.executable, str(ROOT / "tools" / "demo"), "--state-dir", str(state), "--port", str(free_port())]
    kilonova = str(Path(sys.executable).parent / "kilonova")
    try:
        for _ in range(2):
            done = subprocess.run(argv, capture_output=True, text=True, timeout=200, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "demo: ok" in done.stdout
        shell = "set -eo pipefail\n" + "\n".join(lines_to_copy(done.stdout))
        used = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=150, check=False)
        assert used.returncode == 0, used.stdout + used.stderr
        assert "3 received" in used.stdout, used.stdout
    finally:
        subprocess.run([kilonova, "down", "--purge", "--state-dir", str(state)], timeout=60, check=True)
    assert not state.exists()
