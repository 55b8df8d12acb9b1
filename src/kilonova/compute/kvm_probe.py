"""Finds out whether KVM really runs a guest here: by running one.

`/dev/kvm` alone proves nothing: hosts whose KVM serves paravirtual guests only have it too, and then a guest crawls or
dies. So a small ROM (`probe.S`) runs in a virtual machine of one processor, in a child process with a budget of
processor time: real mode, protected mode, long mode with paging, CPUID and SSE2, then a loop of two million rounds.
x86-64 only; the configuration's `acceleration` overrides the result.
"""

from __future__ import annotations

import base64
import ctypes
import fcntl
import mmap
import os
import platform
import resource
import select
import struct
import subprocess
import sys
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from kilonova.errors import CommandFailed

DEVICE = Path("/dev/kvm")
CPU_BUDGET_S = 0.6
WALL_BUDGET_S = 5.0
STAGES = b"RPSL."
"""What the ROM writes on its way: Real mode, Protected mode, SSE2 in long mode, Loop done, and the end."""

ROM = (
    "eNrtjjFPAkEQhd/lgrG5zFWGSi/8AAL8AkoLC6I/wG5bK/tLoOVCYkklLQUUFHc2bidWWlhQXmUiJucRKIjRLLMrjX+BzJfsvPcms8n7ftj608uirsg7"
    "wYoirbpzj2paLaPSmGOoNESySHTyquxlp3hEBDR1hhBYj58qNvoNgB1Pv21d1bqO23HuwrrttXW5Se0Hqi1SFtY8iwFNrQAexwYXCHgfc4PlPReogqL8"
    "PMCRu21qGin60ore+N3MXaWrIot7pzDPtz8uXxTT8H2z+fztz4AB9hjDY/jyp3d7HU5whrx0XhAEQRAEQRAEQRAOiI+g/Jd3EzBhMA=="
)
"""`probe.S`, assembled and linked at 0 as one flat 4 KiB block, zlib, base64; a unit test assembles it again."""

_GET_API_VERSION = 0xAE00
_CREATE_VM = 0xAE01
_GET_VCPU_MMAP_SIZE = 0xAE04
_CREATE_VCPU = 0xAE41
_SET_TSS_ADDR = 0xAE47
_RUN = 0xAE80
_SET_USER_MEMORY_REGION = 0x4020AE46
_SET_CPUID2 = 0x4008AE90
_GET_SUPPORTED_CPUID = 0xC008AE05
_EXIT_IO = 2
_END_PORT = 0xF4


@dataclass(frozen=True)
class ProbeResult:
    usable: bool
    reason: str
    took_s: float


def probe() -> ProbeResult:
    """Is KVM usable on this host? Blocks for milliseconds, at worst `WALL_BUDGET_S`."""
    started = time.monotonic()
    usable, reason = _probe()
    return ProbeResult(usable, reason, time.monotonic() - started)


@dataclass(frozen=True)
class DeviceAccess:
    """How an unprivileged user can open /dev/kvm."""

    everybody: bool = False
    groups: tuple[int, ...] = ()
    """Whose members can; never root's group."""


def device_access() -> DeviceAccess:
    """Who may open /dev/kvm."""
    try:
        status = DEVICE.stat()
    except OSError:
        return DeviceAccess()
    everybody = (status.st_mode & 0o006) == 0o006
    group = (status.st_mode & 0o060) == 0o060 and status.st_gid != 0
    return DeviceAccess(everybody, (status.st_gid,) if group else ())


def _probe() -> tuple[bool, str]:
    if not DEVICE.exists():
        return False, "this host has no /dev/kvm"
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return False, f"/dev/kvm: {error.strerror}"
    if platform.machine() != "x86_64":
        return True, f"not probed on {platform.machine()}"
    said, why = _run_child()
    if said == STAGES:
        return True, "a guest ran"
    paravirtual = "; this host's KVM runs paravirtual guests only" if Path("/sys/module/kvm_pvm").is_dir() else ""
    return False, f"{why} after stages {said.decode('latin1')!r}{paravirtual}"


def _run_child() -> tuple[bytes, str]:
    """What the ROM said, and why we stopped listening."""
    try:
        child = subprocess.Popen(
            [sys.executable, "-I", __file__],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        raise CommandFailed(f"cannot start the KVM probe: {error}") from error
    assert child.stdout is not None
    descriptor = child.stdout.fileno()
    said = b""
    give_up = time.monotonic() + WALL_BUDGET_S
    why = "timeout"
    try:
        while time.monotonic() < give_up:
            if select.select([descriptor], [], [], 0.02)[0]:
                piece = os.read(descriptor, 256)
                if not piece:
                    why = "it ended"
                    break
                said += piece
                if said.endswith(b".") or b"!" in said:
                    why = "it failed"
                    break
            if said and _cpu_time_s(child.pid) > CPU_BUDGET_S:
                why = f"too slow ({CPU_BUDGET_S} s of processor time)"
                break
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    return said.removeprefix(b"+"), why


def _cpu_time_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_guest(output: int) -> None:
    """In the child: run the ROM and write each stage's letter to `output`."""
    device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    if fcntl.ioctl(device, _GET_API_VERSION) != 12:
        raise OSError("unknown version of the KVM interface")
    machine = fcntl.ioctl(device, _CREATE_VM, 0)
    memory, rom = mmap.mmap(-1, 1 << 20), mmap.mmap(-1, 4096)
    rom[:4096] = zlib.decompress(base64.b64decode(ROM))
    try:
        fcntl.ioctl(machine, _SET_TSS_ADDR, 0x10000000)
    except OSError:  # only old Intel processors need it
        pass
    for slot, address, block in ((0, 0, memory), (1, 0xFFFFF000, rom)):
        start = ctypes.addressof(ctypes.c_char.from_buffer(block))
        region = struct.pack("<IIQQQ", slot, 0, address, len(block), start)
        fcntl.ioctl(machine, _SET_USER_MEMORY_REGION, region)
    processor = fcntl.ioctl(machine, _CREATE_VCPU, 0)
    features = bytearray(struct.pack("<II", 256, 0) + bytes(40 * 256))
    fcntl.ioctl(device, _GET_SUPPORTED_CPUID, features)
    fcntl.ioctl(processor, _SET_CPUID2, features)  # long mode must be offered
    state = mmap.mmap(processor, fcntl.ioctl(device, _GET_VCPU_MMAP_SIZE))
    while True:
        try:
            fcntl.ioctl(processor, _RUN, 0)
        except InterruptedError:
            continue
        (reason,) = struct.unpack_from("<I", state, 8)
        if reason != _EXIT_IO:
            os.write(output, b"!%d" % reason)
            return
        _, _, port, _, offset = struct.unpack_from("<BBHIQ", state, 32)
        if port == _END_PORT:
            os.write(output, b".")
            return
        os.write(output, state[offset : offset + 1])


def _main() -> int:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.write(1, b"+")
    try:
        run_guest(1)
    except OSError as error:
        os.write(1, f"!{error}".encode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
