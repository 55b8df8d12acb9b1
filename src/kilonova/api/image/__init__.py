"""The image API (v2) on `/image`: version documents, images and their bytes, members, schemas."""

from kilonova.api.image import bytes_, discovery, images, members, schemas
from kilonova.api.image.registry import registry

__all__ = ["bytes_", "discovery", "images", "members", "registry", "schemas"]
