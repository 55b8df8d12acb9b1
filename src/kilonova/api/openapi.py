"""The OpenAPI 3.1 description of an API, made from its registry.

`python -m kilonova.api.openapi DIRECTORY` writes one file per API; those in `docs/openapi` are checked in and a test
compares them with what the registries say.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from kilonova import __version__
from kilonova.api.routing import Registry, Route
from kilonova.auth.policy import Policy
from kilonova.errors import BadRequest, Conflict, Forbidden, InternalError, KilonovaError, NotFound, Unauthorized

_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_INTEGERS = frozenset({"limit", "page_size", "offset"})
_ERRORS: dict[str, type[KilonovaError]] = {
    "400": BadRequest,
    "401": Unauthorized,
    "403": Forbidden,
    "404": NotFound,
    "409": Conflict,
    "default": InternalError,
}


def document(registry: Registry) -> dict[str, Any]:
    """The description of one API as plain data."""
    bodies = list(dict.fromkeys(route.body for route in registry.routes if route.body is not None))
    references, schemas = msgspec.json.schema_components(
        bodies, schema_hook=_anything, ref_template="#/components/schemas/{name}"
    )
    body_schemas = dict(zip(bodies, references, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in registry.routes:
        path = _PARAMETER.sub(r"{\1}", registry.prefix + route.path) or "/"
        paths.setdefault(path, {})[route.method.lower()] = _operation(registry, route, path, body_schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Kilonova {registry.name} API", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {name: _error(registry, error) for name, error in _ERRORS.items()},
            "securitySchemes": {"token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}},
        },
        "security": [{"token": []}],
    }


def _anything(kind: type) -> dict[str, Any]:
    """The schema of `object`, which msgspec does not know: any JSON."""
    if kind is object:
        return {"description": "any JSON"}
    raise NotImplementedError


def _operation(
    registry: Registry, route: Route, path: str, body_schemas: dict[type[msgspec.Struct], dict[str, Any]]
) -> dict[str, Any]:
    module = route.handler.__module__.rpartition(".")[2]
    words = inspect.getdoc(route.handler) or f"{module}: {route.handler.__name__.replace('_', ' ').strip()}"
    summary, _, description = words.partition("\n\n")
    operation: dict[str, Any] = {
        "operationId": _operation_id(route.method, path),
        "summary": " ".join(summary.split()),
        "tags": [module],
        "x-policy": route.policy.value,
    }
    if description:
        operation["description"] = " ".join(description.split())
    parameters = [_path_parameter(name) for name in _PARAMETER.findall(route.path)]
    parameters += [_query_parameter(name) for name in dict.fromkeys(route.query)]
    if registry.microversions is not None:
        parameters.append({"name": "OpenStack-API-Version", "in": "header", "schema": {"type": "string"}})
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        content: dict[str, Any] = {"application/json": {"schema": body_schemas[route.body]}}
        operation["requestBody"] = {"required": True, "content": content}
    elif route.streams:
        operation["requestBody"] = {"content": {"application/octet-stream": {}}}
    if route.policy is Policy.ANYONE:
        operation["security"] = []
    operation["responses"] = _responses(route)
    return operation


def _operation_id(method: str, path: str) -> str:
    words = re.findall(r"[A-Za-z0-9_.-]+", path)
    return "-".join([method.lower(), *words])


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _query_parameter(name: str) -> dict[str, Any]:
    schema = {"type": "integer", "minimum": 0} if name in _INTEGERS else {"type": "string"}
    return {"name": name, "in": "query", "schema": schema}


def _responses(route: Route) -> dict[str, Any]:
    """The answer when all goes well, and the errors that the route's shape makes possible; `default` is any other."""
    success: dict[str, Any] = {"description": HTTPStatus(route.status).phrase}
    if route.status not in {201, 202, 204} or route.body is not None:
        success["content"] = {"application/json": {}}
    errors = ["400"]
    if route.policy is not Policy.ANYONE:
        errors += ["401"]
    if route.policy not in {Policy.ANYONE, Policy.AUTHENTICATED}:
        errors += ["403"]
    if "{" in route.path:
        errors += ["404"]
    if route.method != "GET":
        errors += ["409"]
    answers: dict[str, Any] = {str(route.status): success}
    return answers | {name: {"$ref": f"#/components/responses/{name}"} for name in [*errors, "default"]}


def _error(registry: Registry, error: type[KilonovaError]) -> dict[str, Any]:
    """An error as the API's own dialect writes it: its shape is read off an example."""
    example = json.loads(
        bytes(registry.dialect(error("what happened to which resource, and what to do next"), "-").body)
    )
    content = {"application/json": {"schema": _shape(example), "example": example}}
    return {"description": (inspect.getdoc(error) or error.__name__).partition("\n")[0], "content": content}


def _shape(example: object) -> dict[str, Any]:
    if isinstance(example, dict):
        properties = {key: _shape(value) for key, value in example.items()}
        return {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "integer" if isinstance(example, int) else "string"}


def text(registry: Registry) -> str:
    """The description as the file holds it."""
    return json.dumps(document(registry), indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    from kilonova.api.registries import all_registries

    if len(arguments) != 1:
        print("usage: python -m kilonova.api.openapi DIRECTORY", file=sys.stderr)
        return 2
    directory = Path(arguments[0])
    directory.mkdir(parents=True, exist_ok=True)
    for registry in all_registries():
        path = directory / f"{registry.name}.json"
        path.write_text(text(registry))
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
