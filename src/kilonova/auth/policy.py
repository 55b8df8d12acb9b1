"""Who may call a route: one rule per route, by role. Whose resource it is, the use case checks itself."""

from __future__ import annotations

from enum import Enum

from kilonova.context import Context


class Policy(Enum):
    """The least a caller must be."""

    ANYONE = "anyone"
    """No token needed: version documents, authentication."""
    AUTHENTICATED = "authenticated"
    """Any valid token, also an unscoped one."""
    READER = "reader"
    """Any role on a project: may look."""
    MEMBER = "member"
    """May change what belongs to the project."""
    ADMIN = "admin"
    """Runs the cloud."""

    def allows(self, context: Context) -> bool:
        match self:
            case Policy.ANYONE | Policy.AUTHENTICATED:
                return True
            case Policy.READER:
                return bool(context.roles)
            case Policy.MEMBER:
                return bool(context.roles & {"member", "manager", "admin"})
            case Policy.ADMIN:
                return context.is_admin
