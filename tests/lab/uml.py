"""Hosts of the lab: User-Mode Linux kernels, which are processes of this machine; they read its files, write to memory.

The kernel is the distribution's package, unpacked under `build/uml` and not installed. A host has two interfaces:
`eth0` for what the test tells it (`server.py` answers there), and the trunk.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import pickle
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kilonova.network.host import namespaces
from kilonova.network.rows import HostRows

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
BUILD = ROOT / "build" / "uml"
PACKAGE = "user-mode-linux"
MEMORY_MB = 224
BOOT_WITHIN_S = 60.0
PORT = 7000
TRUNK = "trunk0"
_PR_SET_CHILD_SUBREAPER = 36
IN_USER_SPACE = "lab: user space"
"""What `init` says first: the kernel works on this machine, all after it is the lab's to answer for."""


class CannotRun(Exception):
    """Why this machine has no User-Mode Linux."""


@dataclass(frozen=True)
class Kernel:
    program: Path
    modules: Path
    """A directory with `lib/modules`, as modprobe's `-d` wants it."""


def kernel() -> Kernel:
    """The unpacked package, fetched at the first time. Raises `CannotRun`."""
    if os.geteuid() != 0:
        raise CannotRun("needs root: bridges and taps")
    if platform.machine() != "x86_64":
        raise CannotRun(f"User-Mode Linux runs on x86_64, this is {platform.machine()}")
    if not Path("/dev/net/tun").exists():
        raise CannotRun("this machine has no /dev/net/tun")
    if _memory_available_mb() < 3 * MEMORY_MB:
        raise CannotRun(f"less than {3 * MEMORY_MB} MB of memory are available")
    tree = BUILD / "tree"
    program = tree / "usr" / "bin" / "linux.uml"
    if not program.exists():
        missing = [name for name in ("apt-get", "dpkg-deb") if not shutil.which(name)]
        if missing:
            raise CannotRun(f"the package {PACKAGE} cannot be fetched without {' and '.join(missing)}")
        _unpack(tree)
    if not program.exists():
        raise CannotRun(f"the package {PACKAGE} of this distribution has no {program.name}")
    return Kernel(program, tree)


def _memory_available_mb() -> int:
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) // 1024


def _unpack(tree: Path) -> None:
    packages = BUILD / "packages"
    packages.mkdir(parents=True, exist_ok=True)
    if not list(packages.glob(f"{PACKAGE}_*.deb")):
        failure = _fetch(packages, {})
        if failure:  # the machine's package lists may be absent, or old and name what is no longer served
            failure = _fetch(packages, _own_lists())
        if failure:
            raise CannotRun(f"the package {PACKAGE} cannot be fetched: {failure}")
    newest = max(packages.glob(f"{PACKAGE}_*.deb"), key=lambda path: path.stat().st_mtime)
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run(["dpkg-deb", "-x", str(newest), str(tree)], check=True)
    (tree / "lib").mkdir(exist_ok=True)
    (tree / "lib" / "modules").symlink_to("../usr/lib/uml/modules")


def _fetch(packages: Path, environment: Mapping[str, str]) -> str:
    """Why it failed; nothing if it did not."""
    argv = ["apt-get", "download", "-qq", PACKAGE]
    done = subprocess.run(
        argv, cwd=packages, env={**os.environ, **environment}, capture_output=True, text=True, timeout=90, check=False
    )
    return done.stderr.strip()[-300:] if done.returncode else ""


def _own_lists() -> dict[str, str]:
    """Package lists of the lab's own, so that the machine's stay as they are."""
    apt = BUILD / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    settings = apt / "apt.conf"
    settings.write_text(f'Dir::State::lists "{apt}/lists";\nDir::Cache "{apt}/cache";\nAPT::Sandbox::User "root";\n')
    environment = {"APT_CONFIG": str(settings)}
    subprocess.run(
        ["apt-get", "update", "-qq"], env={**os.environ, **environment}, capture_output=True, timeout=90, check=False
    )
    return environment


class UmlHost:
    """Start it, `wait_until_up`, tell it what to do, `end` it."""

    def __init__(self, kernel: Kernel, number: int, rack: str, directory: Path) -> None:
        """`rack`: the namespace with its taps `mgmt<number>` and `trunk<number>`. `directory`: for its console."""
        self.name, self.prefix = f"host{number}", "lab"
        self._rack = rack
        self._address = f"198.18.0.{number}"
        self._console = directory / f"{self.name}.log"
        words = {
            "lab.name": self.name,
            "lab.address": f"{self._address}/24",
            "lab.init": str(HERE),
            "lab.modules": str(kernel.modules),
            "lab.python": sys.executable,
            "lab.trunk": TRUNK,
        }
        argv = [
            str(kernel.program),
            f"mem={MEMORY_MB}M",
            f"umid=lab-{os.getpid()}-{number}",
            f"uml_dir={directory}",
            *("rootfstype=hostfs", "rootflags=/", "ro", f"init={HERE / 'init'}", "panic=1"),
            *("con=null", "con0=null,fd:1", "quiet"),
            f"vec0:transport=tap,ifname=mgmt{number},mac=02:00:00:00:00:{number:02x}",
            f"vec1:transport=tap,ifname=trunk{number},mac=02:00:00:00:01:{number:02x}",
            *(f"{key}={value}" for key, value in words.items()),
        ]
        # The guest's memory is a deleted file in TMPDIR. The kernel has a process per address space: its session is
        # its own, so that its process group is all of it.
        environment = {**os.environ, "TMPDIR": "/dev/shm", "HOME": str(directory)}
        with self._console.open("wb") as console:
            self._process: subprocess.Popen[bytes] = namespaces.run_inside(
                rack,
                lambda: subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=console,
                    env=environment,
                    start_new_session=True,
                ),
            )
        self._connection: socket.socket | None = None

    def wait_until_up(self) -> None:
        """Raises `CannotRun` when the kernel does not come as far as user space."""
        give_up = time.monotonic() + BOOT_WITHIN_S
        while self._connection is None:
            if self._process.poll() is not None or time.monotonic() > give_up:
                said = self._console.read_text(errors="replace")
                if IN_USER_SPACE not in said:
                    raise CannotRun(f"the kernel does not start here: {said.strip()[-400:]}")
                raise AssertionError(f"{self.name} did not come up: {said[-1500:]}")
            try:
                self._connection = namespaces.run_inside(
                    self._rack, lambda: socket.create_connection((self._address, PORT), 1.0)
                )
            except OSError:
                time.sleep(0.05)
        self._connection.settimeout(60.0)
        self._answers = self._connection.makefile("rb")

    def ask(self, **question: Any) -> dict[str, Any]:
        """One of the server's questions, and its answer."""
        assert self._connection is not None
        self._connection.sendall(json.dumps(question).encode() + b"\n")
        line = self._answers.readline()
        assert line, f"{self.name} went away: {self._console.read_text(errors='replace')[-1500:]}"
        answer: dict[str, Any] = json.loads(line)
        assert "error" not in answer, f"{self.name}: {answer['error']}"
        return answer

    def realise(self, rows: HostRows, values: Mapping[str, Any], *, look: bool) -> Mapping[str, Any]:
        """Have the cloud's code make the host as the rows want it: `{failures, changes}`."""
        return self.ask(realise=base64.b64encode(pickle.dumps(rows)).decode(), host=dict(values), look=look)

    def shell(self, script: str) -> str:
        """What a script says; it must end well."""
        answer = self.ask(shell=script)
        assert answer["code"] == 0, f"{self.name}: {script}\n{answer['output']}"
        return str(answer["output"])

    def succeeds(self, script: str) -> bool:
        return bool(self.ask(shell=script)["code"] == 0)

    def end(self) -> None:
        if self._connection is not None:
            self._connection.close()
        _become_reaper(True)
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            while True:
                os.waitpid(-self._process.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass  # all of the group are gone
        finally:
            _become_reaper(False)


def _become_reaper(wanted: bool) -> None:
    """The kernel's own children become ours when it ends, to be waited for: the first process may not do that."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, int(wanted), 0, 0, 0)
