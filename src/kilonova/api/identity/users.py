"""Users: an administrator manages them, everybody sees themselves and changes their own password."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from kilonova.api.identity import projects
from kilonova.api.identity.bodies import ChangedPassword, ChangedUser, NewUser, UserFields, given, split
from kilonova.api.identity.collections import PAGING, collection, filters_of, link, page_of
from kilonova.api.identity.routes import registry
from kilonova.api.routing import ApiRequest
from kilonova.auth import projects as project_units
from kilonova.auth import users as units
from kilonova.auth.policy import Policy
from kilonova.auth.users import User
from kilonova.errors import BadRequest, Forbidden, Unauthorized
from kilonova.store import schema


def render(request: ApiRequest, user: User) -> dict[str, Any]:
    answer: dict[str, Any] = {"options": {}, **user.extra}
    if user.email is not None:
        answer["email"] = user.email
    if user.default_project_id is not None:
        answer["default_project_id"] = user.default_project_id
    return answer | {
        "id": user.id,
        "name": user.name,
        "domain_id": user.domain_id,
        "description": user.description,
        "enabled": user.enabled,
        "password_expires_at": None,
        "links": link(request, "users", user.id),
    }


def _self_or_admin(request: ApiRequest) -> str:
    user_id = request.path["user_id"]
    if user_id != request.context.user_id and not request.context.is_admin:
        raise Forbidden("Only an administrator may look at another user")
    return user_id


@registry.route("GET", "/v3/users", policy=Policy.ADMIN, query=("name", "domain_id", "enabled", *PAGING))
async def listing(request: ApiRequest) -> dict[str, Any]:
    """List users."""
    page = page_of(request, "id", "name", "domain_id", "enabled")
    filters = filters_of(request, schema.users, "name", "domain_id", "enabled", "description", "email")
    found = await request.auth.store.read(units.listing, filters, page)
    return collection(request, "users", [render(request, user) for user in found], page)


@registry.route("POST", "/v3/users", policy=Policy.ADMIN, status=201, body=NewUser)
async def create(request: ApiRequest, body: NewUser) -> dict[str, Any]:
    """Create a user; the domain is the token's unless it is given."""
    fields, extra = split(body.user, UserFields, "user")
    values = await _values(request, fields, extra)
    if "name" not in values:
        raise BadRequest("Invalid input: user: name is required")
    domain_id = fields.domain_id or request.context.domain_id
    user = await request.auth.change(units.create, domain_id=domain_id, **values)
    return {"user": render(request, user)}


@registry.route("GET", "/v3/users/{user_id}", policy=Policy.AUTHENTICATED)
async def show(request: ApiRequest) -> dict[str, Any]:
    """Show a user."""
    user = await request.auth.store.read(units.find, _self_or_admin(request))
    return {"user": render(request, user)}


@registry.route("PATCH", "/v3/users/{user_id}", policy=Policy.ADMIN, body=ChangedUser)
async def change(request: ApiRequest, body: ChangedUser) -> dict[str, Any]:
    """Change a user; a new password or disabling voids its tokens."""
    fields, extra = split(body.user, UserFields, "user")
    values = await _values(request, fields, {})
    if "options" in body.user:
        extra["options"] = fields.options

    def unit(tx: Connection, user_id: str) -> User:
        user = units.find(tx, user_id)
        if fields.domain_id and fields.domain_id != user.domain_id:
            raise BadRequest("domain_id: a user cannot move to another domain")
        return units.change(tx, user_id, values | ({"extra": user.extra | extra} if extra else {}))

    return {"user": render(request, await request.auth.change(unit, request.path["user_id"]))}


async def _values(request: ApiRequest, fields: UserFields, extra: dict[str, Any]) -> dict[str, Any]:
    """Columns from attributes; the password is hashed here, outside of any transaction."""
    values = given(fields, "name", "description", "email", "enabled", "default_project_id")
    if "description" in values:
        values["description"] = values["description"] or ""
    if isinstance(fields.password, str):
        values["password_hash"] = await request.auth.passwords.hash(fields.password)
    if isinstance(fields.options, dict):
        extra = {**extra, "options": fields.options}
    if extra:
        values["extra"] = extra
    return values


@registry.route("DELETE", "/v3/users/{user_id}", policy=Policy.ADMIN, status=204)
async def delete(request: ApiRequest) -> None:
    """Delete a user with its assignments and key pairs."""
    await request.auth.change(units.remove, request.path["user_id"])


@registry.route("POST", "/v3/users/{user_id}/password", policy=Policy.ANYONE, status=204, body=ChangedPassword)
async def change_password(request: ApiRequest, body: ChangedPassword) -> None:
    """Change one's own password, proved by the present one; all tokens of the user are void afterwards."""
    user_id = request.path["user_id"]
    account = await request.auth.store.read(units.password_hash_if_enabled, user_id)
    if not await request.auth.passwords.matches(body.user.original_password, account) or account is None:
        raise Unauthorized("The user or the original password is wrong, or the user is disabled")
    new_hash = await request.auth.passwords.hash(body.user.password)
    await request.auth.change(units.replace_password, user_id, old_hash=account, new_hash=new_hash)


@registry.route(
    "GET", "/v3/users/{user_id}/projects", policy=Policy.AUTHENTICATED, query=("name", "domain_id", "enabled", *PAGING)
)
async def listing_projects(request: ApiRequest) -> dict[str, Any]:
    """List the projects on which a user has a role."""
    user_id = _self_or_admin(request)
    page = page_of(request, "id", "name", "domain_id", "enabled")
    filters = filters_of(request, schema.projects, "name", "domain_id", "enabled")

    def unit(tx: Connection) -> list[project_units.Project]:
        units.find(tx, user_id)
        return project_units.listing_of_user(tx, user_id, filters, page)

    found = await request.auth.store.read(unit)
    return collection(request, "projects", [projects.render(request, project) for project in found], page)
