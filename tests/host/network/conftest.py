"""Hosts in namespaces: a store, a bus, the real network agents, and guests that are namespaces.

Rows are written as the controllers write them; everything else happens by the agent. Each test has a prefix of its own
and leaves nothing behind.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .fabric import Fabric
from .world import World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    tmp_path.chmod(0o755)  # noqa: ASYNC240 - before anything runs
    world = World(tmp_path, prefix="n" + secrets.token_hex(3))
    await world.open()
    try:
        yield world
    finally:
        await world.close()


@pytest.fixture
async def fabric(tmp_path: Path) -> AsyncIterator[Fabric]:
    """Three hosts over one trunk, one underlay and one public wire."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    tmp_path.chmod(0o755)  # noqa: ASYNC240 - before anything runs
    fabric = Fabric(tmp_path, prefix="f" + secrets.token_hex(2))
    try:
        await fabric.open()
        yield fabric
    finally:
        await fabric.close()
