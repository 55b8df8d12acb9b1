"""The KVM probe: its program is the source beside it, and it always answers soon."""

from __future__ import annotations

import base64
import shutil
import subprocess
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from kilonova.compute import kvm_probe


@pytest.mark.skipif(not shutil.which("as") or not shutil.which("ld"), reason="no assembler here")
def test_rom_is_the_assembled_source(tmp_path: Path) -> None:
    source = Path(kvm_probe.__file__).with_name("probe.S")
    subprocess.run(["as", "--64", "-o", tmp_path / "probe.o", source], check=True)
    flat = ("-Ttext=0", "--entry=0", "--oformat=binary")
    subprocess.run(["ld", *flat, "-o", str(tmp_path / "probe.bin"), str(tmp_path / "probe.o")], check=True)
    assert (tmp_path / "probe.bin").read_bytes() == zlib.decompress(base64.b64decode(kvm_probe.ROM))


def test_probe_answers_with_a_reason_in_its_budget() -> None:
    result = kvm_probe.probe()
    assert result.reason
    assert result.took_s < kvm_probe.WALL_BUDGET_S + 1


def test_host_without_the_device_has_no_kvm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kvm_probe, "DEVICE", tmp_path / "kvm")
    assert kvm_probe.probe().usable is False
    assert kvm_probe.device_access() == kvm_probe.DeviceAccess()


@pytest.mark.parametrize(
    ("mode", "group", "access"),
    [
        (0o660, 104, kvm_probe.DeviceAccess(groups=(104,))),
        (0o660, 0, kvm_probe.DeviceAccess()),
        (0o666, 104, kvm_probe.DeviceAccess(everybody=True, groups=(104,))),
        (0o600, 104, kvm_probe.DeviceAccess()),
    ],
)
def test_who_may_open_the_device(
    monkeypatch: pytest.MonkeyPatch, mode: int, group: int, access: kvm_probe.DeviceAccess
) -> None:
    class Device:
        def stat(self) -> SimpleNamespace:
            return SimpleNamespace(st_mode=mode, st_gid=group)

    monkeypatch.setattr(kvm_probe, "DEVICE", Device())
    assert kvm_probe.device_access() == access
