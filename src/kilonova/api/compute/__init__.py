"""The Compute API v2.1: parse, authorise, call the cloud controller, render. `registry` holds all its routes."""

from __future__ import annotations

from kilonova.api.compute import (
    actions,
    flavors,
    hosts,
    interfaces,
    keypairs,
    quotas,
    server_details,
    servers,
    versions,
)
from kilonova.api.compute.registry import registry

__all__ = [
    "actions",
    "flavors",
    "hosts",
    "interfaces",
    "keypairs",
    "quotas",
    "registry",
    "server_details",
    "servers",
    "versions",
]
