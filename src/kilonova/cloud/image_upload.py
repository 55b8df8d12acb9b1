"""An image's bytes coming in and going out: claimed in a transaction, streamed by HTTP, and named in another.

At any moment the bytes that a row names are whole; what a broken upload leaves is removed at once, what a crash leaves
by the keeper. An upload counts as dead when its row was not touched for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta

from sqlalchemy import Connection, select, update

from kilonova.cloud import images as use_cases
from kilonova.cloud.image_bytes import ImageBytes, StoredBytes
from kilonova.cloud.image_formats import PEEK_BYTES, Inspected, inspect
from kilonova.cloud.images import Image
from kilonova.config import Config
from kilonova.context import Context
from kilonova.errors import BadRequest, Conflict, KilonovaError, NotFound
from kilonova.ids import new_hex_id
from kilonova.store.database import Store
from kilonova.store.schema import images, now

log = logging.getLogger(__name__)

ALIVE_EVERY_S = 20.0
DEAD_AFTER_S = 120.0


async def upload(
    store: Store,
    objects: ImageBytes,
    context: Context,
    image_id: str,
    parts: AsyncIterator[bytes],
    *,
    length: int | None = None,
    staged: bool = False,
) -> None:
    """Give a queued image its bytes: it becomes `active`, or `uploading` when they are only staged for an import.

    Raises `Conflict` when it is not queued, `UnsupportedMediaType` when the file is not what the image says; then, and
    whatever else ends the upload, the image is queued again and no bytes stay.
    """
    image = await store.write(_claim, context, image_id)
    name = str(image.object_name)
    beating = asyncio.create_task(_stay_alive(store, name), name=f"image-upload-{image_id}")
    try:
        head, rest = await _peek(parts)
        found = inspect(head, str(image.disk_format), str(image.container_format))
        stored = await objects.put(name, rest, length=length)
        await store.write(_finish, name, found, stored, "uploading" if staged else "active")
    except BaseException:
        # Shielded: a cancelled upload must not leave the image `saving`; a crash here is the keeper's business.
        await asyncio.shield(asyncio.ensure_future(_undo(store, objects, name)))
        raise
    finally:
        beating.cancel()


def import_staged(tx: Connection, context: Context, image_id: str) -> None:
    """Turn staged bytes into the image's. Raises `Conflict` when nothing is staged."""
    image = use_cases.get_own(tx, context, image_id)
    if image.status != "uploading":
        raise Conflict(f"image {image_id} is {image.status}: stage its bytes first (PUT .../stage)")
    tx.execute(update(images).where(images.c.id == image.id).values(status="active"))


class ImageKeeper:
    """Clears up after uploads that died with their process: rows go back to queued, bytes of no image are removed."""

    def __init__(self, store: Store, objects: ImageBytes, config: Config) -> None:
        self._store = store
        self._objects = objects
        self._config = config.object_store
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """To be called before requests are served: every upload that a row knows of now has died."""
        await self._store.write(_reset_dead, 0.0)
        self._task = asyncio.create_task(self._keep(), name="image-keeper")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._objects.close()

    async def sweep(self, *, older_than_s: float) -> int:
        """Remove objects that no image names and that are older than this; how many."""
        removed, marker = 0, ""
        before = now() - timedelta(seconds=older_than_s)
        while page := await self._objects.list(marker):
            marker = page[-1].name
            old = [each.name for each in page if each.modified_at <= before]
            for name in await self._store.read(_unnamed, old):
                await self._objects.delete(name)
                removed += 1
        return removed

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._config.sweep_interval_s)
            try:
                await self._store.write(_reset_dead, DEAD_AFTER_S)
                removed = await self.sweep(older_than_s=self._config.orphan_grace_s)
                if removed:
                    log.info("images: removed the bytes of %d images that are gone", removed)
            except KilonovaError as error:
                log.warning("images: bytes without an image could not be looked for: %s", error)
            except Exception:
                log.exception("images: the sweep failed; it is tried again")


async def remove_bytes(objects: ImageBytes, name: str | None) -> None:
    """Remove the bytes of a deleted image; when the object store does not answer, the keeper does it later."""
    if name is None:
        return
    try:
        await objects.delete(name)
    except KilonovaError as error:
        log.warning("the bytes %s are removed later: %s", name, error)


# ------------------------------------------------------------------------------------------------ units of work
def _claim(tx: Connection, context: Context, image_id: str) -> Image:
    image = use_cases.get_own(tx, context, image_id)
    if image.status != "queued":
        raise Conflict(f"image {image_id} is {image.status}: bytes can be uploaded once, while it is queued")
    missing = [name for name in ("disk_format", "container_format") if getattr(image, name) is None]
    if missing:
        raise BadRequest(f"{', '.join(missing)} must be set on image {image_id} before its bytes are uploaded")
    name = f"{image.id}.{new_hex_id()}"
    tx.execute(update(images).where(images.c.id == image.id).values(status="saving", object_name=name))
    return use_cases.get(tx, context, image_id)


def _finish(tx: Connection, name: str, found: Inspected, stored: StoredBytes, status: str) -> None:
    done = tx.execute(
        update(images)
        .where(images.c.object_name == name, images.c.status == "saving")
        .values(
            status=status,
            size_bytes=stored.size_bytes,
            virtual_size_bytes=found.virtual_size_bytes or stored.size_bytes,
            checksum=stored.md5,
            hash_algorithm="sha512",
            hash_value=stored.sha512,
        )
    )
    if done.rowcount != 1:
        raise NotFound("the image was deleted while its bytes were uploaded")


def _reset(tx: Connection, name: str) -> None:
    tx.execute(
        update(images)
        .where(images.c.object_name == name, images.c.status == "saving")
        .values(status="queued", object_name=None)
    )


def _touch(tx: Connection, name: str) -> None:
    tx.execute(update(images).where(images.c.object_name == name, images.c.status == "saving").values(updated_at=now()))


def _reset_dead(tx: Connection, after_s: float) -> None:
    tx.execute(
        update(images)
        .where(images.c.status == "saving", images.c.updated_at <= now() - timedelta(seconds=after_s))
        .values(status="queued", object_name=None)
    )


def _unnamed(tx: Connection, names: list[str]) -> list[str]:
    named = set(tx.execute(select(images.c.object_name).where(images.c.object_name.in_(names))).scalars())
    return [name for name in names if name not in named]


# ------------------------------------------------------------------------------------------------ streaming
async def _peek(parts: AsyncIterator[bytes]) -> tuple[bytes, AsyncIterator[bytes]]:
    """The first bytes, and a stream of everything including them."""
    head = bytearray()
    async for part in parts:
        head += part
        if len(head) >= PEEK_BYTES:
            break

    async def everything() -> AsyncIterator[bytes]:
        if head:
            yield bytes(head)
        async for part in parts:
            if part:
                yield part

    return bytes(head), everything()


async def _undo(store: Store, objects: ImageBytes, name: str) -> None:
    await store.write(_reset, name)
    await remove_bytes(objects, name)


async def _stay_alive(store: Store, name: str) -> None:
    while True:
        await asyncio.sleep(ALIVE_EVERY_S)
        await store.write(_touch, name)
