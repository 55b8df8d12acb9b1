"""The web front end: one ASGI application over the registries of all APIs.

For every request: a request id, the token, the policy, the body by its struct, the handler, the rendering; and for
every error the service's own format. No route does any of this itself.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from kilonova import log as logs
from kilonova.api import dialects
from kilonova.api.matching import RouteTree
from kilonova.api.routing import ApiRequest, Registry, Route, Services
from kilonova.auth.policy import Policy
from kilonova.context import Context
from kilonova.errors import (
    BadRequest,
    Forbidden,
    InternalError,
    KilonovaError,
    MethodNotAllowed,
    TooLarge,
    Unauthorized,
)
from kilonova.ids import new_request_id

log = logging.getLogger(__name__)

LONGEST_QUERY_BYTES = 32 * 1024

_encoder = msgspec.json.Encoder()
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""Its escape, not one whose backslash is itself escaped."""


def application(registries: Sequence[Registry], services: Services) -> ASGIApp:
    """The ASGI application; the registry with the longest matching prefix serves a path."""
    by_prefix = sorted(registries, key=lambda registry: len(registry.prefix), reverse=True)
    trees = [(registry, RouteTree(registry)) for registry in by_prefix]
    nowhere = Registry("nowhere", "", dialects.identity)
    trees.append((nowhere, RouteTree(nowhere)))

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        http = HttpRequest(scope, receive)
        path = scope["path"]
        for registry, tree in trees:
            if path == registry.prefix or path.startswith(f"{registry.prefix}/") or not registry.prefix:
                response = await _answer(http, registry, tree, services)
                try:
                    await response(scope, receive, send)
                except ClientDisconnect:
                    log.info("%s %s: the client closed the connection early", http.method, path)
                return

    return serve


async def _answer(http: HttpRequest, registry: Registry, tree: RouteTree, services: Services) -> Response:
    request_id = new_request_id()
    logs.request_id.set(request_id)
    began = time.perf_counter()
    headers: dict[str, str] = {}
    try:
        route, http.scope["path_params"] = tree.match(http.method, http.scope["path"])
        if b"%00" in http.scope["query_string"]:
            raise BadRequest("query: a NUL character is not allowed")
        if len(http.scope["query_string"]) > LONGEST_QUERY_BYTES:
            raise TooLarge(f"query: it is longer than {LONGEST_QUERY_BYTES} bytes")
        request = ApiRequest(http, services, Context(request_id=request_id), response_headers=headers)
        if registry.microversions is not None:
            request.microversion, confirmed = registry.microversions(http)
            headers.update(confirmed)
        response = await _handle(request, route)
        response.headers.update(headers)
    except KilonovaError as error:
        response = registry.dialect(error, request_id)
        response.headers.update(headers)
        if isinstance(error, MethodNotAllowed) and error.allowed:
            response.headers["allow"] = ", ".join(error.allowed)
        if error.status >= 500:
            log.warning("%s %s: %s", http.method, http.scope["path"], error)
    except ClientDisconnect:
        response = registry.dialect(BadRequest("the client closed the connection before the body ended"), request_id)
    except Exception:
        log.exception("%s %s failed", http.method, http.scope["path"])
        failure = InternalError(f"The server failed; its log has the cause under {request_id}.")
        response = registry.dialect(failure, request_id)
    response.headers["x-openstack-request-id"] = request_id
    if registry.name == "compute":
        response.headers["x-compute-request-id"] = request_id
    took_ms = (time.perf_counter() - began) * 1000
    log.info("%s %s %d %.1f ms", http.method, http.scope["path"], response.status_code, took_ms)
    return response


async def _handle(request: ApiRequest, route: Route) -> Response:
    if route.policy is not Policy.ANYONE:
        token = request.http.headers.get("x-auth-token")
        if not token:
            raise Unauthorized("The request needs a token: send X-Auth-Token")
        request.context = request.auth.authenticate(token, request.context.request_id)
        if not route.policy.allows(request.context):
            raise Forbidden(f"{route.method} {route.path} needs {route.policy.missing(request.context)}")
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
    refuse_nul(body)
    try:
        return msgspec.json.decode(body, type=struct)
    except msgspec.ValidationError as error:
        raise BadRequest(f"Invalid input: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The body is not JSON: {error}") from None


def refuse_nul(body: bytes) -> None:
    """No text of a JSON body may hold a NUL: PostgreSQL keeps none, and programs written in C end a text there."""
    if rb"\u0000" in body and _NUL.search(body):
        raise BadRequest("The body has a text with a NUL character, which is not allowed")


async def _body(http: HttpRequest, most: int) -> bytes:
    too_large = TooLarge(f"The body is larger than {most} bytes")
    length = http.headers.get("content-length", "")
    if length.isascii() and length.isdigit() and (len(length) > 18 or int(length) > most):
        raise too_large
    parts: list[bytes] = []
    size = 0
    async for part in http.stream():
        size += len(part)
        if size > most:
            raise too_large
        parts.append(part)
    return b"".join(parts)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
