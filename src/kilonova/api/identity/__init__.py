"""The identity API v3: tokens, users, projects, domains, roles, assignments, and the catalog as lists.

`registry` holds the routes. Reference: OpenStack's "Identity API v3".
"""

from kilonova.api.identity import catalog, domains, grants, projects, roles, tags, tokens, users, versions
from kilonova.api.identity.routes import registry

__all__ = ["catalog", "domains", "grants", "projects", "registry", "roles", "tags", "tokens", "users", "versions"]
