"""What can go wrong, one class per meaning.

Every error names its resource and cause, and where it helps, what to do next. Each API dialect maps `status` and `kind`
to its own error body in one place; the bus carries `kind` and `message` across processes.
"""

from __future__ import annotations

from typing import ClassVar


class KilonovaError(Exception):
    """Base of every error that a user may see. `message` is one readable sentence."""

    status: ClassVar[int] = 500
    kinds: ClassVar[dict[str, type[KilonovaError]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        KilonovaError.kinds[cls.__name__] = cls

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def kind(self) -> str:
        return type(self).__name__

    @staticmethod
    def from_kind(kind: str, message: str) -> KilonovaError:
        """The error a peer sent over the bus; an unknown kind becomes `InternalError`."""
        return KilonovaError.kinds.get(kind, InternalError)(message)


class InternalError(KilonovaError):
    """A defect or an unavailable part; the log has the cause under the request id."""


class BadRequest(KilonovaError):
    """The request is malformed or contradicts itself; the message names the field."""

    status = 400


class Unauthorized(KilonovaError):
    """No valid token or wrong credentials."""

    status = 401


class Forbidden(KilonovaError):
    """The token's roles do not allow it."""

    status = 403


class QuotaExceeded(Forbidden):
    """A project's quota does not suffice. Compute answers 403, network 409, image 413."""


class NotFound(KilonovaError):
    """No such resource, or not visible to this project."""

    status = 404


class MethodNotAllowed(KilonovaError):
    """The path exists, the method on it does not; `allowed` are those that do."""

    status = 405

    def __init__(self, message: str, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.allowed = allowed


class NotAcceptable(KilonovaError):
    """An API microversion that this cloud does not have."""

    status = 406


class Conflict(KilonovaError):
    """The resource's state does not allow it now."""

    status = 409


class InUse(Conflict):
    """Something still uses the resource; the message says what."""


class AlreadyExists(Conflict):
    """A unique name, address or id is taken."""


class NoMoreAddresses(Conflict):
    """The subnet has no free address left."""


class NoMoreNetworks(Conflict):
    """The pool has no free network left; `kilonova network create` adds some."""


class LengthRequired(KilonovaError):
    """An upload says neither its length nor that it comes in chunks."""

    status = 411


class PreconditionFailed(KilonovaError):
    status = 412


class TooLarge(KilonovaError):
    status = 413


class UnsupportedMediaType(KilonovaError):
    status = 415


class RangeNotSatisfiable(KilonovaError):
    """The range lies outside the object."""

    status = 416


class Unprocessable(KilonovaError):
    """The content is not what the request says it is: a checksum or an image format does not match."""

    status = 422


class NoValidHost(KilonovaError):
    """No host can take the instance; the message names for each host the need it could not meet."""

    status = 500


class NotSupported(KilonovaError):
    """This cloud does not do that (yet); the message says so plainly."""

    status = 501


class Unavailable(KilonovaError):
    """A part needed now is down or too slow."""

    status = 503


class DeadlineExceeded(Unavailable):
    """Nobody answered in time."""


class InsufficientStorage(KilonovaError):
    """The disk is full; the message names it."""

    status = 507


class CommandFailed(KilonovaError):
    """An external program or kernel request failed; the message holds the command and its last words."""
