"""Roles on projects, on domains and on the system: give, check, list, take back."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from kilonova.api.identity import roles
from kilonova.api.identity.collections import link
from kilonova.api.identity.routes import registry
from kilonova.api.routing import ApiRequest
from kilonova.auth import assignments as units
from kilonova.auth.assignments import SYSTEM, Assignment, AssignmentFilter, Target
from kilonova.auth.policy import Policy
from kilonova.auth.roles import Role
from kilonova.auth.tokens import Named
from kilonova.errors import BadRequest, Forbidden


def _target(request: ApiRequest) -> Target:
    if "project_id" in request.path:
        return Target("project", request.path["project_id"])
    if "domain_id" in request.path:
        return Target("domain", request.path["domain_id"])
    return SYSTEM


_WHERE = {"project": "/v3/projects/{project_id}", "domain": "/v3/domains/{domain_id}", "system": "/v3/system"}


@registry.route("PUT", _WHERE["project"] + "/users/{user_id}/roles/{role_id}", policy=Policy.ADMIN, status=204)
@registry.route("PUT", _WHERE["domain"] + "/users/{user_id}/roles/{role_id}", policy=Policy.ADMIN, status=204)
@registry.route("PUT", _WHERE["system"] + "/users/{user_id}/roles/{role_id}", policy=Policy.ADMIN, status=204)
async def grant(request: ApiRequest) -> None:
    """Give a user a role."""
    await request.auth.change(units.grant, request.path["user_id"], _target(request), request.path["role_id"])


@registry.route("GET", _WHERE["project"] + "/users/{user_id}/roles/{role_id}", policy=Policy.ADMIN, status=204)
@registry.route("GET", _WHERE["domain"] + "/users/{user_id}/roles/{role_id}", policy=Policy.ADMIN, status=204)
@registry.route("GET", _WHERE["system"] + "/users/{user_id}/roles/{role_id}", policy=Policy.ADMIN, status=204)
async def check(request: ApiRequest) -> None:
    """Say whether a user was given a role."""
    await request.auth.store.read(units.check, request.path["user_id"], _target(request), request.path["role_id"])


@registry.route("DELETE", _WHERE["project"] + "/users/{user_id}/roles/{role_id}", policy=Policy.ADMIN, status=204)
@registry.route("DELETE", _WHERE["domain"] + "/users/{user_id}/roles/{role_id}", policy=Policy.ADMIN, status=204)
@registry.route("DELETE", _WHERE["system"] + "/users/{user_id}/roles/{role_id}", policy=Policy.ADMIN, status=204)
async def withdraw(request: ApiRequest) -> None:
    """Take a role back; the user's tokens on the target are void."""
    await request.auth.change(units.withdraw, request.path["user_id"], _target(request), request.path["role_id"])


@registry.route("GET", _WHERE["project"] + "/users/{user_id}/roles", policy=Policy.ADMIN)
@registry.route("GET", _WHERE["domain"] + "/users/{user_id}/roles", policy=Policy.ADMIN)
@registry.route("GET", _WHERE["system"] + "/users/{user_id}/roles", policy=Policy.ADMIN)
async def listing(request: ApiRequest) -> dict[str, Any]:
    """List the roles that a user was given."""
    user_id, target = request.path["user_id"], _target(request)

    def unit(tx: Connection) -> list[Role]:
        units.check_exist(tx, user_id, target)
        return units.roles_of(tx, user_id, target)

    held = await request.auth.store.read(unit)
    here = {"self": str(request.http.url), "previous": None, "next": None}
    return {"roles": [roles.render(request, role) for role in held], "links": here}


@registry.route(
    "GET",
    "/v3/role_assignments",
    policy=Policy.AUTHENTICATED,
    query=("user.id", "role.id", "scope.project.id", "scope.domain.id", "scope.system", "effective", "include_names"),
)
async def assignments(request: ApiRequest) -> dict[str, Any]:
    """List assignments: all for an administrator, one's own (`user.id`) for everybody."""
    wanted = AssignmentFilter(request.query("user.id"), request.query("role.id"), _scope(request))
    if not request.context.is_admin and (wanted.user_id is None or wanted.user_id != request.context.user_id):
        raise Forbidden("Only an administrator may list the assignments of others: ask with user.id=your own")
    effective = request.query_bool("effective") or False
    names = request.query_bool("include_names") or False
    if request.query("group.id") or request.query("scope.OS-INHERIT:inherited_to"):  # neither exists here
        found: list[Assignment] = []
    else:
        found = await request.auth.store.read(units.listing, wanted, effective=effective)
    here = {"self": str(request.http.url), "previous": None, "next": None}
    return {"role_assignments": [_render(request, each, names) for each in found], "links": here}


def _scope(request: ApiRequest) -> Target | None:
    asked: list[Target] = []
    if project_id := request.query("scope.project.id"):
        asked.append(Target("project", project_id))
    if domain_id := request.query("scope.domain.id"):
        asked.append(Target("domain", domain_id))
    if request.query("scope.system"):
        asked.append(SYSTEM)
    if len(asked) > 1:
        raise BadRequest("scope: give one of scope.project.id, scope.domain.id and scope.system")
    return asked[0] if asked else None


def _render(request: ApiRequest, assignment: Assignment, names: bool) -> dict[str, Any]:
    target = assignment.target
    role: dict[str, Any] = {"id": assignment.role.id}
    user: dict[str, Any] = {"id": assignment.user.id}
    on: dict[str, Any] = {"id": target.id}
    if names:
        role["name"] = assignment.role.name
        user |= {"name": assignment.user.name, "domain": _named(assignment.user_domain)}
        on["name"] = assignment.target_name
        if assignment.target_domain is not None:
            on["domain"] = _named(assignment.target_domain)
    path = ("system",) if target.type == "system" else (f"{target.type}s", target.id)
    href = link(request, *path, "users", assignment.user.id, "roles", assignment.role.id)["self"]
    return {
        "role": role,
        "user": user,
        "scope": {"system": {"all": True}} if target.type == "system" else {target.type: on},
        "links": {"assignment": href},
    }


def _named(resource: Named) -> dict[str, str]:
    return {"id": resource.id, "name": resource.name}
