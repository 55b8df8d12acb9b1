"""JSON schemas of the image API's documents, which clients fetch and validate against."""

from __future__ import annotations

from typing import Any

from kilonova.api.image.registry import registry
from kilonova.api.routing import ApiRequest
from kilonova.auth.policy import Policy
from kilonova.cloud.image_formats import CONTAINER_FORMATS, DISK_FORMATS
from kilonova.cloud.image_members import STATUSES
from kilonova.cloud.images import VISIBILITIES

_UUID = "^([0-9a-fA-F]){8}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){4}-([0-9a-fA-F]){12}$"


def _field(description: str, type_: str | list[str] = "string", **more: Any) -> dict[str, Any]:
    return {"type": type_, "description": description, **more}


def _read_only(description: str, type_: str | list[str] = "string", **more: Any) -> dict[str, Any]:
    return _field(description, type_, readOnly=True, **more)


_OPTIONAL = ["null", "string"]

_IMAGE_FIELDS: dict[str, Any] = {
    "id": _field("An identifier for the image", pattern=_UUID),
    "name": _field("Descriptive name for the image", _OPTIONAL, maxLength=255),
    "status": _read_only(
        "Status of the image",
        enum=["queued", "saving", "uploading", "active", "deactivated"],
    ),
    "visibility": _field("Scope of image accessibility", enum=list(VISIBILITIES)),
    "owner": _field("Owner of the image", _OPTIONAL, maxLength=255),
    "protected": _field("If true, image will not be deletable.", "boolean"),
    "os_hidden": _field("If true, image will not appear in default image list response.", "boolean"),
    "checksum": _read_only("md5 hash of image contents.", _OPTIONAL, maxLength=32),
    "os_hash_algo": _read_only("Algorithm to calculate the os_hash_value", _OPTIONAL, maxLength=64),
    "os_hash_value": _read_only("Hexdigest of the image contents", _OPTIONAL, maxLength=128),
    "size": _read_only("Size of image file in bytes", ["null", "integer"]),
    "virtual_size": _read_only("Virtual size of image in bytes", ["null", "integer"]),
    "disk_format": _field("Format of the disk", _OPTIONAL, enum=[None, *DISK_FORMATS]),
    "container_format": _field("Format of the container", _OPTIONAL, enum=[None, *CONTAINER_FORMATS]),
    "min_disk": _field("Amount of disk space (in GB) required to boot image.", "integer"),
    "min_ram": _field("Amount of ram (in MB) required to boot image.", "integer"),
    "tags": _field("List of strings related to the image", "array", items={"type": "string", "maxLength": 255}),
    "created_at": _read_only("Date and time of image registration"),
    "updated_at": _read_only("Date and time of the last image modification"),
    "self": _read_only("An image self url"),
    "file": _read_only("An image file url"),
    "schema": _read_only("An image schema url"),
    "kernel_id": _field(
        "ID of image stored in Glance that should be used as the kernel.", _OPTIONAL, pattern=_UUID, is_base=False
    ),
    "ramdisk_id": _field(
        "ID of image stored in Glance that should be used as the ramdisk.", _OPTIONAL, pattern=_UUID, is_base=False
    ),
    "os_distro": _field("Common name of operating system distribution", is_base=False),
    "os_version": _field("Operating system version as specified by the distributor.", is_base=False),
    "architecture": _field("Operating system architecture", is_base=False),
}

_MEMBER_FIELDS: dict[str, Any] = {
    "created_at": _field("Date and time of image member creation"),
    "updated_at": _field("Date and time of last modification of image member"),
    "image_id": _field("An identifier for the image", pattern=_UUID),
    "member_id": _field("An identifier for the image member (tenantId)"),
    "status": _field("The status of this image member", enum=list(STATUSES)),
    "schema": _read_only("An image member schema url"),
}

_IMAGE: dict[str, Any] = {
    "name": "image",
    "properties": _IMAGE_FIELDS,
    "additionalProperties": {"type": "string"},
    "links": [
        {"rel": "self", "href": "{self}"},
        {"rel": "enclosure", "href": "{file}"},
        {"rel": "describedby", "href": "{schema}"},
    ],
}
_MEMBER: dict[str, Any] = {"name": "member", "properties": _MEMBER_FIELDS}


def _collection(name: str, items: dict[str, Any], links: list[dict[str, str]]) -> dict[str, Any]:
    properties = {name: {"type": "array", "items": items}, "schema": {"type": "string"}}
    properties |= {link["rel"]: {"type": "string"} for link in links if link["rel"] in {"first", "next"}}
    return {"name": name, "properties": properties, "links": links}


_DESCRIBED = {"rel": "describedby", "href": "{schema}"}
_SCHEMAS: dict[str, dict[str, Any]] = {
    "image": _IMAGE,
    "images": _collection(
        "images", _IMAGE, [{"rel": "first", "href": "{first}"}, {"rel": "next", "href": "{next}"}, _DESCRIBED]
    ),
    "member": _MEMBER,
    "members": _collection("members", _MEMBER, [_DESCRIBED]),
}


@registry.route("GET", "/v2/schemas/image", policy=Policy.AUTHENTICATED)
async def image_schema(_request: ApiRequest) -> dict[str, Any]:
    return _SCHEMAS["image"]


@registry.route("GET", "/v2/schemas/images", policy=Policy.AUTHENTICATED)
async def images_schema(_request: ApiRequest) -> dict[str, Any]:
    return _SCHEMAS["images"]


@registry.route("GET", "/v2/schemas/member", policy=Policy.AUTHENTICATED)
async def member_schema(_request: ApiRequest) -> dict[str, Any]:
    return _SCHEMAS["member"]


@registry.route("GET", "/v2/schemas/members", policy=Policy.AUTHENTICATED)
async def members_schema(_request: ApiRequest) -> dict[str, Any]:
    return _SCHEMAS["members"]
