"""A guest's files: its specification, its process, its bounded console log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kilonova.compute.driver import GuestSpec, NicSpec
from kilonova.compute.guest_directory import CONSOLE_BYTES, GuestDirectory, GuestProcess, all_instances
from kilonova.errors import NotFound
from kilonova.ids import InstanceId, PortId, new_id


@pytest.fixture
def directory(tmp_path: Path) -> GuestDirectory:
    made = GuestDirectory(tmp_path, InstanceId(new_id()))
    made.make()
    return made


def test_specification_survives(directory: GuestDirectory) -> None:
    spec = GuestSpec(
        instance_id=directory.instance_id,
        name="é",
        hostname="e",
        vcpus=1,
        ram_mb=64,
        image=Path("/images/x"),
        nics=(NicSpec(port_id=PortId("p"), device="tapp", mac="fa:16:3e:00:00:01"),),
    )
    directory.save_spec(spec)
    assert directory.load_spec() == spec


def test_guest_that_was_never_made_is_not_found(directory: GuestDirectory) -> None:
    with pytest.raises(NotFound, match=directory.instance_id):
        directory.load_spec()


def test_all_instances_passes_over_what_is_not_an_instance(directory: GuestDirectory, tmp_path: Path) -> None:
    (tmp_path / "instances" / "lost+found").mkdir()
    assert all_instances(tmp_path) == [directory.instance_id]
    assert all_instances(tmp_path / "nowhere") == []


def test_removed_directory_is_gone_and_removing_again_is_no_error(directory: GuestDirectory, tmp_path: Path) -> None:
    directory.console.write_text("x")
    directory.remove()
    directory.remove()
    assert all_instances(tmp_path) == []


def test_process_is_told_from_a_later_one_of_the_same_number(directory: GuestDirectory) -> None:
    process = GuestProcess.of(os.getpid())
    assert process is not None
    directory.save_process(process)
    assert directory.load_process() == process
    assert process.is_alive()
    assert not GuestProcess(process.pid, process.started_ticks + 1).is_alive()


def test_process_lives_until_its_last_thread_has_ended() -> None:
    """Until then its files are open: a guest's tap would be busy."""
    script = (
        "import ctypes, sys, threading\n"
        "threading.Thread(target=sys.stdin.read).start()\n"
        "print(flush=True)\n"
        "ctypes.CDLL(None).syscall(60, 0)\n"  # exit: of this thread only
    )
    argv = [sys.executable, "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        process = GuestProcess.of(child.pid)
        status = Path(f"/proc/{child.pid}/stat")
        while status.read_text().rpartition(")")[2].split()[0] != "Z":
            os.sched_yield()
        assert process is not None
        assert process.is_alive()
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not process.is_alive()


def test_console_is_cut_to_its_newest_part_while_it_is_written(directory: GuestDirectory) -> None:
    with directory.console.open("ab") as writer:
        writer.write(b"old\n" * (CONSOLE_BYTES // 2))
        writer.flush()
        directory.tidy()
        assert directory.console.stat().st_size <= CONSOLE_BYTES
        writer.write(b"new\n")
        writer.flush()
        assert directory.console_text(2) == "old\nnew\n"


def test_console_of_nothing_is_empty_and_odd_bytes_do_not_hurt(directory: GuestDirectory) -> None:
    assert directory.console_text(10) == ""
    directory.console.write_bytes(b"\xff\xfe ok\r\nlogin: ")
    assert directory.console_text(1) == "login: "
    assert directory.console_text(0) == ""
