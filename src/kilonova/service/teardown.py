"""Removes what a cloud made in this machine's kernel: guests first, then the namespaces they hung from."""

from __future__ import annotations

import asyncio

from kilonova.compute.drivers import make_driver
from kilonova.config import Config
from kilonova.ids import InstanceId
from kilonova.network.host.removal import remove_everything

GRACE_S = 8.0
"""How long a guest may take to power off by itself."""


def remove_kernel_state(config: Config, *, destroy: bool) -> list[str]:
    """End every guest and remove every namespace, link and process of this cloud; what was removed, by name.

    Guests are asked to power off and keep their disks; with `destroy` they are ended at once and lose them.
    """
    return [*asyncio.run(_end_guests(config, destroy)), *remove_everything(config)]


async def _end_guests(config: Config, destroy: bool) -> list[str]:
    driver = make_driver(config)
    await driver.open(lambda _: None)

    async def end(instance_id: InstanceId) -> str:
        if destroy:
            await driver.destroy(instance_id)
        else:
            await driver.shutdown(instance_id, GRACE_S)
        return f"guest {instance_id}"

    try:
        return list(await asyncio.gather(*(end(instance_id) for instance_id in await driver.list())))
    finally:
        await driver.close()
