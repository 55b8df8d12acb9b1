"""What the compute controller asks of a driver: the guests of one host, by their instance's id.

A driver knows nothing of rows, messages or operations. A guest outlives the process that started it: everything a
driver must know about it is in the directory of the guest (`kilonova.compute.guest_directory`), and a new driver object
on the same state directory finds it again. All drivers pass one conformance suite (`tests/host/compute`).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from kilonova.ids import InstanceId, PortId


class PowerState(enum.IntEnum):
    """Numbers as the compute API shows them."""

    NONE = 0
    RUNNING = 1
    PAUSED = 3
    SHUTDOWN = 4
    CRASHED = 6


DriveForm = Literal["disk", "directory", "none"]
"""How guests take a config drive: an ISO 9660 file, a directory that is copied into the guest, not at all."""


class NicSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One network interface; the network agent made `device` in the switch namespace."""

    port_id: PortId
    device: str
    """A tap (`vif` "tap"), or the guest's end of a veth pair (`vif` "veth")."""
    mac: str
    mtu: int = 1500
    vif: str = "tap"


class GuestSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything needed to make a guest, now and after a restart of the host."""

    instance_id: InstanceId
    name: str
    hostname: str
    vcpus: int
    ram_mb: int
    disk_gb: int = 0
    """Size of the root disk; 0: the image's."""
    image: Path | None = None
    """The cached image, which the guest's disk is laid over; none: the driver has no disk."""
    image_format: str = "qcow2"
    nics: tuple[NicSpec, ...] = ()
    config_drive: Path | None = None
    """In the guest's directory, in the form that the driver wants."""
    switch_namespace: str = "kn-switch"
    namespace_prefix: str = "kn"


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """What a host offers, as the scheduler and the hypervisor API see it."""

    vcpus: int
    ram_mb: int
    disk_gb: int
    hypervisor_type: str
    hypervisor_version: int
    cpu_info: dict[str, object]


OnChange = Callable[[InstanceId], None]


class Driver(Protocol):
    """Guests of one host. Every method may be called for an instance that has no guest.

    Calls for different instances may overlap; the caller makes those for one instance one after another. A cancelled
    call leaves something that `destroy` removes or `create` completes. Failures are `KilonovaError`s.
    """

    @property
    def vif(self) -> str:
        """What the network agent shall make for a port: tap | veth | none."""

    @property
    def has_disks(self) -> bool:
        """Whether guests need an image."""

    @property
    def drive_form(self) -> DriveForm:
        """How guests take a config drive."""

    async def open(self, on_change: OnChange) -> None:
        """Find the guests that run; `on_change` is called (in the event loop) when one ends by itself."""

    async def close(self) -> None:
        """Let go of the guests; they run on."""

    async def create(self, spec: GuestSpec) -> None:
        """Make the guest's files, if there are none, and start it, if it does not run. Returns when it runs."""

    async def start(self, instance_id: InstanceId) -> None:
        """Start it again from what `create` was told last; nothing if it runs. Raises `NotFound`."""

    async def shutdown(self, instance_id: InstanceId, timeout_s: float) -> bool:
        """Ask it to power off, then force it after `timeout_s`. True when it went by itself. Its disk stays."""

    async def reboot(self, instance_id: InstanceId, *, hard: bool, timeout_s: float = 60.0) -> None:
        """Shut down (hard: end at once) and start. Raises `NotFound`."""

    async def pause(self, instance_id: InstanceId) -> None:
        """Stop its processors, keep its memory. Raises `Conflict` if it does not run."""

    async def unpause(self, instance_id: InstanceId) -> None:
        """Continue a paused guest. Raises `Conflict` if it does not run."""

    async def destroy(self, instance_id: InstanceId) -> None:
        """End it and remove every trace of it from this host. Nothing to do is no error."""

    async def state(self, instance_id: InstanceId) -> PowerState:
        """`NONE`: this host has no trace of it."""

    async def list(self) -> list[InstanceId]:
        """Every instance of which this host has any trace."""

    async def console(self, instance_id: InstanceId, max_lines: int | None = None) -> str:
        """The last lines it wrote to its serial console; empty if it wrote none."""

    async def tidy(self) -> None:
        """Bound what guests can make grow (console logs). Called now and then."""

    async def capacity(self) -> Capacity:
        """What this host offers. The first call may take a while (it probes the processor)."""
