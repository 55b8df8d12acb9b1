"""Images and members as the image API renders them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from kilonova.cloud.image_members import Member
from kilonova.cloud.images import Image

STORE = "objects"
"""The name of the one store of bytes that this cloud has."""


def image(row: Image) -> dict[str, Any]:
    """An image; its properties stand beside the attributes and never hide one.

    The attribute `stores` is left out: openstacksdk would send it back with every update, where it is read-only.
    """
    document: dict[str, Any] = dict(row.properties)
    document |= {
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "visibility": row.visibility,
        "owner": row.project_id,
        "disk_format": row.disk_format,
        "container_format": row.container_format,
        "size": row.size_bytes,
        "virtual_size": row.virtual_size_bytes,
        "checksum": row.checksum,
        "os_hash_algo": row.hash_algorithm,
        "os_hash_value": row.hash_value,
        "os_hidden": row.hidden,
        "protected": row.protected,
        "min_disk": row.min_disk_gb,
        "min_ram": row.min_ram_mb,
        "tags": list(row.tags),
        "created_at": time(row.created_at),
        "updated_at": time(row.updated_at),
        "self": f"/v2/images/{row.id}",
        "file": f"/v2/images/{row.id}/file",
        "schema": "/v2/schemas/image",
    }
    return document


def member(row: Member) -> dict[str, Any]:
    return {
        "image_id": row.image_id,
        "member_id": row.project_id,
        "status": row.status,
        "created_at": time(row.created_at),
        "updated_at": time(row.updated_at),
        "schema": "/v2/schemas/member",
    }


def time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
