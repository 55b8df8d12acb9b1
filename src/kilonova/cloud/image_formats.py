"""What a disk image is, told from its first bytes: pure Python, nothing is ever opened or probed by another program.

An image that points at other files (a qcow2 backing file or external data file, a VMDK descriptor) would let a user
read the host's disks when a compute host opens it; such an image is refused, and so is one that is not what it says.
Formats: QEMU's docs/interop/qcow2.txt, VMware's "Virtual Disk Format 1.1", ECMA-119.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kilonova.errors import UnsupportedMediaType

PEEK_BYTES = 64 * 1024
"""How much of the beginning decides."""

DISK_FORMATS = ("ami", "ari", "aki", "vhd", "vhdx", "vmdk", "raw", "qcow2", "vdi", "iso")
CONTAINER_FORMATS = ("ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed")

_QCOW2_DIRTY = 1
_QCOW2_CORRUPT = 2
_QCOW2_EXTERNAL_DATA = 4
_UNFORMATTED = {"raw", "ami", "ari", "aki"}


@dataclass(frozen=True)
class Inspected:
    """What the beginning says; without a virtual size the disk is as large as the file."""

    disk_format: str
    virtual_size_bytes: int | None = None


def inspect(head: bytes, disk_format: str, container_format: str) -> Inspected:
    """Check that an image beginning with `head` is what it says and stands alone.

    Raises `UnsupportedMediaType` that says what is wrong with it.
    """
    if container_format not in {"bare", "ami", "ari", "aki"}:
        return Inspected(disk_format)  # an archive of disks: what is in it is not a disk that a guest starts from
    found = detect(head)
    if disk_format in _UNFORMATTED:
        if found is not None and not (found == "iso" and _has_boot_sector(head)):
            raise UnsupportedMediaType(f"the file is {found}, the image says {disk_format}: set disk_format={found}")
        return Inspected(disk_format)
    if found != disk_format:
        raise UnsupportedMediaType(f"the file is {found or 'raw'}, the image says {disk_format}: upload what it says")
    match disk_format:
        case "qcow2":
            return Inspected(disk_format, _qcow2(head))
        case "vmdk":
            return Inspected(disk_format, _vmdk(head))
        case "vdi":
            return Inspected(disk_format, _number(head, "<Q", 0x170))
        case "vhd":
            return Inspected(disk_format, _number(head, ">Q", 48))
    return Inspected(disk_format)


def detect(head: bytes) -> str | None:
    """The format that the beginning of a file shows; none for anything that is only bytes."""
    if head.startswith(b"QFI\xfb"):
        return "qcow2"
    if head.startswith(b"KDMV") or head[:512].lstrip().startswith(b"# Disk DescriptorFile"):
        return "vmdk"
    if head.startswith(b"conectix"):
        return "vhd"
    if head.startswith(b"vhdxfile"):
        return "vhdx"
    if head[0x40:0x44] == b"\x7f\x10\xda\xbe":
        return "vdi"
    if head.startswith(b"QED\x00"):
        return "qed"
    if head.startswith(b"LUKS\xba\xbe"):
        return "luks"
    if head[0x8001:0x8006] == b"CD001":
        return "iso"
    return None


def _qcow2(head: bytes) -> int:
    """The virtual size of a qcow2 that stands alone."""
    version = _number(head, ">I", 4)
    if version not in {2, 3}:
        raise UnsupportedMediaType(f"qcow2 version {version} is not known: use 2 or 3")
    if _number(head, ">Q", 8):
        raise UnsupportedMediaType("the qcow2 file has a backing file: flatten it with qemu-img convert")
    if _number(head, ">I", 32):
        raise UnsupportedMediaType("the qcow2 file is encrypted: upload it decrypted")
    features = _number(head, ">Q", 72) if version == 3 else 0
    if features & _QCOW2_EXTERNAL_DATA:
        raise UnsupportedMediaType("the qcow2 file keeps its data in another file: flatten it with qemu-img convert")
    if features & _QCOW2_CORRUPT:
        raise UnsupportedMediaType("the qcow2 file is marked corrupt: repair it with qemu-img check -r all")
    if features & ~(_QCOW2_DIRTY | _QCOW2_CORRUPT | 0b11000):
        raise UnsupportedMediaType(f"the qcow2 file needs features that are not known ({features:#x})")
    return _number(head, ">Q", 24)


def _vmdk(head: bytes) -> int:
    """The virtual size of a sparse VMDK that holds its own data."""
    if not head.startswith(b"KDMV"):
        raise UnsupportedMediaType("the VMDK file only describes other files: export it as one stream-optimized file")
    sectors = _number(head, "<Q", 12)
    at, length = _number(head, "<Q", 28) * 512, _number(head, "<Q", 36) * 512
    descriptor = head[at : at + min(length, PEEK_BYTES)].lower()
    if b'createtype="monolithicsparse"' not in descriptor and b'createtype="streamoptimized"' not in descriptor:
        raise UnsupportedMediaType("the VMDK file is not monolithicSparse or streamOptimized: convert it")
    extents = [line for line in descriptor.split(b"\n") if line.startswith((b"rw ", b"rdonly ", b"noaccess "))]
    if len(extents) != 1 or b"/" in extents[0] or b"parentfilenamehint" in descriptor:
        raise UnsupportedMediaType("the VMDK file refers to other files: export it as one stream-optimized file")
    return sectors * 512


def _number(head: bytes, layout: str, offset: int) -> int:
    try:
        return int(struct.unpack_from(layout, head, offset)[0])
    except struct.error:
        raise UnsupportedMediaType("the file ends within its header") from None


def _has_boot_sector(head: bytes) -> bool:
    return head[510:512] == b"\x55\xaa"
