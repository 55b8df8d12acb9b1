"""The registries of every API that this cloud serves."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from kilonova.api.routing import Registry

_NAMES = ("identity", "compute", "network", "image", "root")


def all_registries() -> list[Registry]:
    """One registry per API."""
    found: list[Registry] = []
    for name in _NAMES:
        if find_spec(f"kilonova.api.{name}") is not None:
            registry = import_module(f"kilonova.api.{name}").registry
            assert isinstance(registry, Registry)
            found.append(registry)
    return found
