"""Flavors: the sizes of instances, who may use them, their extra specs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from kilonova.context import Context
from kilonova.errors import AlreadyExists, Conflict, NotFound
from kilonova.ids import new_id
from kilonova.store import statements
from kilonova.store.paging import Page, SortKey, paged
from kilonova.store.schema import flavor_access, flavors

DEFAULTS: tuple[tuple[str, str, int, int, int], ...] = (
    ("42", "m1.nano", 1, 128, 1),
    ("1", "m1.tiny", 1, 512, 1),
    ("2", "m1.small", 1, 2048, 20),
    ("3", "m1.medium", 2, 4096, 40),
    ("4", "m1.large", 4, 8192, 80),
)
"""id, name, vCPUs, RAM in MB, root disk in GB of the flavors that a new cloud has."""

_SORT_COLUMNS = {
    "flavorid": "id",
    "id": "id",
    "name": "name",
    "memory_mb": "ram_mb",
    "vcpus": "vcpus",
    "root_gb": "disk_gb",
    "ephemeral_gb": "ephemeral_gb",
    "swap": "swap_mb",
    "created_at": "created_at",
    "is_public": "is_public",
    "rxtx_factor": "rxtx_factor",
}


@dataclass(frozen=True)
class NewFlavor:
    name: str
    ram_mb: int
    vcpus: int
    disk_gb: int
    id: str | None = None
    description: str | None = None
    ephemeral_gb: int = 0
    swap_mb: int = 0
    rxtx_factor: float = 1.0
    is_public: bool = True


@dataclass(frozen=True)
class FlavorFilter:
    """Which flavors to list; `is_public` none: the public ones and those of the caller's project."""

    is_public: bool | None = True
    every: bool = False
    """An administrator asked for public and private ones."""
    min_disk_gb: int | None = None
    min_ram_mb: int | None = None


def ensure_defaults(tx: Connection) -> None:
    """Make the default flavors if the cloud has none at all."""
    if tx.execute(select(flavors.c.id).limit(1)).first() is not None:
        return
    for flavor_id, name, vcpus, ram_mb, disk_gb in DEFAULTS:
        create_flavor(tx, NewFlavor(name=name, ram_mb=ram_mb, vcpus=vcpus, disk_gb=disk_gb, id=flavor_id))


def create_flavor(tx: Connection, new: NewFlavor) -> RowMapping:
    """Raises `AlreadyExists` naming the id or name that is taken."""
    flavor_id = new.id or new_id()
    taken = tx.execute(
        select(flavors.c.id, flavors.c.name).where(or_(flavors.c.id == flavor_id, flavors.c.name == new.name))
    ).first()
    if taken is not None:
        what = f"ID {flavor_id}" if taken.id == flavor_id else f"name {new.name}"
        raise AlreadyExists(f"Flavor with {what} already exists.")
    tx.execute(
        insert(flavors).values(
            id=flavor_id,
            name=new.name,
            description=new.description,
            ram_mb=new.ram_mb,
            vcpus=new.vcpus,
            disk_gb=new.disk_gb,
            ephemeral_gb=new.ephemeral_gb,
            swap_mb=new.swap_mb,
            rxtx_factor=new.rxtx_factor,
            is_public=new.is_public,
        )
    )
    return _row(tx, flavor_id)


def _row(tx: Connection, flavor_id: str) -> RowMapping:
    row = statements.rows(tx, flavors, id=flavor_id).mappings().one_or_none()
    if row is None:
        raise NotFound(f"Flavor {flavor_id} could not be found.")
    return row


def visible_flavor(tx: Connection, context: Context, flavor_id: str) -> RowMapping:
    """A flavor that the caller may see and use. Raises `NotFound`."""
    row = _row(tx, flavor_id)
    if not row["is_public"] and not context.is_admin:
        granted = select(flavor_access).where(
            flavor_access.c.flavor_id == flavor_id, flavor_access.c.project_id == context.project_id
        )
        if tx.execute(granted).first() is None:
            raise NotFound(f"Flavor {flavor_id} could not be found.")
    return row


def list_flavors(tx: Connection, context: Context, which: FlavorFilter, page: Page) -> list[RowMapping]:
    query: Select[Any] = select(flavors)
    if not which.every:
        granted = select(flavor_access.c.flavor_id).where(flavor_access.c.project_id == context.project_id)
        if which.is_public is None or which.is_public:
            query = query.where(or_(flavors.c.is_public.is_(True), flavors.c.id.in_(granted)))
        else:
            query = query.where(flavors.c.is_public.is_(False))
    if which.min_disk_gb is not None:
        query = query.where(flavors.c.disk_gb >= which.min_disk_gb)
    if which.min_ram_mb is not None:
        query = query.where(flavors.c.ram_mb >= which.min_ram_mb)
    sort = tuple(SortKey(_SORT_COLUMNS.get(key.column, key.column), key.descending) for key in page.sort)
    page = Page(limit=page.limit, marker=page.marker, sort=sort)
    return [row._mapping for row in paged(tx, query, flavors, page, default=[SortKey("id")])]


def delete_flavor(tx: Connection, flavor_id: str) -> None:
    """Instances keep what they were made from. Raises `NotFound`."""
    if not tx.execute(delete(flavors).where(flavors.c.id == flavor_id)).rowcount:
        raise NotFound(f"Flavor {flavor_id} could not be found.")


def describe_flavor(tx: Connection, flavor_id: str, description: str | None) -> RowMapping:
    tx.execute(update(flavors).where(flavors.c.id == flavor_id).values(description=description))
    return _row(tx, flavor_id)


def extra_specs(tx: Connection, context: Context, flavor_id: str) -> dict[str, str]:
    return dict(visible_flavor(tx, context, flavor_id)["extra_specs"])


def set_extra_specs(tx: Connection, flavor_id: str, specs: dict[str, str]) -> dict[str, str]:
    """Add or replace some."""
    every = dict(_row(tx, flavor_id)["extra_specs"]) | specs
    tx.execute(update(flavors).where(flavors.c.id == flavor_id).values(extra_specs=every))
    return every


def delete_extra_spec(tx: Connection, flavor_id: str, key: str) -> None:
    specs = dict(_row(tx, flavor_id)["extra_specs"])
    if specs.pop(key, None) is None:
        raise NotFound(f"Flavor {flavor_id} has no extra specs with key {key}.")
    tx.execute(update(flavors).where(flavors.c.id == flavor_id).values(extra_specs=specs))


def access_list(tx: Connection, flavor_id: str) -> list[str]:
    """The projects that may use a private flavor. Raises `NotFound` for a public one, as nova does."""
    if _row(tx, flavor_id)["is_public"]:
        raise NotFound("Access list not available for public flavors.")
    query = select(flavor_access.c.project_id).where(flavor_access.c.flavor_id == flavor_id)
    return list(tx.execute(query.order_by(flavor_access.c.project_id)).scalars())


def add_access(tx: Connection, flavor_id: str, project_id: str, *, refuse_public: bool) -> list[str]:
    if _row(tx, flavor_id)["is_public"] and refuse_public:
        raise Conflict("Can not add access to a public flavor.")
    try:
        tx.execute(insert(flavor_access).values(flavor_id=flavor_id, project_id=project_id))
    except IntegrityError:
        raise AlreadyExists(
            f"Flavor access already exists for flavor {flavor_id} and project {project_id} combination."
        ) from None
    return _projects(tx, flavor_id)


def remove_access(tx: Connection, flavor_id: str, project_id: str) -> list[str]:
    _row(tx, flavor_id)
    gone = tx.execute(
        delete(flavor_access).where(flavor_access.c.flavor_id == flavor_id, flavor_access.c.project_id == project_id)
    )
    if not gone.rowcount:
        raise NotFound(f"Flavor access not found for {flavor_id} / {project_id} combination.")
    return _projects(tx, flavor_id)


def _projects(tx: Connection, flavor_id: str) -> list[str]:
    query = select(flavor_access.c.project_id).where(flavor_access.c.flavor_id == flavor_id)
    return list(tx.execute(query.order_by(flavor_access.c.project_id)).scalars())
