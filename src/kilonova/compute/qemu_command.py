"""The command line of a guest's QEMU process: a pure function of the guest's specification and open descriptors.

QEMU opens no file of ours by name: disks, image, config drive, console log, taps and sockets come by descriptor, so
that its unprivileged user needs no way into the state directory.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from kilonova.compute.driver import GuestSpec

PROGRAM = "qemu-system-x86_64"
ROOT_PORTS = 8
"""Sockets for hot-plugged devices."""

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True)
class Accelerator:
    """`kvm` or `tcg`; `device_fd` is /dev/kvm opened for a user that may not open it."""

    name: str
    device_fd: int | None = None


@dataclass(frozen=True)
class Descriptors:
    """Open file descriptors that the process inherits."""

    monitor: int
    """A listening Unix socket for QMP."""
    serial: int
    """A listening Unix socket for the serial console."""
    console_log: int
    """Opened for appending."""
    disk: int | None = None
    """Read-write: a qcow2 overlay, or a qcow2 file of its own if there is no image."""
    image: int | None = None
    """Read-only: what the overlay lies on."""
    config_drive: int | None = None
    taps: tuple[int, ...] = field(default=())
    """One for each interface of the specification, in its order."""

    def all(self) -> tuple[int, ...]:
        optional = (self.disk, self.image, self.config_drive)
        return (
            self.monitor,
            self.serial,
            self.console_log,
            *(number for number in optional if number is not None),
            *self.taps,
        )


def qemu_command(spec: GuestSpec, descriptors: Descriptors, accelerator: Accelerator) -> list[str]:
    """The whole command line."""
    if len(descriptors.taps) != len(spec.nics):
        raise ValueError(f"{len(spec.nics)} interfaces, but {len(descriptors.taps)} taps")
    return [
        PROGRAM,
        *("-name", spec.instance_id),
        *("-uuid", spec.instance_id),
        *("-nodefaults", "-no-user-config", "-display", "none", "-msg", "timestamp=on"),
        *("-sandbox", SANDBOX),
        *_machine(spec, accelerator),
        *_monitors(descriptors),
        *_devices(spec),
        *_disks(spec, descriptors),
        *_interfaces(spec, descriptors),
    ]


def _machine(spec: GuestSpec, accelerator: Accelerator) -> list[str]:
    # cloud-init recognises an OpenStack guest by the product's name
    identity = f"type=1,manufacturer=Kilonova,product=OpenStack Compute,uuid={spec.instance_id}"
    return [
        *("-machine", "q35,dump-guest-core=off"),
        *_accelerator(accelerator),
        *("-cpu", "host" if accelerator.name == "kvm" else "max"),
        *("-m", str(spec.ram_mb)),
        *("-smp", str(spec.vcpus)),
        *("-smbios", f"{identity},serial={spec.instance_id},family=Virtual Machine"),
        *("-boot", "strict=on"),
    ]


def _accelerator(accelerator: Accelerator) -> list[str]:
    if accelerator.name == "tcg":
        return ["-accel", "tcg,thread=multi"]
    if accelerator.device_fd is None:
        return ["-accel", "kvm"]
    return [*_descriptor_set(accelerator.device_fd), "-accel", f"kvm,device=/dev/fdset/{accelerator.device_fd}"]


def _monitors(descriptors: Descriptors) -> list[str]:
    log = f"logfile=/dev/fdset/{descriptors.console_log},logappend=on"
    return [
        *("-chardev", f"socket,id=monitor,fd={descriptors.monitor},server=on,wait=off"),
        *("-mon", "chardev=monitor,mode=control"),
        *_descriptor_set(descriptors.console_log),
        *("-chardev", f"socket,id=serial,fd={descriptors.serial},server=on,wait=off,{log}"),
        *("-serial", "chardev:serial"),
    ]


def _devices(spec: GuestSpec) -> list[str]:
    ports: list[str] = []
    for number in range(ROOT_PORTS):
        ports += ["-device", f"pcie-root-port,id=port{number},chassis={number + 1},slot={number + 1}"]
    return ["-object", "rng-builtin,id=rng", "-device", "virtio-rng-pci,rng=rng", *ports]


def _disks(spec: GuestSpec, descriptors: Descriptors) -> list[str]:
    words: list[str] = []
    if descriptors.disk is not None:
        root: dict[str, object] = {
            "node-name": "root",
            "driver": "qcow2",
            "discard": "unmap",
            "file": _file(descriptors.disk),
        }
        if descriptors.image is not None:
            base = {
                "node-name": "image",
                "driver": spec.image_format,
                "read-only": True,
                "file": _file(descriptors.image, read_only=True),
            }
            words += [*_descriptor_set(descriptors.image), "-blockdev", json.dumps(base)]
            root["backing"] = "image"
        words += [*_descriptor_set(descriptors.disk), "-blockdev", json.dumps(root)]
        words += ["-device", "virtio-blk-pci,drive=root,id=disk0,serial=root,bootindex=1"]
    if descriptors.config_drive is not None:
        drive = {
            "node-name": "config",
            "driver": "raw",
            "read-only": True,
            "file": _file(descriptors.config_drive, read_only=True),
        }
        words += [*_descriptor_set(descriptors.config_drive), "-blockdev", json.dumps(drive)]
        words += ["-device", "virtio-blk-pci,drive=config,id=config0,serial=config-2"]
    return words


def _interfaces(spec: GuestSpec, descriptors: Descriptors) -> list[str]:
    words: list[str] = []
    for number, (nic, tap) in enumerate(zip(spec.nics, descriptors.taps, strict=True)):
        words += ["-netdev", f"tap,id=net{number},fd={tap}"]
        words += [
            "-device",
            f"virtio-net-pci,netdev=net{number},id=nic{number},mac={nic.mac},host_mtu={nic.mtu},romfile=",
        ]
    return words


def _descriptor_set(number: int) -> list[str]:
    """Make an inherited descriptor known as the file `/dev/fdset/NUMBER`."""
    return ["-add-fd", f"fd={number},set={number}"]


def _file(descriptor: int, *, read_only: bool = False) -> dict[str, object]:
    return {"driver": "file", "filename": f"/dev/fdset/{descriptor}", "read-only": read_only, "locking": "off"}
