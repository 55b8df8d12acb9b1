"""The object store as a component: containers and objects over a directory of blobs and the rows that name them.

A blob is durable before its row, and goes after its row is gone; what a crash leaves in between is an orphan file,
removed at the next start or by the sweep. HTTP is in `kilonova.objectstore.http`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from kilonova.config import Config
from kilonova.errors import Unavailable, Unprocessable
from kilonova.objectstore import rows
from kilonova.objectstore.blobs import Blob, BlobDirectory
from kilonova.objectstore.rows import ContainerRow, Listing, ObjectRow, Prefix
from kilonova.store.database import Store
from kilonova.store.schema import now

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Upload:
    """What an uploader says about the bytes that follow."""

    content_type: str = "application/octet-stream"
    metadata: dict[str, str] | None = None
    etag: str = ""
    """The MD5 that the bytes must have; empty: not said."""
    length: int | None = None
    """How many bytes must come; none: not said."""
    only_new: bool = False
    with_sha512: bool = False


class ObjectStore:
    """Containers and objects of all accounts. Who may see an account is the front end's business."""

    def __init__(self, store: Store, config: Config) -> None:
        self._store = store
        self._config = config.object_store
        self._blobs = BlobDirectory(config.state_dir / "objects")
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Take the directory, remove what a former life left half done. Raises `Unavailable` when it is in use."""
        await asyncio.to_thread(self._blobs.open)
        await self.sweep(older_than_s=0.0)  # nobody can be uploading yet
        self._sweeper = asyncio.create_task(self._sweep_for_ever(), name="objectstore-sweep")

    async def stop(self) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper
        self._blobs.close()

    # -------------------------------------------------------------------------------------------- containers
    async def put_container(self, account: str, name: str, metadata: dict[str, str | None]) -> bool:
        return await self._store.write(rows.put_container, account, name, metadata)

    async def post_container(self, account: str, name: str, metadata: dict[str, str | None]) -> None:
        await self._store.write(rows.post_container, account, name, metadata)

    async def delete_container(self, account: str, name: str) -> None:
        await self._store.write(rows.delete_container, account, name)

    async def show_container(self, account: str, name: str) -> ContainerRow:
        return await self._store.read(rows.show_container, account, name)

    async def list_containers(self, account: str, listing: Listing) -> list[ContainerRow]:
        return await self._store.read(rows.list_containers, account, listing)

    async def account_totals(self, account: str) -> tuple[int, int, int]:
        return await self._store.read(rows.account_totals, account)

    async def list_objects(self, account: str, container: str, listing: Listing) -> list[ObjectRow | Prefix]:
        return await self._store.read(rows.list_objects, account, container, listing)

    # -------------------------------------------------------------------------------------------- objects
    async def put_object(
        self, account: str, container: str, name: str, parts: AsyncIterable[bytes], upload: Upload
    ) -> tuple[ObjectRow, Blob]:
        """Receive an object; durable and visible when this answers, all of it or nothing.

        Raises `NotFound` without the container, `PreconditionFailed`, `Unprocessable` when length or checksum are not
        as announced, `InsufficientStorage`.
        """
        await self._store.read(rows.may_put_object, account, container, name, only_new=upload.only_new)
        blob = await self._blobs.receive(parts, with_sha512=upload.with_sha512)
        row = ObjectRow(
            name, blob.size_bytes, blob.md5, upload.content_type, blob.name, upload.metadata or {}, updated_at=now()
        )
        try:
            if upload.length is not None and blob.size_bytes != upload.length:
                raise Unprocessable(f"{blob.size_bytes} bytes came where Content-Length says {upload.length}")
            if upload.etag and upload.etag.lower() != blob.md5:
                raise Unprocessable(f"the bytes have MD5 {blob.md5}, not {upload.etag}: send them again")
            replaced = await self._store.write(rows.put_object, account, container, row, only_new=upload.only_new)
        except asyncio.CancelledError:
            raise  # the write may still be committed by its thread: the sweep decides by the rows
        except BaseException:
            await asyncio.shield(self._remove(blob.name))
            raise
        if replaced is not None:
            await self._remove(replaced)
        return row, blob

    async def post_object(
        self, account: str, container: str, name: str, metadata: dict[str, str], content_type: str | None
    ) -> None:
        await self._store.write(rows.post_object, account, container, name, metadata, content_type)

    async def show_object(self, account: str, container: str, name: str) -> ObjectRow:
        return await self._store.read(rows.get_object, account, container, name)

    async def open_object(self, account: str, container: str, name: str) -> tuple[ObjectRow, BinaryIO]:
        """An object and its open file: what is read from it stays the same whatever happens to it."""
        row = await self.show_object(account, container, name)
        try:
            return row, await asyncio.to_thread(open, self._blobs.path(row.blob), "rb", 0)
        except FileNotFoundError:
            again = await self.show_object(account, container, name)
            if again.blob == row.blob:
                raise Unavailable(f"the bytes of object {container}/{name} are missing from the disk") from None
            return again, await asyncio.to_thread(open, self._blobs.path(again.blob), "rb", 0)

    def read(self, file: BinaryIO, first: int, length: int) -> AsyncIterator[bytes]:
        return self._blobs.read(file, first, length)

    async def delete_object(self, account: str, container: str, name: str) -> None:
        await self._remove(await self._store.write(rows.delete_object, account, container, name))

    # -------------------------------------------------------------------------------------------- orphans
    async def sweep(self, *, older_than_s: float) -> int:
        """Remove temporary files and blobs without a row that are older than this; how many."""
        removed = await asyncio.to_thread(self._blobs.remove_incoming, older_than_s=older_than_s)
        for names in await asyncio.to_thread(list, self._blobs.old_blobs(older_than_s=older_than_s)):
            orphans = await self._store.read(rows.unnamed_blobs, names) if names else []
            if orphans:
                await asyncio.to_thread(self._blobs.remove, orphans)
                removed += len(orphans)
        if removed:
            log.info("object store: removed %d files without an owner", removed)
        return removed

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._config.sweep_interval_s)
            try:
                await self.sweep(older_than_s=self._config.orphan_grace_s)
            except Exception:
                log.exception("the object store's sweep failed; it is tried again")

    async def _remove(self, blob: str) -> None:
        await asyncio.to_thread(self._blobs.remove, [blob])
