"""The web front end: one ASGI application over the registries of all APIs.

For every request: a request id, the token, the policy, the body by its struct, the handler, the rendering; and for
every error the service's own format. No route does any of this itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Match
from starlette.routing import Route as HttpRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from kilonova import log as logs
from kilonova.api.routing import ApiRequest, Registry, Route, Services
from kilonova.auth.policy import Policy
from kilonova.context import Context
from kilonova.errors import (
    BadRequest,
    Forbidden,
    InternalError,
    KilonovaError,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unauthorized,
)
from kilonova.ids import new_request_id

log = logging.getLogger(__name__)

_encoder = msgspec.json.Encoder()


def application(registries: Sequence[Registry], services: Services) -> ASGIApp:
    """The ASGI application; the registry with the longest matching prefix serves a path."""
    by_prefix = sorted(registries, key=lambda registry: len(registry.prefix), reverse=True)
    tables = [(registry, _table(registry)) for registry in by_prefix]

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        http = HttpRequest(scope, receive)
        path = scope["path"]
        for registry, table in tables:
            if path == registry.prefix or path.startswith(f"{registry.prefix}/") or not registry.prefix:
                response = await _answer(http, registry, table, services)
                await response(scope, receive, send)
                return

    return serve


def _table(registry: Registry) -> list[tuple[HttpRoute, Route]]:
    async def unused(_request: HttpRequest) -> Response:
        raise AssertionError("dispatch goes through _answer")

    return [
        (HttpRoute(registry.prefix + route.path or "/", unused, methods=[route.method]), route)
        for route in registry.routes
    ]


async def _answer(
    http: HttpRequest, registry: Registry, table: list[tuple[HttpRoute, Route]], services: Services
) -> Response:
    request_id = new_request_id()
    logs.request_id.set(request_id)
    began = time.perf_counter()
    headers: dict[str, str] = {}
    try:
        route = _match(http, table)
        request = ApiRequest(http, services, Context(request_id=request_id), response_headers=headers)
        if registry.microversions is not None:
            request.microversion, confirmed = registry.microversions(http)
            headers.update(confirmed)
        response = await _handle(request, route)
    except KilonovaError as error:
        response = registry.dialect(error, request_id)
        if error.status >= 500:
            log.warning("%s %s: %s", http.method, http.url.path, error)
    except ClientDisconnect:
        response = registry.dialect(BadRequest("the client closed the connection before the body ended"), request_id)
    except Exception:
        log.exception("%s %s failed", http.method, http.url.path)
        failure = InternalError(f"The server failed; its log has the cause under {request_id}.")
        response = registry.dialect(failure, request_id)
    for name, value in headers.items():
        response.headers[name] = value
    response.headers["x-openstack-request-id"] = request_id
    if registry.name == "compute":
        response.headers["x-compute-request-id"] = request_id
    took_ms = (time.perf_counter() - began) * 1000
    log.info("%s %s %d %.1f ms", http.method, http.url.path, response.status_code, took_ms)
    return response


def _match(http: HttpRequest, table: list[tuple[HttpRoute, Route]]) -> Route:
    """The route of a request; its path parameters go into the scope. A trailing slash does not matter."""
    scope = http.scope
    if len(scope["path"]) > 1 and scope["path"].endswith("/"):
        scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
    if "\x00" in scope["path"]:
        raise BadRequest("path: a NUL character is not allowed")
    allowed: set[str] = set()
    for candidate, route in table:
        match, child = candidate.matches(scope)
        if match is Match.FULL:
            http.scope["path_params"] = child["path_params"]
            return route
        if match is Match.PARTIAL:
            allowed.add(route.method)
    if allowed:
        raise MethodNotAllowed(f"{http.method} is not allowed on {http.url.path}: use {', '.join(sorted(allowed))}")
    raise NotFound(f"{http.url.path} could not be found")


async def _handle(request: ApiRequest, route: Route) -> Response:
    if route.policy is not Policy.ANYONE:
        token = request.http.headers.get("x-auth-token")
        if not token:
            raise Unauthorized("The request needs a token: send X-Auth-Token")
        request.context = request.auth.authenticate(token, request.context.request_id)
        if not route.policy.allows(request.context):
            raise Forbidden(f"{route.method} {route.path} needs the role {route.policy.value}")
    if route.streams or route.body is None:
        answer = await route.handler(request)
    else:
        body = await _body(request.http, request.config.api.max_body_bytes)
        answer = await route.handler(request, decode(body, route.body))
    return render(answer, route.status)


def render(answer: Any, status: int) -> Response:
    if isinstance(answer, Response):
        return answer
    if answer is None:
        return Response(status_code=204 if status == 200 else status)
    return Response(_encoder.encode(answer), status, media_type="application/json")


def decode(body: bytes, struct: type[msgspec.Struct]) -> msgspec.Struct:
    """The body as its struct. Raises `BadRequest` that names the field."""
    try:
        return msgspec.json.decode(body, type=struct)
    except msgspec.ValidationError as error:
        raise BadRequest(f"Invalid input: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The body is not JSON: {error}") from None


async def _body(http: HttpRequest, most: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in http.stream():
        size += len(part)
        if size > most:
            raise TooLarge(f"The body is larger than {most} bytes")
        parts.append(part)
    return b"".join(parts)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
