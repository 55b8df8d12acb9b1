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
    """Any role, on a project: may look."""
    MEMBER = "member"
    """May change what belongs to the token's project."""
    ADMIN = "admin"
    """Runs the cloud; also with a token on a domain or on the system."""

    def allows(self, context: Context) -> bool:
        match self:
            case Policy.ANYONE | Policy.AUTHENTICATED:
                return True
            case Policy.READER:
                return context.project_id is not None and bool(context.roles)
            case Policy.MEMBER:
                return context.project_id is not None and bool(context.roles & {"member", "manager", "admin"})
            case Policy.ADMIN:
                return context.is_admin

    def missing(self, context: Context) -> str:
        """What a refused caller lacks, in words."""
        if context.project_id is None and self in {Policy.READER, Policy.MEMBER}:
            return "a token on a project"
        return f"the role {self.value}"
