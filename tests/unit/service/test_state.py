"""The state directory: one server at a time, options kept, private files."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kilonova.config import ApiConfig
from kilonova.errors import BadRequest, Conflict, NotFound
from kilonova.service.credentials import password, write
from kilonova.service.embedded import configuration
from kilonova.service.state import Options, StateDirectory, existing, write_private


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    directory = StateDirectory(tmp_path / "state")
    directory.make()
    return directory


def test_a_directory_with_other_things_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(BadRequest, match=r"thesis\.txt"):
        StateDirectory(tmp_path).make()
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_cloud_whose_options_were_removed_is_taken(state: StateDirectory) -> None:
    (state.path / "kilonova.sqlite").touch()
    state.make()


def test_options_are_kept(state: StateDirectory) -> None:
    options = Options(mode="sandbox", driver="namespace", port=9999, trunks={"physnet1": "eth1"})
    state.write_options(options)
    assert state.read_options() == options
    assert existing(state.path).path == state.path


def test_the_order_of_network_types_becomes_their_weights(state: StateDirectory) -> None:
    chosen = configuration(state, Options(network_types=["vxlan", "flat"])).network.type_weights
    assert chosen == {"vxlan": 2.0, "flat": 1.0}
    default = configuration(state, Options()).network.type_weights
    assert sorted(default, key=lambda name: -default[name]) == ["vlan", "vxlan", "flat-dhcp", "flat"]


def test_a_directory_without_a_cloud_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="kilonova up"):
        existing(tmp_path)


def test_damaged_options_are_named(state: StateDirectory) -> None:
    state.options_file.write_text("{")
    with pytest.raises(BadRequest, match="damaged"):
        state.read_options()


def test_one_process_at_a_time(state: StateDirectory) -> None:
    held = state.lock()
    with pytest.raises(Conflict, match="already served"):
        state.lock()
    os.close(held)
    os.close(state.lock())


def test_the_lock_goes_with_a_killed_process(state: StateDirectory) -> None:
    script = (
        "import sys, time; from pathlib import Path; from kilonova.service.state import StateDirectory;"
        "s = StateDirectory(Path(sys.argv[1])); s.lock(); s.write_pid(); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(state.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert state.pid() == process.pid
    process.kill()
    process.wait()
    assert state.pid() is None
    os.close(state.lock())


def test_stop_ends_the_serving_process_and_says_when_there_is_none(state: StateDirectory) -> None:
    assert state.stop() is False
    script = (
        "import sys, time; from pathlib import Path; from kilonova.service.state import StateDirectory;"
        "s = StateDirectory(Path(sys.argv[1])); s.lock(); s.write_pid(); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(state.path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    assert state.stop() is True
    assert process.wait() == -15


def test_private_files_are_private_and_whole(state: StateDirectory) -> None:
    path = state.path / "secret"
    write_private(path, b"one")
    write_private(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not [p for p in state.path.iterdir() if p.name.startswith(".secret")]


@pytest.mark.parametrize("secret", ["plain", "with space", "qu'ote", 'dou"ble', "$HOME `x`", "#;&|"])
def test_any_password_survives_openrc_and_a_shell(state: StateDirectory, secret: str) -> None:
    write(state, ApiConfig(), secret)
    assert password(state) == secret
    script = f'. "{state.openrc}"; printf %s "$OS_PASSWORD"'
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == secret


def test_directories_have_different_prefixes(tmp_path: Path) -> None:
    prefixes = {StateDirectory(tmp_path / str(n)).prefix for n in range(20)}
    assert len(prefixes) > 15
    assert all(len(prefix) <= 4 for prefix in prefixes)
    assert StateDirectory(Path("/var/lib/kilonova")).prefix == "kn"
