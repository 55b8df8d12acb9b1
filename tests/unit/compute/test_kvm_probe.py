"""The KVM probe: its program is the source beside it, and it always answers soon."""

from __future__ import annotations

import base64
import shutil
import subprocess
import zlib
from pathlib import Path

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
    assert kvm_probe.device_groups() == ()
