"""Images: who sees them, what may be said about them, and how they change. Units of work on the store.

The bytes are not here (`image_upload`), nor whom an image is shared with (`image_members`), nor lists (`image_list`).
An image of another project that this one may not see does not exist for it. Reference: OpenStack's "Image service API
v2".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, Row, and_, delete, exists, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from kilonova.cloud.image_formats import CONTAINER_FORMATS, DISK_FORMATS
from kilonova.context import Context
from kilonova.errors import AlreadyExists, BadRequest, Conflict, Forbidden, NotFound, TooLarge
from kilonova.ids import ImageId, new_id
from kilonova.store.schema import image_members, images

VISIBILITIES = ("public", "private", "shared", "community")
MOST_PROPERTIES = 128
MOST_TAGS = 128
MOST_NUMBER = 2**31 - 1

READ_ONLY = frozenset(
    {
        "created_at",
        "updated_at",
        "status",
        "checksum",
        "size",
        "virtual_size",
        "direct_url",
        "self",
        "file",
        "schema",
        "os_hash_algo",
        "os_hash_value",
        "stores",
    }
)
RESERVED = frozenset({"location", "locations", "deleted", "deleted_at", "is_public"})
RESERVED_PREFIX = "os_glance"

_COLUMNS = {
    "name": "name",
    "visibility": "visibility",
    "disk_format": "disk_format",
    "container_format": "container_format",
    "min_disk": "min_disk_gb",
    "min_ram": "min_ram_mb",
    "protected": "protected",
    "os_hidden": "hidden",
    "owner": "project_id",
    "tags": "tags",
}
"""What a client may say about an image, and the column that keeps it; every other name is a property."""

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True)
class Image:
    id: ImageId
    project_id: str
    name: str | None
    status: str
    visibility: str
    disk_format: str | None
    container_format: str | None
    size_bytes: int | None
    virtual_size_bytes: int | None
    checksum: str | None
    hash_algorithm: str | None
    hash_value: str | None
    object_name: str | None
    min_disk_gb: int
    min_ram_mb: int
    protected: bool
    hidden: bool
    tags: tuple[str, ...]
    properties: Mapping[str, str]
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Change:
    """One step of a JSON patch; `name` is an attribute or a property."""

    action: Literal["add", "replace", "remove"]
    name: str
    value: Any = None


def create(tx: Connection, context: Context, attributes: Mapping[str, Any]) -> Image:
    """A new image without bytes (`queued`). Raises `Forbidden` for what is not the client's to set."""
    owner = attributes.get("owner") or context.project_id
    if owner is None:
        raise BadRequest("owner: a token of a project is needed, or an owner named by an administrator")
    image_id = attributes.get("id")
    if image_id is not None and not (isinstance(image_id, str) and _UUID.fullmatch(image_id)):
        raise BadRequest(f"id: '{str(image_id)[:80]}' is not a UUID")
    if image_id is not None and not context.is_admin:
        # A host may still have a copy of the bytes of an image that had it, which may have been another project's.
        raise Forbidden("id: only an administrator chooses the id of an image")
    values: dict[str, Any] = {"id": (image_id or new_id()).lower(), "project_id": owner}
    properties: dict[str, str] = {}
    for name, value in attributes.items():
        if name != "id":
            _check_may_set(context, name, value)
        if name == "owner" and value is None:
            continue
        if name in _COLUMNS:
            values[_COLUMNS[name]] = _checked(name, value)
        elif name != "id":
            properties[name] = _checked_property(name, value)
    _check_counts(properties, values.get("tags", ()))
    try:
        tx.execute(insert(images).values(**values, properties=properties))
    except IntegrityError:
        raise AlreadyExists(f"image {values['id']} exists already: choose another id or none") from None
    return _load(tx, values["id"])


def get(tx: Connection, context: Context, image_id: str) -> Image:
    """Raises `NotFound` also for an image that the caller may not see."""
    row = tx.execute(select(images).where(images.c.id == image_id, may_see(context))).one_or_none()
    if row is None:
        raise NotFound(f"No image found with ID {image_id[:80]}")
    return of_row(row)


def get_own(tx: Connection, context: Context, image_id: str) -> Image:
    """An image that the caller may change. Raises `NotFound`, or `Forbidden` when it only may see it."""
    image = get(tx, context, image_id)
    if not context.is_admin and image.project_id != context.project_id:
        raise Forbidden(f"image {image_id} belongs to another project: only its owner may change it")
    return image


def change(tx: Connection, context: Context, image_id: str, changes: Sequence[Change]) -> Image:
    """Apply the steps of a patch in order, all or none.

    Raises `Forbidden` for what is read-only or fixed by now, `Conflict` for a property that is not there.
    """
    image = get_own(tx, context, image_id)
    values: dict[str, Any] = {}
    properties = dict(image.properties)
    for step in changes:
        name = step.name
        _check_may_set(context, name, step.value)
        if name == "id":
            raise Forbidden("id is read-only")
        if name in _COLUMNS:
            if step.action == "remove":
                raise Forbidden(f"{name} cannot be removed: replace it")
            if name in {"disk_format", "container_format"} and image.status != "queued":
                raise Forbidden(f"{name} can be replaced only while the image is queued; it is {image.status}")
            if name == "owner" and step.value is None:
                raise BadRequest("owner: a project's id is needed")
            values[_COLUMNS[name]] = _checked(name, step.value)
            continue
        if step.action != "add" and name not in properties:
            raise Conflict(f"property {name} does not exist on image {image_id}: add it first")
        if step.action == "remove":
            del properties[name]
        else:
            properties[name] = _checked_property(name, step.value)
    _check_counts(properties, values.get("tags", ()))
    tx.execute(update(images).where(images.c.id == image_id).values(**values, properties=properties))
    return _load(tx, image_id)


def delete_(tx: Connection, context: Context, image_id: str) -> str | None:
    """Forget an image; the object that held its bytes, to be removed after the commit."""
    image = get_own(tx, context, image_id)
    if image.protected:
        raise Forbidden(f"image {image_id} is protected and cannot be deleted: set protected to false first")
    tx.execute(delete(images).where(images.c.id == image_id))
    return image.object_name


def add_tag(tx: Connection, context: Context, image_id: str, tag: str) -> None:
    image = get_own(tx, context, image_id)
    _checked("tags", [tag])
    if tag not in image.tags:
        tags = [*image.tags, tag]
        _check_counts({}, tags)
        tx.execute(update(images).where(images.c.id == image_id).values(tags=tags))


def remove_tag(tx: Connection, context: Context, image_id: str, tag: str) -> None:
    """Raises `NotFound` when the image does not have the tag."""
    image = get_own(tx, context, image_id)
    if tag not in image.tags:
        raise NotFound(f"image {image_id} has no tag {tag[:80]}")
    tags = [each for each in image.tags if each != tag]
    tx.execute(update(images).where(images.c.id == image_id).values(tags=tags))


def deactivate(tx: Connection, image_id: str) -> None:
    """Keep everyone but administrators from its bytes."""
    _set_status(tx, image_id, "deactivated", {"active", "deactivated"})


def reactivate(tx: Connection, image_id: str) -> None:
    _set_status(tx, image_id, "active", {"active", "deactivated"})


# ------------------------------------------------------------------------------------------------ who sees what
def may_see(context: Context) -> ColumnElement[bool]:
    """Whether an image exists for the caller when it asks by id."""
    if context.is_admin:
        return images.c.id.is_not(None)
    shared = and_(images.c.visibility == "shared", _is_member(context))
    return or_(images.c.visibility.in_(["public", "community"]), images.c.project_id == context.project_id, shared)


def _is_member(context: Context) -> ColumnElement[bool]:
    return exists().where(
        image_members.c.image_id == images.c.id, image_members.c.project_id == (context.project_id or "")
    )


# ------------------------------------------------------------------------------------------------ rules
def _check_may_set(context: Context, name: str, value: Any) -> None:
    if name in READ_ONLY:
        raise Forbidden(f"Attribute '{name}' is read-only.")
    if name in RESERVED or name.startswith(RESERVED_PREFIX):
        raise Forbidden(f"Attribute '{name}' is reserved.")
    if context.is_admin:
        return
    if name == "visibility" and value == "public":
        raise Forbidden("visibility: only an administrator makes an image public; use shared or community")
    if name == "owner" and value != context.project_id:
        raise Forbidden("owner: only an administrator gives an image to another project")


def _checked(name: str, value: Any) -> Any:
    """An attribute's value as its column keeps it. Raises `BadRequest` that names the attribute."""
    match name:
        case "protected" | "os_hidden":
            valid = isinstance(value, bool)
        case "min_disk" | "min_ram":
            valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_NUMBER
        case "visibility":
            valid = value in VISIBILITIES
        case "disk_format":
            valid = value is None or value in DISK_FORMATS
        case "container_format":
            valid = value is None or value in CONTAINER_FORMATS
        case "tags":
            valid = isinstance(value, list) and all(isinstance(tag, str) and _is_text(tag, 255) for tag in value)
            value = list(dict.fromkeys(value)) if valid else value
        case "owner":
            valid = isinstance(value, str) and 0 < len(value) <= 36 and _is_text(value, 36)
        case _:
            valid = value is None or (isinstance(value, str) and _is_text(value, 255))
    if not valid:
        raise BadRequest(f"{name}: {str(value)[:80]!r} is not a valid value")
    return value


def _checked_property(name: str, value: Any) -> str:
    if not name or not _is_text(name, 255):
        raise BadRequest(f"property '{name[:80]}': a name has 1 to 255 characters")
    if not isinstance(value, str):
        raise BadRequest(f"property {name}: {str(value)[:80]!r} is not a string")
    if not _is_text(value, 65535):
        raise BadRequest(f"property {name}: a value has at most 65535 characters")
    return value


def _is_text(value: str, most: int) -> bool:
    return len(value) <= most and "\x00" not in value


def _check_counts(properties: Mapping[str, str], tags: Sequence[str]) -> None:
    if len(properties) > MOST_PROPERTIES:
        raise TooLarge(f"an image has at most {MOST_PROPERTIES} properties")
    if len(tags) > MOST_TAGS:
        raise TooLarge(f"an image has at most {MOST_TAGS} tags")


def _set_status(tx: Connection, image_id: str, status: str, from_: set[str]) -> None:
    row = tx.execute(select(images.c.status).where(images.c.id == image_id)).one_or_none()
    if row is None:
        raise NotFound(f"No image found with ID {image_id[:80]}")
    if row.status not in from_:
        raise Forbidden(f"image {image_id} is {row.status}: only an active image can be deactivated or reactivated")
    if row.status != status:
        tx.execute(update(images).where(images.c.id == image_id).values(status=status))


def _load(tx: Connection, image_id: str) -> Image:
    return of_row(tx.execute(select(images).where(images.c.id == image_id)).one())


def of_row(row: Row[Any]) -> Image:
    values = dict(row._mapping)
    return Image(**{**values, "tags": tuple(values["tags"])})
