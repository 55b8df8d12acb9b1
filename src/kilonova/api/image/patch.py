"""The image API's two JSON patch media types, read into changes.

Reference: "HTTP PATCH media types" of the image API. A path has one element (RFC 6901 escapes); tags change whole.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import msgspec

from kilonova.cloud.images import Change
from kilonova.errors import BadRequest, UnsupportedMediaType

V2_1 = "application/openstack-images-v2.1-json-patch"
V2_0 = "application/openstack-images-v2.0-json-patch"
MEDIA_TYPES = f"{V2_0}, {V2_1}"

_ACTIONS = ("add", "replace", "remove")


def changes(body: bytes, content_type: str) -> list[Change]:
    """The steps of a patch. Raises `UnsupportedMediaType`, or `BadRequest` that names the step."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in {V2_0, V2_1}:
        raise UnsupportedMediaType(f"Content-Type: '{content_type[:80]}' is not one of {MEDIA_TYPES}")
    try:
        steps = msgspec.json.decode(body, type=list[dict[str, Any]])
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"The body is not a JSON patch, a list of objects: {error}") from None
    return [_change(step, _v2_1(step) if media_type == V2_1 else _v2_0(step)) for step in steps]


def _v2_1(step: dict[str, Any]) -> tuple[Any, Any]:
    return step.get("op"), step.get("path")


def _v2_0(step: dict[str, Any]) -> tuple[Any, Any]:
    found = [action for action in _ACTIONS if action in step]
    return (found[0], step[found[0]]) if len(found) == 1 else (None, None)


def _change(step: dict[str, Any], said: tuple[Any, Any]) -> Change:
    action, path = said
    if action not in _ACTIONS:
        raise BadRequest(f"each step of the patch needs an operation: one of {', '.join(_ACTIONS)}")
    if not isinstance(path, str) or not path.startswith("/") or len(path) < 2:
        raise BadRequest(f"path: '{str(path)[:80]}' does not begin with / and a name")
    if "/" in path[1:]:
        raise BadRequest(f"path: '{path[:80]}' has more than one element: replace the whole attribute")
    if action != "remove" and "value" not in step:
        raise BadRequest(f"the {action} of {path[:80]} needs a value")
    name = path[1:].replace("~1", "/").replace("~0", "~")
    return Change(cast(Literal["add", "replace", "remove"], action), name, step.get("value"))
