"""The registry that this package's handlers register in."""

from kilonova.api import dialects
from kilonova.api.routing import Registry

registry = Registry("image", "/image", dialects.image)
