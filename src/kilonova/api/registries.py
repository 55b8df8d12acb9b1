"""The registries of every API that this cloud serves."""

from __future__ import annotations

from kilonova.api import compute, identity, image, network, root
from kilonova.api.routing import Registry


def all_registries() -> list[Registry]:
    """One registry per API."""
    return [identity.registry, compute.registry, network.registry, image.registry, root.registry]
