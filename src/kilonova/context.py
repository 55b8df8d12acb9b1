"""Who asks: passed along explicitly from the API through every use case and message."""

from __future__ import annotations

import msgspec

from kilonova.ids import ProjectId, RequestId, UserId, new_request_id


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The caller of a request: ids, names and role names as the token says."""

    request_id: RequestId
    user_id: UserId | None = None
    user_name: str = ""
    project_id: ProjectId | None = None
    project_name: str = ""
    domain_id: str = "default"
    roles: frozenset[str] = frozenset()
    token_id: str = ""

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles

    @property
    def is_reader_only(self) -> bool:
        return not self.roles & {"admin", "member", "manager"}


def system_context(request_id: RequestId | None = None) -> Context:
    """The cloud itself: start-up, timers, administration from this machine's command line."""
    return Context(request_id=request_id or new_request_id(), roles=frozenset({"admin"}))
