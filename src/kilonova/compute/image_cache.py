"""The host's copies of images: fetched once over HTTP, verified, laid under the disks of guests, pruned when unused.

A copy appears under its final name only when it is complete, verified and on disk. The object store holds the truth;
everything here can be deleted while no guest uses it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO
from uuid import UUID

from kilonova.compute.image_files import FORMATS, inspect_image
from kilonova.errors import BadRequest, CommandFailed, KilonovaError, Unavailable

PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True)
class ImageSource:
    """What the database says of an image."""

    id: str
    disk_format: str
    size_bytes: int | None = None
    checksum: str | None = None
    """MD5, hex."""
    hash_algorithm: str | None = None
    hash_value: str | None = None


@dataclass(frozen=True)
class CachedImage:
    path: Path
    format: str
    """QEMU's name of it."""


class ImageCache:
    """The copies in one directory."""

    def __init__(self, directory: Path, image_url: str, token: Callable[[], str]) -> None:
        """`image_url` is the image service's, e.g. http://127.0.0.1:8770/image; `token` makes a valid service token."""
        self._directory = directory
        self._url = image_url.rstrip("/")
        self._token = token
        self._locks: dict[str, asyncio.Lock] = {}

    async def realise(self, image: ImageSource) -> CachedImage:
        """The host's copy of an image, fetched if there is none.

        Raises `BadRequest` for an image that cannot be booted, `Unavailable` when the image service does not answer,
        `CommandFailed` when the bytes are not those of the image.
        """
        if image.disk_format not in FORMATS:
            raise BadRequest(
                f"Image {image.id} has the disk format {image.disk_format or 'none'}, which this host cannot boot; "
                f"use one of {', '.join(sorted(FORMATS))}."
            )
        cached = CachedImage(self._directory / image.id, FORMATS[image.disk_format])
        async with self._locks.setdefault(image.id, asyncio.Lock()):
            if cached.path.exists():
                os.utime(cached.path)
            else:
                await self._fetch(image, cached.path)
        return cached

    def cached(self) -> list[str]:
        """The images that there are copies of."""
        return (
            [path.name for path in self._directory.iterdir() if _is_id(path.name)] if self._directory.is_dir() else []
        )

    async def prune(self, used: Collection[str], existing: Collection[str], unused_for_s: float) -> list[str]:
        """Remove copies that no guest uses: at once if the image itself is gone, else after a while; their ids."""
        return await asyncio.to_thread(self._prune, used, existing, unused_for_s)

    def _prune(self, used: Collection[str], existing: Collection[str], unused_for_s: float) -> list[str]:
        removed = []
        for path in self._directory.iterdir() if self._directory.is_dir() else ():
            lock = self._locks.get(path.name.partition(".")[0])
            if (
                path.name in used
                or (lock is not None and lock.locked())
                or not (_is_id(path.name) or path.suffix == ".part")
            ):
                continue
            if path.name not in existing or time.time() - path.stat().st_mtime > unused_for_s:
                path.unlink(missing_ok=True)
                removed.append(path.name)
        return removed

    async def _fetch(self, image: ImageSource, path: Path) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.part")
        try:
            with temporary.open("wb") as file:
                await self._download(image, file)
            await asyncio.to_thread(inspect_image, temporary, image.disk_format)
            temporary.rename(path)
            await asyncio.to_thread(_sync, self._directory)
        finally:
            temporary.unlink(missing_ok=True)

    async def _download(self, image: ImageSource, file: IO[bytes]) -> None:
        import httpx  # a sixth of the start-up time, which is counted in milliseconds

        digest, expected = _digest(image)
        size_bytes = 0

        def store(piece: bytes) -> None:
            file.write(piece)
            digest.update(piece)

        url = f"{self._url}/v2/images/{image.id}/file"
        timeout = httpx.Timeout(30.0)
        try:
            async with (
                httpx.AsyncClient(timeout=timeout, trust_env=False) as client,
                client.stream("GET", url, headers={"X-Auth-Token": self._token()}) as response,
            ):
                if response.status_code != HTTPStatus.OK:
                    raise _refused(image, response.status_code)
                async for piece in response.aiter_bytes(PIECE_BYTES):
                    await asyncio.to_thread(store, piece)
                    size_bytes += len(piece)
        except httpx.HTTPError as error:
            raise Unavailable(f"Image {image.id} cannot be fetched from {self._url}: {error!r}") from error
        await asyncio.to_thread(_flush, file)
        if image.size_bytes is not None and size_bytes != image.size_bytes:
            raise CommandFailed(f"Image {image.id} has {image.size_bytes} bytes, but {size_bytes} came.")
        if expected and digest.hexdigest() != expected:
            raise CommandFailed(f"Image {image.id} came with another checksum than its own ({expected}).")


def _digest(image: ImageSource) -> tuple[hashlib._Hash, str | None]:
    """The strongest check that the image has."""
    if image.hash_algorithm and image.hash_value and image.hash_algorithm in hashlib.algorithms_available:
        return hashlib.new(image.hash_algorithm), image.hash_value
    return hashlib.md5(usedforsecurity=False), image.checksum


def _refused(image: ImageSource, status: int) -> KilonovaError:
    if status in (HTTPStatus.NOT_FOUND, HTTPStatus.NO_CONTENT):
        return BadRequest(f"Image {image.id} has no data (any more); choose another.")
    return Unavailable(f"The image service answered {status} for the data of image {image.id}.")


def _is_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
