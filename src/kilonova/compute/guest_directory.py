"""A guest's directory on its host: `<state>/instances/<instance id>/`, which every driver uses alike.

It holds the guest's specification (so that it can be started without the database), its disk, its console log and who
its process is. Reading and writing files only; which process and how is the driver's.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from uuid import UUID

import msgspec

from kilonova.compute.driver import GuestSpec
from kilonova.errors import NotFound
from kilonova.ids import InstanceId

CONSOLE_BYTES = 1024 * 1024
"""A console log is cut to its last half of this when it is longer."""
LOG_BYTES = 64 * 1024


class GuestProcess(msgspec.Struct, frozen=True):
    """A process, told apart from a later one of the same number by when it began."""

    pid: int
    started_ticks: int

    @classmethod
    def of(cls, pid: int) -> GuestProcess | None:
        """The process that has this number now; none if there is none or it is only waited for."""
        ticks = _started_ticks(pid)
        return None if ticks is None else cls(pid, ticks)

    def is_alive(self) -> bool:
        return _started_ticks(self.pid) == self.started_ticks


def _started_ticks(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    # A first thread that has ended shows as Z while others of its process still run, with all files open.
    ended = fields[0] == "X" or (fields[0] == "Z" and int(fields[17]) <= 1)
    return None if ended else int(fields[19])


class GuestDirectory:
    """One guest's files."""

    def __init__(self, state_dir: Path, instance_id: InstanceId) -> None:
        self.instance_id = instance_id
        self.path = instances_dir(state_dir) / instance_id

    @property
    def disk(self) -> Path:
        return self.path / "disk.qcow2"

    @property
    def config_drive(self) -> Path:
        return self.path / "config-drive.iso"

    @property
    def config_files(self) -> Path:
        """The same as a directory, for drivers without disks."""
        return self.path / "config-drive"

    @property
    def console(self) -> Path:
        return self.path / "console.log"

    @property
    def log(self) -> Path:
        """What the guest's process itself says: why it did not start."""
        return self.path / "process.log"

    def exists(self) -> bool:
        return self.path.is_dir()

    def make(self) -> None:
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def remove(self) -> None:
        """Remove it with all that is in it; it vanishes from `all_instances` at once."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self.path.exists():
            shutil.rmtree(self.path)

    def save_spec(self, spec: GuestSpec) -> None:
        self.write("guest.json", msgspec.json.encode(spec, enc_hook=str))

    def load_spec(self) -> GuestSpec:
        """Raises `NotFound` when the guest was never made, or only begun."""
        try:
            return msgspec.json.decode((self.path / "guest.json").read_bytes(), type=GuestSpec, dec_hook=_path)
        except (FileNotFoundError, msgspec.DecodeError) as error:
            raise NotFound(f"This host has no guest of instance {self.instance_id}.") from error

    def has_spec(self) -> bool:
        return (self.path / "guest.json").exists()

    def save_process(self, process: GuestProcess | None) -> None:
        if process is None:
            (self.path / "process.json").unlink(missing_ok=True)
        else:
            self.write("process.json", msgspec.json.encode(process))

    def load_process(self) -> GuestProcess | None:
        """The guest's process as last saved, whether alive or not."""
        try:
            return msgspec.json.decode((self.path / "process.json").read_bytes(), type=GuestProcess)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def write(self, name: str, content: bytes) -> None:
        """Replace a file whole: a reader sees the old or the new one."""
        temporary = self.path / f".{name}.new"
        temporary.write_bytes(content)
        temporary.rename(self.path / name)

    def console_text(self, max_lines: int | None) -> str:
        """The log's last lines; carriage returns and undecodable bytes do not hurt."""
        try:
            with self.console.open("rb") as file:  # a guest may have written more since it was last cut
                file.seek(max(0, file.seek(0, os.SEEK_END) - CONSOLE_BYTES))
                text = file.read(CONSOLE_BYTES).decode(errors="replace")
        except FileNotFoundError:
            return ""
        if max_lines is None:
            return text
        return "".join(text.splitlines(keepends=True)[-max_lines:]) if max_lines > 0 else ""

    def last_words(self) -> str:
        """The end of the process's own log."""
        try:
            return self.log.read_text(errors="replace")[-600:].strip()
        except FileNotFoundError:
            return ""

    def tidy(self) -> None:
        """Cut the logs to their bounds, in place, because their writers hold them open (for appending)."""
        _cut(self.console, CONSOLE_BYTES)
        _cut(self.log, LOG_BYTES)


def instances_dir(state_dir: Path) -> Path:
    return state_dir / "instances"


def all_instances(state_dir: Path) -> list[InstanceId]:
    """Every instance that has a directory."""
    try:
        names = os.listdir(instances_dir(state_dir))
    except FileNotFoundError:
        return []
    return sorted(InstanceId(name) for name in names if _is_uuid(name))


def _path(wanted: type, value: object) -> object:
    if wanted is Path and isinstance(value, str):
        return Path(value)
    raise NotImplementedError(wanted)


def _is_uuid(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def _cut(path: Path, limit_bytes: int) -> None:
    try:
        if path.stat().st_size <= limit_bytes:
            return
        with path.open("r+b") as file:
            file.seek(-limit_bytes // 2, os.SEEK_END)
            tail = file.read()
            file.truncate(0)
        with path.open("ab") as file:
            file.write(tail)
    except FileNotFoundError:
        return
