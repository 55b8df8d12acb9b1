"""What the first bytes of an image say, and what is refused for it."""

from __future__ import annotations

import struct

import pytest

from kilonova.cloud.image_formats import inspect
from kilonova.errors import UnsupportedMediaType


def qcow2(*, version: int = 3, backing: int = 0, size: int = 10 << 20, crypt: int = 0, features: int = 0) -> bytes:
    head = struct.pack(">4sIQIIQI", b"QFI\xfb", version, backing, 0, 16, size, crypt)
    return head.ljust(72, b"\0") + struct.pack(">Q", features).ljust(440, b"\0")


def vmdk(descriptor: str, *, sectors: int = 2048) -> bytes:
    text = descriptor.encode().ljust(512, b"\0")
    head = struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, sectors, 128, 1, 1)
    return head.ljust(512, b"\0") + text


GOOD_VMDK = 'createType="streamOptimized"\nRDONLY 2048 SPARSE "disk.vmdk"\n'
ISO = b"\0" * 0x8001 + b"CD001" + b"\0" * 100


@pytest.mark.parametrize(
    ("head", "disk_format", "virtual_size"),
    [
        (qcow2(), "qcow2", 10 << 20),
        (qcow2(version=2), "qcow2", 10 << 20),
        (qcow2(features=1), "qcow2", 10 << 20),
        (vmdk(GOOD_VMDK), "vmdk", 1 << 20),
        (b"conectix".ljust(48, b"\0") + struct.pack(">Q", 5 << 20), "vhd", 5 << 20),
        (b"vhdxfile".ljust(512, b"\0"), "vhdx", None),
        ((b"\0" * 0x40 + b"\x7f\x10\xda\xbe").ljust(0x170, b"\0") + struct.pack("<Q", 7 << 20), "vdi", 7 << 20),
        (ISO, "iso", None),
        (b"\0" * 510 + b"\x55\xaa" + ISO[512:], "raw", None),
        (b"any bytes", "raw", None),
        (b"", "raw", None),
        (b"any bytes", "aki", None),
    ],
)
def test_a_file_that_is_what_it_says_is_taken(head: bytes, disk_format: str, virtual_size: int | None) -> None:
    assert inspect(head, disk_format, "bare").virtual_size_bytes == virtual_size


@pytest.mark.parametrize(
    ("head", "disk_format", "why"),
    [
        (qcow2(backing=104), "qcow2", "backing file"),
        (qcow2(features=4), "qcow2", "another file"),
        (qcow2(features=2), "qcow2", "corrupt"),
        (qcow2(features=1 << 40), "qcow2", "not known"),
        (qcow2(crypt=1), "qcow2", "encrypted"),
        (qcow2(version=9), "qcow2", "version 9"),
        (qcow2()[:20], "qcow2", "within its header"),
        (qcow2(), "raw", "is qcow2"),
        (qcow2(), "vmdk", "is qcow2"),
        (ISO, "raw", "is iso"),
        (b"QED\0rest", "raw", "is qed"),
        (b"any bytes", "qcow2", "is raw"),
        (b"", "qcow2", "is raw"),
        (b"# Disk DescriptorFile\ncreateType=...", "vmdk", "describes other files"),
        (b"# Disk DescriptorFile\ncreateType=...", "raw", "is vmdk"),
        (vmdk('createType="monolithicFlat"\nRW 2048 FLAT "/etc/shadow" 0\n'), "vmdk", "not monolithicSparse"),
        (vmdk(GOOD_VMDK + 'RW 1 FLAT "/etc/shadow" 0\n'), "vmdk", "refers to other files"),
        (vmdk('createType="streamOptimized"\nRW 2048 SPARSE "/etc/shadow"\n'), "vmdk", "refers to other files"),
    ],
)
def test_an_attack_or_a_lie_is_refused(head: bytes, disk_format: str, why: str) -> None:
    with pytest.raises(UnsupportedMediaType, match=why):
        inspect(head, disk_format, "bare")


def test_an_archive_is_not_looked_into() -> None:
    assert inspect(b"tar", "vmdk", "ova").virtual_size_bytes is None
