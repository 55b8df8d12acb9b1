"""The lab: hosts with kernels of their own on one trunk. Skipped, with the reason, where they cannot run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .lab import OWN_KERNELS, Lab, LabHost, LocalHost
from .rack import Rack
from .uml import CannotRun, UmlHost, kernel


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    try:
        found = kernel()
    except CannotRun as reason:
        pytest.skip(f"no User-Mode Linux: {reason}")
    directory: Path = tmp_path_factory.mktemp("lab")
    rack = Rack(f"l{os.getpid() % 4096:x}-rack")
    hosts: list[LabHost] = []
    try:
        rack.open(len(OWN_KERNELS))
        kernels = [UmlHost(found, number, rack.name, directory) for number in range(1, len(OWN_KERNELS) + 1)]
        hosts += kernels
        hosts.append(LocalHost(rack, directory))
        try:
            for started in kernels:
                started.wait_until_up()
        except CannotRun as reason:
            pytest.skip(f"no User-Mode Linux: {reason}")
        made = Lab(rack, hosts)
        yield made
        made.close()
    finally:
        for host in hosts:
            host.end()
        rack.close()
