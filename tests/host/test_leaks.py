"""What guests left on a machine is told by its mark; what servers have, and what other clouds have, is left alone."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kilonova.ids import new_id
from kilonova.network.host import namespaces
from kilonova.service import leaks


@pytest.fixture
def prefix() -> Iterator[str]:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    prefix = "k" + secrets.token_hex(3)
    yield prefix
    for name in namespaces.names(prefix):
        namespaces.delete(name)


def guest(state_dir: Path, instance_id: str) -> subprocess.Popen[bytes]:
    """What has the command line of a guest."""
    words = ["qemu-system-x86_64", "-c", "read line", f"{state_dir}/instances/{instance_id}/disk"]
    return subprocess.Popen(words, executable="/bin/bash", stdin=subprocess.PIPE)


def test_what_is_no_servers_is_told_and_removed(tmp_path: Path, prefix: str) -> None:
    mine, elsewhere = tmp_path / "mine", tmp_path / "other"
    server, gone, lost = (str(new_id()) for _ in range(3))
    for instance_id in (server, gone):
        (mine / "instances" / instance_id).mkdir(parents=True)
        namespaces.create(f"{prefix}-g-{instance_id[:11]}", lambda: None)
    namespaces.create(f"{prefix}-g-{lost[:11]}", lambda: None)
    processes = [guest(mine, server), guest(mine, lost), guest(elsewhere, lost)]
    try:
        found = {(leak.kind, leak.name) for leak in leaks.find(mine, prefix, lambda: {server})}
        assert found == {
            ("namespace", f"{prefix}-g-{lost[:11]}"),
            ("file", str(mine / "instances" / gone)),
            ("process", str(processes[1].pid)),
        }

        leaks.remove(mine, prefix, lambda: {server})

        assert processes[1].wait(20) != 0
        assert [process.poll() for process in processes] == [None, processes[1].returncode, None]
        assert {leak.kind for leak in leaks.find(mine, prefix, lambda: {server})} == {"file"}
        assert not namespaces.exists(f"{prefix}-g-{lost[:11]}")
        assert namespaces.exists(f"{prefix}-g-{server[:11]}")
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_server_that_comes_meanwhile_is_none(tmp_path: Path, prefix: str) -> None:
    """Its row is there before anything of its guest: who asks for the rows last sees it."""
    coming = str(new_id())
    (tmp_path / "instances").mkdir()
    namespaces.create(f"{prefix}-g-{coming[:11]}", lambda: None)
    process = guest(tmp_path, coming)
    try:
        asked: list[bool] = []

        def servers() -> set[str]:
            asked.append(True)
            return {coming}

        leaks.remove(tmp_path, prefix, servers)
        assert len(asked) == 2
        assert process.poll() is None
        assert namespaces.exists(f"{prefix}-g-{coming[:11]}")
    finally:
        process.kill()
        process.communicate()
