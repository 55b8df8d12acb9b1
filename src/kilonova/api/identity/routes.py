"""The identity API's registry; the modules beside this one put their routes into it."""

from kilonova.api import dialects
from kilonova.api.routing import Registry

registry = Registry("identity", "/identity", dialects.identity)
