"""The state directory: where things are in it, its lock, its process id, the options it was started with.

One process at a time serves a state directory; the lock is the kernel's, so a killed process leaves none behind.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kilonova.errors import BadRequest, Conflict, NotFound


class Options(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What `kilonova up` was told; kept so that a later `up` on the same directory means the same cloud."""

    mode: str = "host"
    """host | sandbox | simulate"""
    driver: str = "qemu"
    address: str = "127.0.0.1"
    port: int = 8770
    host_name: str = "host1"
    prefix: str = "kn"
    acceleration: str = "auto"
    trunks: dict[str, str] = {}
    flat_bridges: dict[str, str] = {}
    tunnel_interface: str = ""
    tunnel_address: str = ""
    public_interface: str = ""
    network_types: list[str] = []
    """Of projects' networks, the best first; others only on request. None: the default order."""


@dataclass(frozen=True)
class StateDirectory:
    path: Path

    @property
    def prefix(self) -> str:
        """Begins the names of this cloud's namespaces; differs between the directories of one machine."""
        if self.path == Path("/var/lib/kilonova"):
            return "kn"
        return "k" + hashlib.sha256(str(self.path).encode()).hexdigest()[:3]

    @property
    def options_file(self) -> Path:
        return self.path / "options.json"

    @property
    def pid_file(self) -> Path:
        return self.path / "run" / "kilonova.pid"

    @property
    def log_dir(self) -> Path:
        return self.path / "logs"

    @property
    def openrc(self) -> Path:
        return self.path / "openrc"

    @property
    def clouds_yaml(self) -> Path:
        return self.path / "clouds.yaml"

    def make(self) -> None:
        """Create the directory.

        Raises `BadRequest` when this user cannot write there, or for one with other things in it: `down --purge`
        removes the directory with everything.
        """
        try:
            if self.path.exists() and not (self.options_file.exists() or (self.path / "kilonova.sqlite").exists()):
                others = sorted({entry.name for entry in self.path.iterdir()} - {"run", "logs"})
                if others:
                    raise BadRequest(
                        f"--state-dir {self.path} holds other things ({', '.join(others[:3])}): choose a new directory"
                    )
            self.path.mkdir(parents=True, exist_ok=True, mode=0o711)
            for name in ("run", "logs"):
                (self.path / name).mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise BadRequest(f"--state-dir {self.path}: {error.strerror}; choose another directory") from error

    def read_options(self) -> Options | None:
        """The options of the last start; none for a new directory."""
        try:
            return msgspec.json.decode(self.options_file.read_bytes(), type=Options)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as error:
            raise BadRequest(f"{self.options_file} is damaged ({error}); remove it to start anew") from error

    def write_options(self, options: Options) -> None:
        write_private(self.options_file, msgspec.json.format(msgspec.json.encode(options)))

    def lock(self) -> int:
        """Take the directory for this process; the descriptor holds the lock until the process ends.

        Raises `Conflict` when another process serves it.
        """
        descriptor = os.open(self.path / "run" / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give_up = time.monotonic() + 0.3  # `pid` below holds the lock for a moment when it looks
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                if time.monotonic() > give_up:
                    os.close(descriptor)
                    raise Conflict(
                        f"{self.path} is already served by process {self.pid()}: see `kilonova status`"
                    ) from None
                time.sleep(0.01)

    def pid(self) -> int | None:
        """The process that serves the directory now; none when nothing does."""
        try:
            descriptor = os.open(self.path / "run" / "lock", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._written_pid()
        finally:
            os.close(descriptor)
        return None

    def _written_pid(self) -> int | None:
        try:
            return int(self.pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def write_pid(self) -> None:
        self.pid_file.write_text(str(os.getpid()))

    def stop(self, timeout_s: float = 20.0) -> bool:
        """Ask the serving process to end, insist after `timeout_s`; false when nothing served the directory."""
        pid = self.pid()
        if pid is None:
            return False
        descriptor = _open_process(pid)
        if descriptor is None:
            return False
        try:
            for sign, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 5.0)):
                signal.pidfd_send_signal(descriptor, sign)
                if self._ended(patience_s):
                    return True
        except ProcessLookupError:
            return True
        finally:
            os.close(descriptor)
        raise Conflict(f"process {pid} does not end; look at {self.log_dir}/kilonova.log")

    def _ended(self, patience_s: float) -> bool:
        give_up = time.monotonic() + patience_s
        while time.monotonic() < give_up:
            if self.pid() is None:
                return True
            time.sleep(0.02)
        return False


def _open_process(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def default_state_dir() -> Path:
    """/var/lib/kilonova for root, else the user's own state directory (XDG)."""
    if os.geteuid() == 0:
        return Path("/var/lib/kilonova")
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "kilonova"


def existing(path: Path) -> StateDirectory:
    """The state directory of a cloud that was started before. Raises `NotFound`."""
    state = StateDirectory(path)
    if not state.options_file.exists():
        raise NotFound(f"no cloud in {path}: `kilonova up --state-dir {path}` makes one")
    return state
