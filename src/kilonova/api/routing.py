"""One registry of routes per API: method, path, body, policy, status; the server and the OpenAPI file come from it.

A handler is `async def handler(request)` or, when the route names a body struct, `async def handler(request, body)`.
It answers plain data (rendered as JSON with the route's status), a starlette `Response`, or nothing (204).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from kilonova.auth.manager import AuthManager
from kilonova.auth.policy import Policy
from kilonova.cloud.controller import Cloud
from kilonova.cloud.image_bytes import ImageBytes
from kilonova.config import Config
from kilonova.context import Context
from kilonova.errors import BadRequest, KilonovaError

Handler = Callable[..., Awaitable[Any]]
Dialect = Callable[[KilonovaError, str], Response]
"""Renders an error in a service's own format: (error, request id) -> response."""


@dataclass(frozen=True)
class Services:
    """What handlers work with."""

    cloud: Cloud
    auth: AuthManager
    config: Config
    image_bytes: ImageBytes | None = None
    """The client of the object store; none where images' bytes are not served."""


@dataclass
class ApiRequest:
    """One request, authenticated and authorised."""

    http: HttpRequest
    services: Services
    context: Context
    microversion: tuple[int, int] = (0, 0)
    response_headers: dict[str, str] = field(default_factory=dict)

    @property
    def cloud(self) -> Cloud:
        return self.services.cloud

    @property
    def auth(self) -> AuthManager:
        return self.services.auth

    @property
    def config(self) -> Config:
        return self.services.config

    @property
    def path(self) -> dict[str, str]:
        """The path's parameters."""
        return self.http.path_params

    def query(self, name: str) -> str | None:
        """The last value of a query parameter."""
        values = self.http.query_params.getlist(name)
        return values[-1] if values else None

    def query_all(self, name: str) -> list[str]:
        return self.http.query_params.getlist(name)

    def query_int(self, name: str, *, least: int = 0, most: int | None = None) -> int | None:
        """An integer query parameter. Raises `BadRequest` naming it when it is none or out of range."""
        value = self.query(name)
        if value is None or value == "":
            return None
        try:
            number = int(value)
        except ValueError:
            raise BadRequest(f"{name}: '{value}' is not an integer") from None
        if number < least or number.bit_length() > 62:
            raise BadRequest(f"{name}: {value} is out of range, {least} is the least")
        return number if most is None else min(number, most)

    def query_bool(self, name: str) -> bool | None:
        value = self.query(name)
        if value is None:
            return None
        if value.lower() in {"true", "1", "yes", "on", ""}:
            return True
        if value.lower() in {"false", "0", "no", "off"}:
            return False
        raise BadRequest(f"{name}: '{value}' is not true or false")

    def stream(self) -> AsyncIterator[bytes]:
        """The body's bytes as they arrive, for uploads."""
        return self.http.stream()

    @property
    def base_url(self) -> str:
        """Scheme and authority as the client wrote them, for links."""
        return str(self.http.base_url).rstrip("/")


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    handler: Handler
    policy: Policy
    status: int
    body: type[msgspec.Struct] | None
    query: tuple[str, ...]
    streams: bool


@dataclass
class Registry:
    """The routes of one API, all below `prefix`."""

    name: str
    prefix: str
    dialect: Dialect
    routes: list[Route] = field(default_factory=list)
    microversions: Callable[[HttpRequest], tuple[tuple[int, int], dict[str, str]]] | None = None
    """For an API with microversions: the request's version and the headers that confirm it. Raises `NotAcceptable`."""

    def route(
        self,
        method: str,
        path: str,
        *,
        policy: Policy = Policy.MEMBER,
        status: int = 200,
        body: type[msgspec.Struct] | None = None,
        query: tuple[str, ...] = (),
        streams: bool = False,
    ) -> Callable[[Handler], Handler]:
        """Register a handler. `query` names parameters for the OpenAPI file; with `streams` it reads the body."""

        def register(handler: Handler) -> Handler:
            self.routes.append(Route(method, path, handler, policy, status, body, query, streams))
            return handler

        return register
