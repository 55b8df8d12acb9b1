"""The files that hold the objects' bytes: written once under a temporary name, checked, made durable, then named.

A blob is never changed after its rename, so a reader needs no lock. Which blobs count is decided by the rows of the
store; a file that no row names is an orphan. Nothing here knows accounts, containers or HTTP.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kilonova.errors import InsufficientStorage, Unavailable
from kilonova.ids import new_hex_id

BLOCK_BYTES = 1024 * 1024
"""How much is gathered while a thread hashes and writes the block before it: twice this is an upload's memory."""


@dataclass(frozen=True)
class Blob:
    """A durable file: its name, and what was found while it was written."""

    name: str
    size_bytes: int
    md5: str
    sha512: str = ""
    """Empty unless the writer asked for it."""


class BlobDirectory:
    """One directory of blobs, owned by one process at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._incoming = path / "incoming"
        self._lock: int | None = None

    def open(self) -> None:
        """Take the directory. Raises `Unavailable` when another process has it."""
        self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(self._path / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise Unavailable(f"{self._path} is in use by another object store: stop it first") from None

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def path(self, name: str) -> Path:
        return self._path / name[:2] / name

    async def receive(self, parts: AsyncIterable[bytes], *, with_sha512: bool = False) -> Blob:
        """Write a stream to a new blob; durable when this answers.

        Whatever ends the stream early (the peer, a full disk, cancellation) leaves no file behind. Raises
        `InsufficientStorage` when the disk is full.
        """
        writer = _Writer(self._incoming, with_sha512)
        writing: asyncio.Future[None] | None = None
        try:
            block = bytearray()
            async for part in parts:
                block += part
                if len(block) >= BLOCK_BYTES:
                    if writing is not None:
                        await writing
                    writing = asyncio.ensure_future(asyncio.to_thread(writer.write, bytes(block)))
                    block.clear()
            if writing is not None:
                await writing
            return await asyncio.to_thread(self._finish, writer, bytes(block))
        except BaseException:
            if writing is not None:
                await asyncio.wait([writing])  # else its thread could make the file after it was discarded
            writer.discard()
            raise

    def _finish(self, writer: _Writer, rest: bytes) -> Blob:
        """The last step of an upload, in one visit to a thread: for a small object it is the only one."""
        writer.write(rest)
        blob = writer.close()
        target = self.path(blob.name)
        if not target.parent.is_dir():
            target.parent.mkdir(exist_ok=True, mode=0o700)
            _sync_directory(self._path)
        with _disk_errors(self._path):
            os.rename(writer.path, target)
            _sync_directory(target.parent)
        return blob

    async def read(self, file: BinaryIO, first: int, length: int) -> AsyncIterator[bytes]:
        """The bytes [first, first + length) of an open blob; closes it at the end."""
        try:
            position, left = first, length
            while left > 0:
                block = await asyncio.to_thread(os.pread, file.fileno(), min(left, BLOCK_BYTES), position)
                if not block:
                    raise Unavailable("a stored object is shorter than its row says; its bytes are damaged")
                position += len(block)
                left -= len(block)
                yield block
        finally:
            file.close()

    def remove(self, names: list[str]) -> None:
        """Remove blobs; one that is not there is fine."""
        for name in names:
            self.path(name).unlink(missing_ok=True)

    def remove_incoming(self, *, older_than_s: float) -> int:
        """Remove temporary files that nobody has written to for so long; how many."""
        return _remove_old(self._incoming.iterdir(), older_than_s)

    def old_blobs(self, *, older_than_s: float) -> Iterator[list[str]]:
        """The names of the blobs older than this, directory by directory."""
        before = time.time() - older_than_s
        for directory in sorted(self._path.iterdir()):
            if directory.is_dir() and directory != self._incoming:
                with os.scandir(directory) as entries:
                    yield [entry.name for entry in entries if _modified(entry) <= before]


class _Writer:
    """A temporary file with its checksums. Every method but `discard` is for a thread."""

    def __init__(self, directory: Path, with_sha512: bool) -> None:
        self.name = new_hex_id()
        self.path = directory / self.name
        self._size = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha512 = hashlib.sha512() if with_sha512 else None
        self._file: BinaryIO | None = None

    def write(self, block: bytes) -> None:
        with _disk_errors(self.path.parent):
            if self._file is None:
                self._file = open(self.path, "xb", buffering=0)  # noqa: SIM115 - lives across blocks
            view = memoryview(block)
            while view:
                view = view[self._file.write(view) or 0 :]
        self._size += len(block)
        self._md5.update(block)
        if self._sha512 is not None:
            self._sha512.update(block)

    def close(self) -> Blob:
        """Make the bytes durable."""
        assert self._file is not None
        with _disk_errors(self.path.parent):
            os.fsync(self._file.fileno())
            self._file.close()
        sha512 = "" if self._sha512 is None else self._sha512.hexdigest()
        return Blob(self.name, self._size, self._md5.hexdigest(), sha512)

    def discard(self) -> None:
        """Leave nothing behind, wherever the upload stopped."""
        if self._file is not None:
            self._file.close()
        self.path.unlink(missing_ok=True)


@contextmanager
def _disk_errors(directory: Path) -> Iterator[None]:
    """A full disk as the error a user may see."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise InsufficientStorage(
                f"the object store's disk is full ({directory}): free space or add some"
            ) from None
        raise


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def _remove_old(paths: Iterator[Path], older_than_s: float) -> int:
    before = time.time() - older_than_s
    removed = 0
    for path in paths:
        try:
            if path.stat().st_mtime <= before:
                path.unlink()
                removed += 1
        except FileNotFoundError:
            continue
    return removed
