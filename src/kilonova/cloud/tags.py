"""Tags of the network API's resources."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Connection, update

from kilonova.cloud.controller import Cloud
from kilonova.cloud.network_lists import Resource, get, get_own
from kilonova.context import Context
from kilonova.errors import BadRequest

MOST = 50
LONGEST = 255


async def show(cloud: Cloud, context: Context, resource: Resource, resource_id: str) -> list[str]:
    """The tags of a resource. Raises `NotFound`."""

    def unit(tx: Connection) -> list[str]:
        return list(get(tx, resource, context, resource_id)["tags"])

    return await cloud.store.read(unit)


async def change(
    cloud: Cloud, context: Context, resource: Resource, resource_id: str, new: Callable[[list[str]], list[str]]
) -> None:
    """Replace the tags by what `new` makes of them. Raises `NotFound`, `Forbidden`, `BadRequest` for too many."""

    def unit(tx: Connection) -> None:
        old = list(get_own(tx, resource, context, resource_id)["tags"])
        tags = list(dict.fromkeys(new(old)))
        if len(tags) > MOST or any(len(tag) > LONGEST for tag in tags):
            raise BadRequest(f"tags: at most {MOST} of at most {LONGEST} characters.")
        if tags != old:
            table = resource.table
            values = {"tags": tags, "revision": table.c.revision + 1}
            tx.execute(update(table).where(table.c.id == resource_id).values(**values))

    await cloud.store.write(unit)
