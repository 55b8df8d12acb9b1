"""Image and disk files by `qemu-img`: what an image is, and a guest's disk laid over one."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kilonova.errors import BadRequest, CommandFailed
from kilonova.process import run

FORMATS = {"qcow2": "qcow2", "raw": "raw", "iso": "raw", "ami": "raw", "vdi": "vdi", "vhd": "vpc", "vmdk": "vmdk"}
"""The image API's disk formats that QEMU can lay a disk over, and what it calls them."""


class ImageInfo(msgspec.Struct, frozen=True):
    """What an image file is."""

    format: str
    virtual_size_bytes: int


def inspect_image(path: Path, disk_format: str) -> ImageInfo:
    """Check an image that a user uploaded as `disk_format`; blocks for some milliseconds.

    Raises `BadRequest` when it is something else, or refers to other files: a backing or data file that a user names
    would be read on this host.
    """
    if disk_format not in FORMATS:
        known = ", ".join(sorted(FORMATS))
        raise BadRequest(f"Disk format {disk_format} cannot boot on this host; use one of {known}.")
    try:
        words = run(["qemu-img", "info", "-U", "-f", FORMATS[disk_format], "--output=json", _plain(path)])
    except CommandFailed as error:
        raise BadRequest(f"The image is not a readable {disk_format} file: {error.message[-200:]}") from error
    info = msgspec.json.decode(words, type=_Info)
    details = info.format_specific.data if info.format_specific else {}
    for kind, name in (("backing file", info.backing_filename), ("data file", details.get("data-file"))):
        if name:
            raise BadRequest(f"The image refers to a {kind} ({name}); upload one without (`qemu-img convert`).")
    if info.format == "vmdk" and details.get("create-type") not in ("monolithicSparse", "streamOptimized"):
        raise BadRequest("The image is a VMDK of several files; upload one of a single file (`qemu-img convert`).")
    return ImageInfo(info.format, info.virtual_size)


def make_overlay(disk: Path, image: Path, image_format: str, size_gb: int) -> None:
    """A guest's disk: empty, over `image`, of `size_gb` GiB or the image's size when 0. Appears whole or not at all.

    Raises `BadRequest` when the image is larger than that.
    """
    info = inspect_image(image, image_format)
    size_bytes = size_gb * 2**30
    if size_bytes and size_bytes < info.virtual_size_bytes:
        raise BadRequest(
            f"The image needs a disk of {-(-info.virtual_size_bytes // 2**30)} GB, the flavor gives {size_gb} GB."
        )
    temporary = disk.with_suffix(".new")
    base = ["-b", _plain(image), "-F", info.format]
    size = str(size_bytes or info.virtual_size_bytes)
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", *base, _plain(temporary), size])
    temporary.rename(disk)


def make_empty_disk(disk: Path, size_gb: int) -> None:
    """A disk without an image."""
    temporary = disk.with_suffix(".new")
    run(["qemu-img", "create", "-q", "-f", "qcow2", _plain(temporary), f"{size_gb}G"])
    temporary.rename(disk)


def _plain(path: Path) -> str:
    """A name that qemu-img takes for a file, not for a protocol."""
    return f"./{path}" if not path.is_absolute() else str(path)


class _Details(msgspec.Struct):
    data: dict[str, object] = msgspec.field(default_factory=dict)


class _Info(msgspec.Struct, rename="kebab"):
    format: str
    virtual_size: int
    backing_filename: str | None = None
    format_specific: _Details | None = None
