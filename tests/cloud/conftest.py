"""Clouds for the tests of this tier: simulated ones need no root, sandboxes do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .running import RunningCloud

MakeCloud = Callable[[str, str], RunningCloud]


@pytest.fixture
def make_cloud(tmp_path: Path) -> Iterator[MakeCloud]:
    """Makes clouds that are gone after the test, kernel state and all."""
    made: list[RunningCloud] = []

    def make(mode: str, driver: str) -> RunningCloud:
        need_root(mode)
        cloud = RunningCloud(tmp_path / f"cloud{len(made)}", mode, driver)
        made.append(cloud)
        return cloud

    yield make
    for cloud in made:
        cloud.down("--purge")


def _session_cloud(factory: pytest.TempPathFactory, mode: str, driver: str) -> Iterator[RunningCloud]:
    need_root(mode)
    cloud = RunningCloud(factory.mktemp(mode) / "state", mode, driver)
    try:
        cloud.up()
        yield cloud
    finally:
        cloud.down("--purge")


def need_root(mode: str) -> None:
    if mode != "simulate":
        assert os.geteuid() == 0, "this tier needs root (namespaces): `sudo make test`"


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    """One control plane for all tests that need no guest; each test uses its own projects."""
    yield from _session_cloud(tmp_path_factory, "simulate", "fake")


@pytest.fixture(scope="session")
def light_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCloud]:
    """One sandbox with namespace guests for all tests that need packets; each test uses its own projects."""
    yield from _session_cloud(tmp_path_factory, "sandbox", "namespace")
