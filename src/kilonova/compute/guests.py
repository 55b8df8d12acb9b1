"""Makes and removes the guest of one instance, with all that it needs: image, config drive, networks, ports.

Every step is idempotent, so that an operation may be done again after a crash at any point. Rows say what is wanted;
nothing here writes to the store but what is being done now (`task_state`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from kilonova.bus import Bus
from kilonova.compute import rows
from kilonova.compute.config_drive import write_config_drive, write_config_files
from kilonova.compute.driver import Driver, GuestSpec, NicSpec
from kilonova.compute.guest_directory import GuestDirectory
from kilonova.compute.image_cache import CachedImage, ImageCache
from kilonova.compute.rows import InstanceRow, PortRow
from kilonova.config import Config
from kilonova.context import Context
from kilonova.errors import BadRequest, NotFound
from kilonova.ids import InstanceId
from kilonova.metadata import config_drive_files
from kilonova.store.database import Store
from kilonova.store.metadata_rows import load_instance_metadata

NETWORK_DEADLINE_S = 60.0


class Guests:
    """The guests of this host as the operations need them."""

    def __init__(self, store: Store, bus: Bus, config: Config, driver: Driver, images: ImageCache) -> None:
        self._store = store
        self._bus = bus
        self._config = config
        self._driver = driver
        self._images = images

    async def build(self, instance: InstanceRow, context: Context) -> None:
        """Make whatever is missing until the guest runs and its ports are wired.

        Raises a `KilonovaError` that names the part that failed.
        """
        async with _together() as group:
            group.create_task(self.connect(instance, context))
            image = group.create_task(self._image(instance))
            drive = group.create_task(self.config_drive(instance))
        await self._driver.create(guest_spec(instance, self._config, image.result(), drive.result()))

    async def connect(self, instance: InstanceRow, context: Context) -> None:
        """Have the network agents realise the instance's networks and wire its ports."""
        serving = {(port.network_host, port.network_id) for port in instance.ports if port.network_host}
        async with _together() as group:
            for host, network_id in sorted(serving):
                group.create_task(self._ask(f"network.{host}", "realise", {"network_id": network_id}, context))
            for port in instance.ports:
                topic = f"network.{self._config.host.name}"
                group.create_task(self._ask(topic, "wire", {"port_id": port.id}, context))

    async def remove(self, instance_id: InstanceId) -> None:
        """Leave nothing of the guest on this host; its ports are the rows' and the network agent's."""
        await self._driver.destroy(instance_id)
        await asyncio.to_thread(GuestDirectory(self._config.state_dir, instance_id).remove)

    async def tell_network(self, hosts: list[str], context: Context) -> None:
        """Rows of ports have changed: their hosts' network agents shall look again."""
        for host in hosts:
            await self._bus.cast(f"network.{host}", "look_again", {}, context=context)

    async def _ask(self, topic: str, method: str, args: dict[str, str], context: Context) -> None:
        await self._bus.call(topic, method, args, context=context, deadline_s=NETWORK_DEADLINE_S)

    async def _image(self, instance: InstanceRow) -> CachedImage | None:
        if not self._driver.has_disks or instance.image_id is None:
            return None
        image = await self._store.read(rows.load_image, instance.image_id)
        if image is None:
            made = self._made_of(instance.id)
            if made is None:
                raise BadRequest(f"Image {instance.image_id} does not exist any more; choose another.")
            return made
        return await self._images.realise(image)

    def _made_of(self, instance_id: InstanceId) -> CachedImage | None:
        """The copy that a guest's disk lies on: kept as long as it is used, even if the image is deleted."""
        try:
            spec = GuestDirectory(self._config.state_dir, instance_id).load_spec()
        except NotFound:
            return None
        if spec.image is None or not spec.image.exists():
            return None
        return CachedImage(spec.image, spec.image_format)

    async def config_drive(self, instance: InstanceRow) -> Path | None:
        """Written at each start, as the instance's addresses are then: a guest without DHCP knows no others."""
        if not instance.config_drive or self._driver.drive_form == "none":
            return None
        directory = GuestDirectory(self._config.state_dir, instance.id)
        directory.make()
        files = config_drive_files(await self._store.read(load_instance_metadata, instance.id))
        if self._driver.drive_form == "disk":
            await asyncio.to_thread(write_config_drive, directory.config_drive, files)
            return directory.config_drive
        await asyncio.to_thread(write_config_files, directory.config_files, files)
        return directory.config_files


@asynccontextmanager
async def _together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises the first error itself, not a group of them."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def guest_spec(instance: InstanceRow, config: Config, image: CachedImage | None, drive: Path | None) -> GuestSpec:
    """What the driver is told about an instance. Raises `NotFound` when a port has no place on a bridge."""
    return GuestSpec(
        instance_id=instance.id,
        name=instance.name,
        hostname=instance.hostname,
        vcpus=instance.vcpus,
        ram_mb=instance.ram_mb,
        disk_gb=instance.disk_gb,
        image=image.path if image else None,
        image_format=image.format if image else "qcow2",
        nics=tuple(_nic(port) for port in instance.ports),
        config_drive=drive,
        switch_namespace=f"{config.host.prefix}-switch",
        namespace_prefix=config.host.prefix,
    )


_GUEST_ENDS = {"tap": "tap", "veth": "gst", "none": "tap"}
"""How the device begins that the network agent leaves to the guest, by the port's vif."""


def _nic(port: PortRow) -> NicSpec:
    if port.vif not in _GUEST_ENDS:
        raise NotFound(f"Port {port.id} has the unknown interface type {port.vif}.")
    return NicSpec(
        port_id=port.id, device=f"{_GUEST_ENDS[port.vif]}{port.id[:11]}", mac=port.mac, mtu=port.mtu, vif=port.vif
    )
