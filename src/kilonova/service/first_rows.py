"""The rows a new cloud begins with: administrator, roles, flavors, and in a sandbox networks and floating addresses.

Everything here is idempotent: it runs at every start.
"""

from __future__ import annotations

from sqlalchemy import Connection, select

from kilonova.cloud import floating_ranges, pool
from kilonova.cloud.flavors import ensure_defaults
from kilonova.context import system_context
from kilonova.service.installation import Installation
from kilonova.service.state import Options
from kilonova.store.schema import pool_networks, subnets

SANDBOX_NETWORKS = 100
SANDBOX_FLOATING_RANGE = "203.0.113.0/24"
SANDBOX_GATEWAY = "203.0.113.1/24"
"""The outside namespace's address on the public bridge."""


async def prepare(installation: Installation, options: Options, password: str | None) -> None:
    """Write what is missing; a `password` that is given becomes the administrator's."""
    await installation.auth.bootstrap(password)
    await installation.store.write(ensure_defaults)
    if options.mode != "host":
        await _world(installation, options)


async def _world(installation: Installation, options: Options) -> None:
    """A pool of project networks and a range of floating addresses, unless there are some."""
    cloud = installation.cloud
    context = system_context()
    has_pool, has_range = await cloud.store.read(_has_world)
    if not has_pool:
        await pool.create(cloud, context, pool.PoolRequest(num_networks=SANDBOX_NETWORKS))
    if not has_range:
        await floating_ranges.create(cloud, context, options.host_name, SANDBOX_FLOATING_RANGE)


def _has_world(tx: Connection) -> tuple[bool, bool]:
    has_pool = tx.execute(select(pool_networks.c.id).limit(1)).first() is not None
    has_range = tx.execute(select(subnets.c.id).where(subnets.c.host.is_not(None)).limit(1)).first() is not None
    return has_pool, has_range
