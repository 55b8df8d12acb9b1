"""Which route a request means: a tree by path segments, so that the number of routes does not matter.

A literal segment is preferred to a `{parameter}`; a parameter is one segment that is not empty. A slash at the end
makes no difference. HEAD is served by GET's route unless it has its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kilonova.api.routing import Registry, Route
from kilonova.errors import BadRequest, MethodNotAllowed, NotFound


@dataclass
class _Node:
    literals: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    routes: dict[str, tuple[Route, tuple[str, ...]]] = field(default_factory=dict)
    """By method: the route and the names of its path's parameters."""


class RouteTree:
    """The routes of one registry."""

    def __init__(self, registry: Registry) -> None:
        self._root = _Node()
        for route in registry.routes:
            node = self._root
            names: list[str] = []
            for segment in _segments(registry.prefix + route.path):
                if segment.startswith("{"):
                    names.append(segment.strip("{}"))
                    node.parameter = node.parameter or _Node()
                    node = node.parameter
                else:
                    node = node.literals.setdefault(segment, _Node())
            node.routes.setdefault(route.method, (route, tuple(names)))

    def match(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        """The route and its path's parameters.

        Raises `NotFound`, `MethodNotAllowed` with the methods there are, or `BadRequest` for a NUL character.
        """
        if "\x00" in path:
            raise BadRequest("path: a NUL character is not allowed")
        allowed: set[str] = set()
        for node, values in _find(self._root, _segments(path), ()):
            found = node.routes.get(method) or (node.routes.get("GET") if method == "HEAD" else None)
            if found is not None:
                route, names = found
                return route, dict(zip(names, values, strict=True))
            allowed.update(node.routes)
        if allowed:
            methods = tuple(sorted(allowed))
            raise MethodNotAllowed(f"{method} is not allowed on {path}: use {', '.join(methods)}", methods)
        raise NotFound(f"{path} could not be found")


def _segments(path: str) -> list[str]:
    stripped = path.rstrip("/")
    return stripped.split("/")[1:] if stripped else []


def _find(node: _Node, segments: list[str], values: tuple[str, ...]) -> Iterator[tuple[_Node, tuple[str, ...]]]:
    """Every node with routes that the segments lead to, the most literal one first."""
    if not segments:
        if node.routes:
            yield node, values
        return
    head, rest = segments[0], segments[1:]
    if head in node.literals:
        yield from _find(node.literals[head], rest, values)
    if head and node.parameter is not None:
        yield from _find(node.parameter, rest, (*values, head))
