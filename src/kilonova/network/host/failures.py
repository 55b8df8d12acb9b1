"""What could not be done on a host, by owner: a network, router, port or group; the empty owner is the host itself."""

from __future__ import annotations

from kilonova.errors import KilonovaError

Failures = dict[str, str]
"""Owner -> why."""

HOST_ITSELF = ""


class catching:
    """Writes a failure down under its owner and goes on."""

    def __init__(self, failures: Failures, owner: str) -> None:
        self._failures = failures
        self._owner = owner

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, KilonovaError | OSError):
            return False
        self._failures.setdefault(self._owner, str(error))
        return True
