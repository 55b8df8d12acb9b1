"""Finding and loading servers: filters, order, pages, and everything a list shows in a fixed number of queries."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, Text, and_, cast, exists, or_, select, tuple_

from kilonova.cloud.server_status import states_of
from kilonova.context import Context
from kilonova.errors import BadRequest, NotFound
from kilonova.scheduler.host_state import is_alive
from kilonova.store.paging import Page, SortKey, paged
from kilonova.store.schema import (
    addresses,
    floating_ips,
    instance_faults,
    instances,
    networks,
    now,
    port_security_groups,
    ports,
    security_groups,
    services,
    subnets,
)

SORT_COLUMNS = {
    "access_ip_v4": "access_ip_v4",
    "access_ip_v6": "access_ip_v6",
    "availability_zone": "availability_zone",
    "config_drive": "config_drive",
    "created_at": "created_at",
    "display_description": "description",
    "display_name": "name",
    "host": "host",
    "hostname": "hostname",
    "image_ref": "image_id",
    "instance_type_id": "flavor_id",
    "key_name": "key_name",
    "launch_index": "launch_index",
    "launched_at": "launched_at",
    "locked_by": "locked",
    "node": "host",
    "power_state": "power_state",
    "progress": "progress",
    "project_id": "project_id",
    "task_state": "task_state",
    "updated_at": "updated_at",
    "user_id": "user_id",
    "uuid": "id",
    "vm_state": "vm_state",
}
"""The sort keys of the API and the columns they mean."""


@dataclass(frozen=True)
class ServerFilter:
    """Which servers; empty: those of the caller's project."""

    all_projects: bool = False
    project_id: str | None = None
    user_id: str | None = None
    name: str | None = None
    statuses: Sequence[str] = ()
    image_id: str | None = None
    flavor_id: str | None = None
    host: str | None = None
    ip: str | None = None
    ip6: str | None = None
    changes_since: datetime | None = None
    changes_before: datetime | None = None
    tags: Sequence[str] = ()
    tags_any: Sequence[str] = ()
    not_tags: Sequence[str] = ()
    not_tags_any: Sequence[str] = ()
    locked: bool | None = None
    ids: Sequence[str] = ()
    equal: dict[str, Any] = field(default_factory=dict)
    """Further columns of `instances` and the value each must have."""
    nothing: bool = False
    """A filter that no server can pass: deleted servers are not kept."""


@dataclass(frozen=True)
class ServerAddress:
    network: str
    address: str
    version: int
    mac: str
    kind: str
    """fixed | floating"""


@dataclass(frozen=True)
class ServerRecord:
    """One server with what belongs to it."""

    row: RowMapping
    addresses: Sequence[ServerAddress] = ()
    groups: Sequence[str] = ()
    fault: RowMapping | None = None
    host_status: str = ""


def get_instance(tx: Connection, context: Context, instance_id: str, *, lock: bool = False) -> RowMapping:
    """The row of an instance that the caller may see. Raises `NotFound`."""
    query = select(instances).where(instances.c.id == instance_id)
    if not context.is_admin:
        query = query.where(instances.c.project_id == context.project_id)
    row = tx.execute(query.with_for_update() if lock else query).mappings().one_or_none()
    if row is None:
        raise NotFound(f"Instance {instance_id} could not be found.")
    return row


def show_server(tx: Connection, context: Context, instance_id: str) -> ServerRecord:
    """Raises `NotFound`."""
    return _records(tx, [get_instance(tx, context, instance_id)])[0]


def list_servers(tx: Connection, context: Context, which: ServerFilter, page: Page) -> list[ServerRecord]:
    """Servers with all that belongs to them; the newest first unless the page says otherwise."""
    return _records(tx, list_rows(tx, context, which, page))


def list_rows(tx: Connection, context: Context, which: ServerFilter, page: Page) -> list[RowMapping]:
    """Only the rows. Raises `BadRequest` for an unknown marker."""
    if which.nothing:
        return []
    query: Select[Any] = select(instances).where(*_conditions(context, which))
    sort = tuple(SortKey(SORT_COLUMNS.get(key.column, key.column), key.descending) for key in page.sort)
    if page.marker is not None:
        try:
            get_instance(tx, context, page.marker)
        except NotFound:
            raise BadRequest(f"marker [{page.marker}] not found") from None
    page = Page(limit=page.limit, marker=page.marker, sort=sort)
    rows = paged(tx, query, instances, page, default=[SortKey("created_at", True), SortKey("id", True)])
    return [row._mapping for row in rows]


def _conditions(context: Context, which: ServerFilter) -> Iterable[ColumnElement[bool]]:
    columns = instances.c
    if which.project_id is not None and context.is_admin:
        yield columns.project_id == which.project_id
    elif not (which.all_projects and context.is_admin):
        yield columns.project_id == context.project_id
    for column, value in (
        (columns.user_id, which.user_id),
        (columns.image_id, which.image_id),
        (columns.flavor_id, which.flavor_id),
        (columns.host, which.host),
        (columns.locked, which.locked),
    ):
        if value is not None:
            yield column == value
    for name, value in which.equal.items():
        yield columns[name] == value
    if which.ids:
        yield columns.id.in_(which.ids)
    if which.name is not None:
        yield columns.name.ilike(like_pattern(which.name), escape="\\")
    if which.statuses:
        yield or_(*(_has_status(status) for status in which.statuses))
    for version, text in ((4, which.ip), (6, which.ip6)):
        if text is not None:
            yield _has_address(text, version)
    if which.changes_since is not None:
        yield columns.updated_at >= which.changes_since
    if which.changes_before is not None:
        yield columns.updated_at <= which.changes_before
    yield from (_has_tag(tag) for tag in which.tags)
    if which.tags_any:
        yield or_(*(_has_tag(tag) for tag in which.tags_any))
    if which.not_tags:
        yield ~and_(*(_has_tag(tag) for tag in which.not_tags))
    yield from (~_has_tag(tag) for tag in which.not_tags_any)


def _has_status(status: str) -> ColumnElement[bool]:
    plain, excluded, pairs = states_of(status)
    state = tuple_(instances.c.vm_state, instances.c.task_state)
    ways: list[ColumnElement[bool]] = []
    if plain:
        clean = instances.c.vm_state.in_(plain)
        tasks = sorted({task for _, task in excluded})
        busy = or_(instances.c.task_state.is_(None), instances.c.task_state.not_in(tasks))
        ways.append(and_(clean, busy) if tasks else clean)
    if pairs:
        ways.append(state.in_(pairs))
    return or_(*ways) if ways else instances.c.id.is_(None)


def _has_address(text: str, version: int) -> ColumnElement[bool]:
    return exists().where(
        ports.c.device_id == instances.c.id,
        addresses.c.port_id == ports.c.id,
        subnets.c.id == addresses.c.subnet_id,
        subnets.c.ip_version == version,
        addresses.c.address.ilike(like_pattern(text), escape="\\"),
    )


def _has_tag(tag: str) -> ColumnElement[bool]:
    """Tags are a JSON list of words without commas or slashes: a tag's JSON form is found in it as text."""
    quoted = json.dumps(tag).replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return cast(instances.c.tags, Text).like(f"%{quoted}%", escape="\\")


def like_pattern(expression: str) -> str:
    """The clients' regular expression as a LIKE pattern: anchors, `.` and `.*`; anything else is taken literally."""
    starts, ends = expression.startswith("^"), expression.endswith("$") and not expression.endswith("\\$")
    body = expression[1 if starts else 0 : -1 if ends else None]
    out: list[str] = []
    position = 0
    while position < len(body):
        letter = body[position]
        if body.startswith((".*", ".+"), position):
            out.append("%" if body[position + 1] == "*" else "_%")
            position += 2
            continue
        if letter == "\\" and position + 1 < len(body):
            position += 1
            letter = body[position]
        elif letter == ".":
            out.append("_")
            position += 1
            continue
        out.append(f"\\{letter}" if letter in "%_\\" else letter)
        position += 1
    return ("" if starts else "%") + "".join(out) + ("" if ends else "%")


def _records(tx: Connection, rows: Sequence[RowMapping]) -> list[ServerRecord]:
    ids = [row["id"] for row in rows]
    if not ids:
        return []
    found = _addresses(tx, ids)
    groups = _groups(tx, ids)
    faults = _faults(tx, [row["id"] for row in rows if row["vm_state"] == "error"])
    hosts = _host_status(tx)
    return [
        ServerRecord(
            row=row,
            addresses=found.get(row["id"], ()),
            groups=groups.get(row["id"], ()),
            fault=faults.get(row["id"]),
            host_status=hosts.get(row["host"], "UNKNOWN") if row["host"] else "",
        )
        for row in rows
    ]


def _addresses(tx: Connection, ids: Sequence[str]) -> dict[str, list[ServerAddress]]:
    query = (
        select(
            ports.c.device_id,
            ports.c.mac,
            ports.c.id,
            networks.c.name,
            addresses.c.address,
            floating_ips.c.address.label("floating"),
        )
        .join(networks, networks.c.id == ports.c.network_id)
        .join(addresses, addresses.c.port_id == ports.c.id)
        .outerjoin(
            floating_ips,
            and_(
                floating_ips.c.fixed_port_id == addresses.c.port_id,
                floating_ips.c.fixed_address == addresses.c.address,
            ),
        )
        .where(ports.c.device_id.in_(ids))
        .order_by(ports.c.position, ports.c.created_at, addresses.c.address)
    )
    found: defaultdict[str, list[ServerAddress]] = defaultdict(list)
    for device, mac, _port, network, address, floating in tx.execute(query).all():
        version = 6 if ":" in address else 4
        found[device].append(ServerAddress(network, address, version, mac, "fixed"))
        if floating is not None:
            found[device].append(ServerAddress(network, floating, 6 if ":" in floating else 4, mac, "floating"))
    return found


def _groups(tx: Connection, ids: Sequence[str]) -> dict[str, list[str]]:
    query = (
        select(ports.c.device_id, security_groups.c.name)
        .join(port_security_groups, port_security_groups.c.port_id == ports.c.id)
        .join(security_groups, security_groups.c.id == port_security_groups.c.security_group_id)
        .where(ports.c.device_id.in_(ids))
        .order_by(security_groups.c.name)
    )
    found: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for device, name in tx.execute(query).all():
        found[device][name] = None
    return {device: list(names) for device, names in found.items()}


def _faults(tx: Connection, ids: Sequence[str]) -> dict[str, RowMapping]:
    """The newest fault of each."""
    if not ids:
        return {}
    query = select(instance_faults).where(instance_faults.c.instance_id.in_(ids))
    newest_last = tx.execute(query.order_by(instance_faults.c.created_at)).mappings()
    return {fault["instance_id"]: fault for fault in newest_last}


def _host_status(tx: Connection) -> dict[str, str]:
    moment = now()
    status: dict[str, str] = {}
    for row in tx.execute(select(services).where(services.c.kind == "compute")):
        alive = is_alive(row.seen_at, row.forced_down, moment)
        status[row.host] = (
            "DOWN" if row.forced_down else "MAINTENANCE" if not row.enabled else "UP" if alive else "UNKNOWN"
        )
    return status
