"""The network API's registry; its routes are in this package's other modules."""

from __future__ import annotations

from kilonova.api import dialects
from kilonova.api.routing import Registry

VERSION = "/v2.0"

registry = Registry("network", "/network", dialects.network)
