"""The registry that every module of this package adds its routes to."""

from __future__ import annotations

from kilonova.api import dialects
from kilonova.api.compute import microversions
from kilonova.api.routing import Registry

registry = Registry("compute", "/compute", dialects.compute, microversions=microversions.negotiate)

V21 = "/v2.1"
