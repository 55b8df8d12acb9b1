"""The network API (v2.0) on `/network`: networks to floating IPs, quotas, agents; and the pool's administration."""

from kilonova.api.network import (
    administration,
    agents,
    discovery,
    explanations,
    quotas,
    resources,
    routers,
    tags,
    topology,
    vpns,
)
from kilonova.api.network.registry import registry

__all__ = [
    "administration",
    "agents",
    "discovery",
    "explanations",
    "quotas",
    "registry",
    "resources",
    "routers",
    "tags",
    "topology",
    "vpns",
]
