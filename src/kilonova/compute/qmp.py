"""The monitor of one QEMU process: a QMP connection made when first needed, and again after it broke."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from pathlib import Path

from qemu.qmp import ConnectError, ExecuteError, QMPClient, QMPError, Runstate

from kilonova.errors import CommandFailed, DeadlineExceeded, Unavailable

ANSWER_WITHIN_S = 10.0

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # a guest's end is no error to report


def listen(directory: Path, name: str) -> socket.socket:
    """A listening Unix socket at `directory/name`; only this user can reach it.

    Through the directory's descriptor, because a socket's path must be shorter than 108 bytes.
    """
    (directory / name).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{descriptor}/{name}")
        listener.listen(4)
    except OSError:
        listener.close()
        raise
    finally:
        os.close(descriptor)
    return listener


class Monitor:
    """Commands to one guest's QEMU."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._client: QMPClient | None = None
        self._connecting = asyncio.Lock()

    async def execute(
        self, command: str, arguments: dict[str, object] | None = None, *, timeout_s: float = ANSWER_WITHIN_S
    ) -> object:
        """The command's result.

        Raises `Unavailable` when QEMU is gone, `DeadlineExceeded` when it does not answer, `CommandFailed` when it
        refuses.
        """
        try:
            async with asyncio.timeout(timeout_s):
                client = await self._connected()
                return await client.execute(command, arguments)
        except TimeoutError as error:
            await self.close()
            raise DeadlineExceeded(f"QEMU did not answer {command} within {timeout_s:g} s") from error
        except ExecuteError as error:
            raise CommandFailed(f"QEMU refused {command}: {error}") from error
        except (QMPError, OSError) as error:
            await self.close()
            raise Unavailable(f"QEMU does not listen: {error}") from error

    async def close(self) -> None:
        """Disconnect; the guest does not notice."""
        client, self._client = self._client, None
        if client is not None:
            try:
                async with asyncio.timeout(2.0):
                    await client.disconnect()
            except (QMPError, OSError, EOFError, TimeoutError):
                pass

    async def _connected(self) -> QMPClient:
        async with self._connecting:
            if self._client is not None and self._client.runstate is Runstate.RUNNING:
                return self._client
            await self.close()
            client = QMPClient(self._name)
            connection = self._connect()
            try:
                await client.connect(connection)
            except ConnectError:
                connection.close()
                raise
            self._client = client
            return client

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{descriptor}/{self._name}")
            connection.setblocking(False)
        except OSError:
            connection.close()
            raise
        finally:
            os.close(descriptor)
        return connection
