"""Password hashes: argon2id, computed in threads of their own because one takes tens of milliseconds."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

LONGEST = 4096
"""Characters of a password; more is refused where one is set and never matches where one is checked."""


class Passwords:
    """Hashes and checks passwords; `close` when done."""

    def __init__(self) -> None:
        # 19 MiB and three passes: about 35 ms on one core of 2024. Threads are few because each needs that memory.
        self._hasher = PasswordHasher(time_cost=3, memory_cost=19456, parallelism=1)
        self._threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="passwords")

    async def hash(self, password: str) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.hash_now, password)

    def hash_now(self, password: str) -> str:
        """The same, blocking the calling thread."""
        return self._hasher.hash(password)

    async def matches(self, password: str, stored: str | None) -> bool:
        """Whether the password is the one hashed; takes the same time when there is none to compare with."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._matches, password, stored)

    def _matches(self, password: str, stored: str | None) -> bool:
        if stored is None or len(password) > LONGEST:
            self._hasher.hash(password[:LONGEST])
            return False
        try:
            return self._hasher.verify(stored, password)
        except (VerificationError, InvalidHashError):
            return False

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
