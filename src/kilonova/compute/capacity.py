"""What this machine can give to guests: processors, memory and disk, unless the configuration says otherwise."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from kilonova.compute.driver import Capacity
from kilonova.config import HostConfig

VCPUS_PER_PROCESSOR = 16
LIGHT_VCPUS = 4096
"""Of a host of light guests, which compute nothing: a few of its processors' time serves hundreds."""
SIMULATED_VCPUS, SIMULATED_RAM_MB, SIMULATED_DISK_GB = 4096, 16 * 2**20, 2**17
"""A simulated host has nothing to run out of: it is as large as tests of many servers need."""


def host_capacity(
    host: HostConfig, state_dir: Path, *, hypervisor_type: str, hypervisor_version: int, acceleration: str
) -> Capacity:
    """The host's offer; `state_dir` lies on the file system that holds the guests' disks."""
    if host.simulate:
        vcpus, ram_mb, disk_gb = SIMULATED_VCPUS, SIMULATED_RAM_MB, SIMULATED_DISK_GB
    else:
        vcpus = LIGHT_VCPUS if hypervisor_type == "namespace" else (os.cpu_count() or 1) * VCPUS_PER_PROCESSOR
        ram_mb, disk_gb = _memory_mb(), _disk_gb(state_dir)
    return Capacity(
        vcpus=host.vcpus or vcpus,
        ram_mb=host.ram_mb or ram_mb,
        disk_gb=host.disk_gb or disk_gb,
        hypervisor_type=hypervisor_type,
        hypervisor_version=hypervisor_version,
        cpu_info={"arch": platform.machine(), "model": _cpu_model(), "acceleration": acceleration},
    )


def _memory_mb() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def _disk_gb(directory: Path) -> int:
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    return shutil.disk_usage(existing).total // 2**30


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
