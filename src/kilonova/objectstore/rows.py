"""The rows of containers and objects: units of work on the store, without any thought of HTTP or files.

A write answers the names of the blobs that no row needs any more, for the caller to remove after the commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from kilonova.errors import Conflict, NotFound, PreconditionFailed
from kilonova.store.schema import containers, now, objects

PAGE = 1000
"""How many names one query of a delimited listing reads."""


@dataclass(frozen=True)
class ObjectRow:
    name: str
    size_bytes: int
    etag: str
    content_type: str
    blob: str
    metadata: dict[str, str]
    updated_at: datetime


@dataclass(frozen=True)
class ContainerRow:
    name: str
    metadata: dict[str, str]
    objects: int
    bytes_used: int
    created_at: datetime


@dataclass(frozen=True)
class Prefix:
    """A pseudo-directory of a delimited listing."""

    name: str


@dataclass(frozen=True)
class Listing:
    """Which part of a listing."""

    limit: int
    marker: str = ""
    end_marker: str = ""
    prefix: str = ""
    delimiter: str = ""
    reverse: bool = False


# ------------------------------------------------------------------------------------------------ containers
def put_container(tx: Connection, account: str, name: str, metadata: dict[str, str | None]) -> bool:
    """Create a container, or change an existing one's metadata (None removes); whether it was created."""
    found = tx.execute(_container(account, name)).one_or_none()
    if found is None:
        kept = {key: value for key, value in metadata.items() if value is not None}
        tx.execute(insert(containers).values(account=account, name=name, metadata=kept))
        return True
    _merge(tx, account, name, found.metadata, metadata)
    return False


def post_container(tx: Connection, account: str, name: str, metadata: dict[str, str | None]) -> None:
    _merge(tx, account, name, _need_container(tx, account, name).metadata, metadata)


def delete_container(tx: Connection, account: str, name: str) -> None:
    """Raises `NotFound`, or `Conflict` when it still holds objects."""
    _need_container(tx, account, name)
    if tx.execute(select(objects.c.name).where(*_in(account, name)).limit(1)).first() is not None:
        raise Conflict(f"container {name} is not empty: delete its objects first")
    tx.execute(delete(containers).where(containers.c.account == account, containers.c.name == name))


def show_container(tx: Connection, account: str, name: str) -> ContainerRow:
    row = _need_container(tx, account, name)
    count, used = tx.execute(
        select(func.count(), func.coalesce(func.sum(objects.c.size_bytes), 0)).where(*_in(account, name))
    ).one()
    return ContainerRow(name, dict(row.metadata), int(count), int(used), row.created_at)


def list_containers(tx: Connection, account: str, listing: Listing) -> list[ContainerRow]:
    """The containers of an account with their totals, by name."""
    query = (
        select(
            containers.c.name,
            containers.c.metadata,
            containers.c.created_at,
            func.count(objects.c.name).label("objects"),
            func.coalesce(func.sum(objects.c.size_bytes), 0).label("used"),
        )
        .select_from(
            containers.outerjoin(
                objects, (objects.c.account == containers.c.account) & (objects.c.container == containers.c.name)
            )
        )
        .where(containers.c.account == account)
        .group_by(containers.c.account, containers.c.name)
    )
    query = _bounded(query, containers.c.name, listing)
    return [
        ContainerRow(row.name, dict(row.metadata), int(row.objects), int(row.used), row.created_at)
        for row in tx.execute(query.limit(listing.limit))
    ]


def account_totals(tx: Connection, account: str) -> tuple[int, int, int]:
    """How many containers and objects an account has, and their bytes."""
    held = tx.execute(select(func.count()).select_from(containers).where(containers.c.account == account)).scalar_one()
    count, used = tx.execute(
        select(func.count(), func.coalesce(func.sum(objects.c.size_bytes), 0)).where(objects.c.account == account)
    ).one()
    return int(held), int(count), int(used)


# ------------------------------------------------------------------------------------------------ objects
def put_object(tx: Connection, account: str, container: str, row: ObjectRow, *, only_new: bool) -> str | None:
    """Name a durable blob; the blob it replaces, if any.

    Raises `NotFound` without such a container, `PreconditionFailed` when `only_new` and the object is there.
    """
    _need_container(tx, account, container)
    replaced = tx.execute(select(objects.c.blob).where(*_at(account, container, row.name))).scalar_one_or_none()
    if replaced is not None and only_new:
        raise PreconditionFailed(f"object {row.name} exists already")
    values = {
        "size_bytes": row.size_bytes,
        "etag": row.etag,
        "content_type": row.content_type,
        "blob": row.blob,
        "metadata": row.metadata,
        "updated_at": row.updated_at,
    }
    if replaced is None:
        tx.execute(insert(objects).values(account=account, container=container, name=row.name, **values))
    else:
        tx.execute(update(objects).where(*_at(account, container, row.name)).values(**values))
    return replaced


def may_put_object(tx: Connection, account: str, container: str, name: str, *, only_new: bool) -> None:
    """Refuse before the bytes come what `put_object` would refuse after them."""
    _need_container(tx, account, container)
    if only_new and tx.execute(select(objects.c.blob).where(*_at(account, container, name))).first() is not None:
        raise PreconditionFailed(f"object {name} exists already")


def post_object(
    tx: Connection, account: str, container: str, name: str, metadata: dict[str, str], content_type: str | None
) -> None:
    """Replace an object's metadata."""
    found = get_object(tx, account, container, name)
    tx.execute(
        update(objects)
        .where(*_at(account, container, name))
        .values(metadata=metadata, content_type=content_type or found.content_type, updated_at=now())
    )


def get_object(tx: Connection, account: str, container: str, name: str) -> ObjectRow:
    row = tx.execute(select(objects).where(*_at(account, container, name))).one_or_none()
    if row is None:
        raise NotFound(f"object {container}/{name} could not be found in {account}")
    return _object(row)


def delete_object(tx: Connection, account: str, container: str, name: str) -> str:
    """Forget an object; its blob."""
    blob = get_object(tx, account, container, name).blob
    tx.execute(delete(objects).where(*_at(account, container, name)))
    return blob


def list_objects(tx: Connection, account: str, container: str, listing: Listing) -> list[ObjectRow | Prefix]:
    """The objects of a container by name; with a delimiter, names below a pseudo-directory fold into one entry."""
    _need_container(tx, account, container)
    base = select(objects).where(*_in(account, container))
    if not listing.delimiter:
        return [_object(row) for row in tx.execute(_bounded(base, objects.c.name, listing).limit(listing.limit))]
    return _folded(tx, base, listing)


def _folded(tx: Connection, base: Any, listing: Listing) -> list[ObjectRow | Prefix]:
    found: list[ObjectRow | Prefix] = []
    query = _bounded(base, objects.c.name, listing)
    while len(found) < listing.limit:
        rows = tx.execute(query.limit(PAGE)).all()
        last: Prefix | None = None
        for row in rows:
            if len(found) >= listing.limit:
                break
            cut = row.name.find(listing.delimiter, len(listing.prefix))
            if cut < 0:
                found.append(_object(row))
                last = None
                continue
            folded = Prefix(row.name[: cut + len(listing.delimiter)])
            if folded != last:
                last = folded
                if folded.name != listing.marker:
                    found.append(folded)
        if len(rows) < PAGE:
            break
        name = objects.c.name
        query = _bounded(base, name, listing)
        if listing.reverse:
            query = query.where(name < (rows[-1].name if last is None else last.name))
        else:
            query = query.where(name > rows[-1].name if last is None else name >= _beyond(last.name))
    return found


def _beyond(prefix: str) -> str:
    """The least name after all that begin with the prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


# ------------------------------------------------------------------------------------------------ orphans
def unnamed_blobs(tx: Connection, names: Sequence[str]) -> list[str]:
    """Those of the given blobs that no row names."""
    named: set[str] = set()
    for begin in range(0, len(names), 500):
        named.update(tx.execute(select(objects.c.blob).where(objects.c.blob.in_(names[begin : begin + 500]))).scalars())
    return [name for name in names if name not in named]


def _object(row: Row[Any]) -> ObjectRow:
    return ObjectRow(
        row.name, row.size_bytes, row.etag, row.content_type, row.blob, dict(row._mapping["metadata"]), row.updated_at
    )


def _container(account: str, name: str) -> Any:
    return select(containers).where(containers.c.account == account, containers.c.name == name)


def _need_container(tx: Connection, account: str, name: str) -> Row[Any]:
    row = tx.execute(_container(account, name)).one_or_none()
    if row is None:
        raise NotFound(f"container {name} could not be found in {account}")
    return row


def _merge(tx: Connection, account: str, name: str, present: dict[str, str], changes: dict[str, str | None]) -> None:
    if not changes:
        return
    merged = {**present, **changes}
    kept = {key: value for key, value in merged.items() if value is not None}
    tx.execute(
        update(containers).where(containers.c.account == account, containers.c.name == name).values(metadata=kept)
    )


def _in(account: str, container: str) -> tuple[Any, ...]:
    return objects.c.account == account, objects.c.container == container


def _at(account: str, container: str, name: str) -> tuple[Any, ...]:
    return *_in(account, container), objects.c.name == name


def _bounded(query: Any, name: Any, listing: Listing) -> Any:
    """Apply marker, end marker, prefix and order to a query over a name column."""
    after, before = (
        (name < listing.marker, name > listing.end_marker)
        if listing.reverse
        else (name > listing.marker, name < listing.end_marker)
    )
    if listing.marker:
        query = query.where(after)
    if listing.end_marker:
        query = query.where(before)
    if listing.prefix:
        query = query.where(name >= listing.prefix, name < _beyond(listing.prefix))
    return query.order_by(name.desc() if listing.reverse else name.asc())
