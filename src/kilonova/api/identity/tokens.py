"""Tokens: log in, change scope, validate, revoke; and what the holder of a token may reach."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse, Response

from kilonova.api.identity import domains, projects
from kilonova.api.identity.bodies import Auth, Credentials, DomainReference, PasswordUser, TokenScope
from kilonova.api.identity.collections import PAGING, collection, link, page_of
from kilonova.api.identity.routes import registry
from kilonova.api.routing import ApiRequest
from kilonova.auth import assignments, login
from kilonova.auth import domains as domain_units
from kilonova.auth import projects as project_units
from kilonova.auth.catalog import catalog
from kilonova.auth.listing import Filter
from kilonova.auth.login import Reference, Scope
from kilonova.auth.policy import Policy
from kilonova.auth.tokens import Named, Token
from kilonova.errors import BadRequest, Forbidden, NotFound, Unauthorized

TIME = "%Y-%m-%dT%H:%M:%S.%fZ"


@registry.route("POST", "/v3/auth/tokens", policy=Policy.ANYONE, status=201, body=Credentials, query=("nocatalog",))
async def issue(request: ApiRequest, body: Credentials) -> Response:
    """Log in with a password, or change the scope of a token.

    The token is in the header X-Subject-Token.
    """
    text, token = await _prove(request, body.auth)
    headers = {"X-Subject-Token": text, "Vary": "X-Auth-Token"}
    return JSONResponse(_document(request, token), 201, headers)


async def _prove(request: ApiRequest, auth: Auth) -> tuple[str, Token]:
    scope = _scope(auth.scope)
    match auth.identity.methods:
        case ["password"]:
            if auth.identity.password is None:
                raise BadRequest("auth.identity.password is required by the method password")
            user = auth.identity.password.user
            return await login.by_password(request.auth, _who(user), user.password, scope)
        case ["token"]:
            if auth.identity.token is None:
                raise BadRequest("auth.identity.token is required by the method token")
            return await login.by_token(request.auth, auth.identity.token.id, scope)
        case []:
            raise BadRequest("auth.identity.methods names no method: use password or token")
        case methods:
            raise Unauthorized(f"auth.identity.methods: {', '.join(methods)} is not offered: use password or token")


def _who(user: PasswordUser) -> Reference:
    if user.id is not None:
        return Reference(id=user.id)
    if user.name is None:
        raise BadRequest("auth.identity.password.user needs an id, or a name and a domain")
    return _in_domain(user.name, user.domain, "auth.identity.password.user")


def _scope(wanted: TokenScope | str | None) -> Scope:
    if wanted is None:
        return Scope()
    if isinstance(wanted, str):
        return Scope(unscoped=True)
    asked = [part for part in (wanted.project, wanted.domain, wanted.system) if part is not None]
    if len(asked) != 1:
        raise BadRequest("auth.scope needs exactly one of project, domain and system")
    if wanted.project is not None:
        if wanted.project.id is not None:
            return Scope(project=Reference(id=wanted.project.id))
        if wanted.project.name is None:
            raise BadRequest("auth.scope.project needs an id, or a name and a domain")
        return Scope(project=_in_domain(wanted.project.name, wanted.project.domain, "auth.scope.project"))
    if wanted.domain is not None:
        if wanted.domain.id is None and wanted.domain.name is None:
            raise BadRequest("auth.scope.domain needs an id or a name")
        return Scope(domain=Reference(id=wanted.domain.id, name=wanted.domain.name))
    return Scope(system=True)


def _in_domain(name: str, domain: DomainReference | None, where: str) -> Reference:
    if domain is None or (domain.id is None and domain.name is None):
        raise BadRequest(f"{where}.domain needs an id or a name, because a name alone may exist in several domains")
    return Reference(name=name, domain_id=domain.id, domain_name=domain.name)


def _document(request: ApiRequest, token: Token) -> dict[str, Any]:
    said: dict[str, Any] = {
        "methods": token.methods,
        "user": {
            "id": token.user.id,
            "name": token.user.name,
            "domain": _named(token.user_domain),
            "password_expires_at": None,
        },
        "audit_ids": [token.id, token.parent_id] if token.parent_id else [token.id],
        "issued_at": token.issued_at.strftime(TIME),
        "expires_at": token.expires_at.strftime(TIME),
    }
    if token.project is not None and token.project_domain is not None:
        said["project"] = _named(token.project) | {"domain": _named(token.project_domain)}
        said["is_domain"] = False
    elif token.domain is not None:
        said["domain"] = _named(token.domain)
    elif token.system:
        said["system"] = {"all": True}
    if token.roles:
        said["roles"] = [_named(role) for role in token.roles]
        if request.query("nocatalog") is None:
            said["catalog"] = _catalog(request, token)
    return {"token": said}


def _named(resource: Named) -> dict[str, Any]:
    return {"id": resource.id, "name": resource.name}


def _catalog(request: ApiRequest, token: Token) -> list[dict[str, object]]:
    project_id = None if token.project is None else token.project.id
    return catalog(request.config.api, request.auth.services, project_id)


def _own(request: ApiRequest) -> Token:
    """What the request's own token says."""
    return request.auth.read(request.http.headers["x-auth-token"])


def _subject(request: ApiRequest) -> tuple[str, Token]:
    """The token that the request is about. Raises `NotFound` for a void one, `Forbidden` for somebody else's."""
    text = request.http.headers.get("x-subject-token")
    if not text:
        raise BadRequest("The header X-Subject-Token is required")
    try:
        token = request.auth.read(text)
    except Unauthorized:
        raise NotFound("The token in X-Subject-Token is not valid") from None
    privileged = request.context.roles & {"admin", "service"}
    if token.user.id != request.context.user_id and not privileged:
        raise Forbidden("Only an administrator or a service may look at the token of another user")
    return text, token


@registry.route("GET", "/v3/auth/tokens", policy=Policy.AUTHENTICATED, query=("nocatalog",))
async def validate(request: ApiRequest) -> Response:
    """Validate the token in X-Subject-Token and say what it is good for."""
    text, token = _subject(request)
    return JSONResponse(_document(request, token), 200, {"X-Subject-Token": text, "Vary": "X-Auth-Token"})


@registry.route("DELETE", "/v3/auth/tokens", policy=Policy.AUTHENTICATED, status=204)
async def revoke(request: ApiRequest) -> None:
    """Revoke the token in X-Subject-Token."""
    text, _ = _subject(request)
    await request.auth.revoke(text)


@registry.route("GET", "/v3/auth/catalog", policy=Policy.AUTHENTICATED)
async def show_catalog(request: ApiRequest) -> dict[str, Any]:
    """Show the catalog of the token's scope."""
    token = _own(request)
    if not token.roles:
        raise Forbidden("The catalog belongs to a scope, and the token has none: ask for one on a project")
    return {"catalog": _catalog(request, token), "links": link(request, "auth", "catalog")}


@registry.route("GET", "/v3/auth/projects", policy=Policy.AUTHENTICATED, query=PAGING)
async def reachable_projects(request: ApiRequest) -> dict[str, Any]:
    """List the projects that the token's user can get a token on."""
    page = page_of(request, "id", "name")
    found = await request.auth.store.read(
        project_units.listing_of_user, request.context.user_id or "", [Filter("enabled", True)], page
    )
    return collection(request, "projects", [projects.render(request, project) for project in found], page)


@registry.route("GET", "/v3/auth/domains", policy=Policy.AUTHENTICATED, query=PAGING)
async def reachable_domains(request: ApiRequest) -> dict[str, Any]:
    """List the domains that the token's user can get a token on."""
    page = page_of(request, "id", "name")
    found = await request.auth.store.read(
        domain_units.listing_of_user, request.context.user_id or "", [Filter("enabled", True)], page
    )
    return collection(request, "domains", [domains.render(request, domain) for domain in found], page)


@registry.route("GET", "/v3/auth/system", policy=Policy.AUTHENTICATED)
async def reachable_system(request: ApiRequest) -> dict[str, Any]:
    """Say whether the token's user can get a token on the system."""
    held = await request.auth.store.read(assignments.roles_of, request.context.user_id or "", assignments.SYSTEM)
    return {"system": [{"all": True}] if held else [], "links": link(request, "auth", "system")}
