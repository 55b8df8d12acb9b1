"""The auth manager: users, projects, domains, roles, assignments, tokens, revocations, catalog, policy."""
