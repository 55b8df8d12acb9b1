"""Sharing: the projects that an image of visibility `shared` is offered to, and whether they took it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from kilonova.cloud import images
from kilonova.cloud.images import Image
from kilonova.context import Context
from kilonova.errors import AlreadyExists, BadRequest, Forbidden, NotFound, TooLarge
from kilonova.store.schema import image_members

STATUSES = ("pending", "accepted", "rejected")
MOST_MEMBERS = 128


@dataclass(frozen=True)
class Member:
    image_id: str
    project_id: str
    status: str
    created_at: datetime
    updated_at: datetime


def add(tx: Connection, context: Context, image_id: str, project_id: str) -> Member:
    """Offer an image to a project. Raises `Forbidden` unless it is shared, `AlreadyExists`."""
    image = _shared(images.get_own(tx, context, image_id))
    if not project_id or len(project_id) > 36 or "\x00" in project_id:
        raise BadRequest("member: a project's id is needed")
    present = tx.execute(select(image_members.c.project_id).where(image_members.c.image_id == image.id)).all()
    if len(present) >= MOST_MEMBERS:
        raise TooLarge(f"image {image_id} is shared with {MOST_MEMBERS} projects, which is the most")
    try:
        tx.execute(insert(image_members).values(image_id=image.id, project_id=project_id))
    except IntegrityError:
        raise AlreadyExists(f"image {image_id} is shared with project {project_id} already") from None
    return _get(tx, image.id, project_id)


def list_(tx: Connection, context: Context, image_id: str) -> list[Member]:
    """All members for the owner; for a member only itself."""
    image = _shared(images.get(tx, context, image_id))
    query = select(image_members).where(image_members.c.image_id == image.id).order_by(image_members.c.created_at)
    if not _owns(context, image):
        query = query.where(image_members.c.project_id == context.project_id)
    return [Member(**row._mapping) for row in tx.execute(query)]


def get(tx: Connection, context: Context, image_id: str, project_id: str) -> Member:
    image = images.get(tx, context, image_id)
    if not _owns(context, image) and project_id != context.project_id:
        raise NotFound(f"image {image_id} has no member {project_id[:80]}")
    return _get(tx, image.id, project_id)


def set_status(tx: Connection, context: Context, image_id: str, project_id: str, status: str) -> Member:
    """Take or refuse an offer: only the project itself decides."""
    if status not in STATUSES:
        raise BadRequest(f"status: '{status[:40]}' is none of {', '.join(STATUSES)}")
    member = get(tx, context, image_id, project_id)
    if not context.is_admin and project_id != context.project_id:
        raise Forbidden(f"only project {project_id} itself accepts or rejects image {image_id}")
    where = (image_members.c.image_id == member.image_id, image_members.c.project_id == project_id)
    tx.execute(update(image_members).where(*where).values(status=status))
    return _get(tx, image_id, project_id)


def remove(tx: Connection, context: Context, image_id: str, project_id: str) -> None:
    image = _shared(images.get_own(tx, context, image_id))
    _get(tx, image.id, project_id)
    tx.execute(
        delete(image_members).where(image_members.c.image_id == image.id, image_members.c.project_id == project_id)
    )


def _shared(image: Image) -> Image:
    if image.visibility != "shared":
        raise Forbidden(f"image {image.id} is {image.visibility}: only an image of visibility shared has members")
    return image


def _owns(context: Context, image: Image) -> bool:
    return context.is_admin or image.project_id == context.project_id


def _get(tx: Connection, image_id: str, project_id: str) -> Member:
    row = tx.execute(
        select(image_members).where(image_members.c.image_id == image_id, image_members.c.project_id == project_id)
    ).one_or_none()
    if row is None:
        raise NotFound(f"image {image_id} has no member {project_id[:80]}")
    return Member(**row._mapping)
