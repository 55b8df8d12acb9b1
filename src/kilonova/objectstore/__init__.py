"""The object store: containers and objects over HTTP, kept as files. `component` runs it, `http` serves it."""

from kilonova.objectstore.component import ObjectStore

__all__ = ["ObjectStore"]
