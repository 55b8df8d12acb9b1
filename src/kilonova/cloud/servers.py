"""Servers: create, update, delete, their metadata and tags. Each function is one transaction's worth of work.

A server is created whole or not at all: quota, image, flavor, key, groups, networks, ports and addresses, the row and
its operation in one transaction; scheduling and starting it come after. What is asked of a server that exists is in
`server_actions`, how servers are found and shown in `server_lists`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, RowMapping, select, update

from kilonova.cloud import limits
from kilonova.cloud.flavors import visible_flavor
from kilonova.cloud.server_lists import get_instance
from kilonova.cloud.server_names import hostname_of, numbered
from kilonova.cloud.server_networks import NetworkChoice, plan_networks, plug
from kilonova.config import Config
from kilonova.context import Context
from kilonova.errors import BadRequest, Conflict, Forbidden, NotFound
from kilonova.ids import new_id
from kilonova.scheduler.agent import TOPIC, host_exists
from kilonova.store import operations, statements
from kilonova.store.instance_rows import begin_action, end_instance, finish_action
from kilonova.store.schema import image_members, images, instances, keypairs, services

GIB = 2**30
BUILD_DEADLINE_S = 600.0
DELETE_DEADLINE_S = 120.0
MOST_TAGS = 50


@dataclass(frozen=True)
class NewServer:
    """What a client asks for; ids and names are still to be checked."""

    name: str
    flavor_id: str
    image_id: str
    networks: NetworkChoice = None
    key_name: str | None = None
    security_groups: Sequence[str] = ()
    user_data: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    config_drive: bool = False
    availability_zone: str | None = None
    host: str | None = None
    description: str | None = None
    tags: Sequence[str] = ()
    disk_config: str = "MANUAL"
    access_ip_v4: str | None = None
    access_ip_v6: str | None = None
    hostname: str | None = None
    min_count: int = 1
    max_count: int = 1


@dataclass(frozen=True)
class Pending:
    """Operations to wake workers for after the commit, and network hosts that have something to see."""

    operations: tuple[tuple[str, str], ...] = ()
    """(topic, operation id)"""
    network_hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Created:
    reservation_id: str
    instance_ids: tuple[str, ...]
    pending: Pending


def create_servers(tx: Connection, context: Context, config: Config, new: NewServer) -> Created:
    """Make the instances of one request, to be scheduled.

    Raises `BadRequest` naming what is unknown or does not fit, `QuotaExceeded`, `Conflict`, `NoMoreAddresses`,
    `NoMoreNetworks`; then nothing is left.
    """
    if context.project_id is None:
        raise Forbidden("A server belongs to a project: authenticate with a project as the scope.")
    flavor = _flavor(tx, context, new.flavor_id)
    image = _usable_image(tx, context, new.image_id)
    _fits(image, flavor)
    count = limits.count_within(
        tx,
        context.project_id,
        least=new.min_count,
        most=new.max_count,
        vcpus=flavor["vcpus"],
        ram_mb=flavor["ram_mb"],
        metadata_items=len(new.metadata),
    )
    zone, host = _placement(tx, context, new)
    key = _key(tx, context, new.key_name)
    plan = plan_networks(tx, context, config, new.networks, new.security_groups)
    if count > 1 and any(nic.fixed_ip or nic.port_id for nic in plan.nics):
        raise BadRequest("A fixed IP or a port can be given to one server only: min_count and max_count must be 1.")
    reservation_id = f"r-{secrets.token_hex(4)}"
    instance_ids: list[str] = []
    started: list[tuple[str, str]] = []
    for index in range(count):
        instance_id = new_id()
        name = numbered(new.name, index, count)
        hostname = numbered(new.hostname, index, count) if new.hostname else hostname_of(name, instance_id)
        statements.add(
            tx,
            instances,
            id=instance_id,
            project_id=context.project_id,
            user_id=context.user_id,
            name=name,
            hostname=hostname,
            description=new.description,
            image_id=image["id"],
            flavor_id=flavor["id"],
            flavor=_kept_flavor(flavor),
            vcpus=flavor["vcpus"],
            ram_mb=flavor["ram_mb"],
            disk_gb=flavor["disk_gb"] + flavor["ephemeral_gb"] + -(-flavor["swap_mb"] // 1024),
            availability_zone=zone,
            key_name=new.key_name,
            public_key=key,
            user_data=new.user_data,
            config_drive=new.config_drive or plan.config_drive,
            disk_config=new.disk_config,
            metadata=dict(new.metadata),
            tags=sorted(set(new.tags)),
            access_ip_v4=new.access_ip_v4,
            access_ip_v6=new.access_ip_v6,
            reservation_id=reservation_id,
            launch_index=index,
            vm_state="building",
            task_state="scheduling",
        )
        plug(tx, context, plan, instance_id, zone or "nova")
        begin_action(tx, instance_id, "create", context)
        operation_id = operations.begin(
            tx,
            "server.create",
            instance_id,
            context=context,
            topic=TOPIC,
            step="schedule",
            deadline_s=BUILD_DEADLINE_S,
            arguments={"host": host} if host else {},
        )
        instance_ids.append(instance_id)
        started.append((TOPIC, operation_id))
    return Created(reservation_id, tuple(instance_ids), Pending(operations=tuple(started)))


def _flavor(tx: Connection, context: Context, flavor_id: str) -> RowMapping:
    try:
        return visible_flavor(tx, context, flavor_id)
    except NotFound as error:
        raise BadRequest(error.message) from None


def _kept_flavor(flavor: RowMapping) -> dict[str, Any]:
    """What the instance remembers of its flavor, whatever becomes of it."""
    return {
        "name": flavor["name"],
        "ram_mb": flavor["ram_mb"],
        "vcpus": flavor["vcpus"],
        "disk_gb": flavor["disk_gb"],
        "ephemeral_gb": flavor["ephemeral_gb"],
        "swap_mb": flavor["swap_mb"],
        "extra_specs": dict(flavor["extra_specs"]),
    }


def _usable_image(tx: Connection, context: Context, image_id: str) -> RowMapping:
    row = statements.rows(tx, images, id=image_id).mappings().one_or_none()
    if row is None or not _may_use(tx, context, row):
        raise BadRequest(f"Can not find requested image: image {image_id} could not be found.")
    if row["status"] != "active":
        raise BadRequest(f"Image {image_id} is not active: its status is {row['status']}.")
    return row


def _may_use(tx: Connection, context: Context, image: RowMapping) -> bool:
    if context.is_admin or image["project_id"] == context.project_id or image["visibility"] in ("public", "community"):
        return True
    member = select(image_members.c.image_id).where(
        image_members.c.image_id == image["id"], image_members.c.project_id == context.project_id
    )
    return image["visibility"] == "shared" and tx.execute(member).first() is not None


def _fits(image: RowMapping, flavor: RowMapping) -> None:
    if flavor["ram_mb"] < image["min_ram_mb"]:
        raise BadRequest(
            f"Flavor's memory is too small for requested image: {flavor['ram_mb']} MB, image {image['id']} "
            f"needs {image['min_ram_mb']} MB."
        )
    disk_gb = flavor["disk_gb"]
    if not disk_gb:
        return
    if disk_gb < image["min_disk_gb"]:
        raise BadRequest(
            f"Flavor's disk is smaller than the minimum size specified in image metadata. Flavor disk is {disk_gb} GB, "
            f"minimum size is {image['min_disk_gb']} GB."
        )
    size_bytes = max(image["size_bytes"] or 0, image["virtual_size_bytes"] or 0)
    if disk_gb * GIB < size_bytes:
        raise BadRequest(
            f"Flavor's disk is too small for requested image. Flavor disk is {disk_gb * GIB} bytes, "
            f"image is {size_bytes} bytes."
        )


def _placement(tx: Connection, context: Context, new: NewServer) -> tuple[str | None, str | None]:
    """The availability zone and host asked for; `zone:host` is for administrators."""
    zone, host = new.availability_zone, new.host
    if zone and ":" in zone:
        if not context.is_admin:
            raise Forbidden("Only an administrator may name a host in availability_zone.")
        zone, _, host = zone.partition(":")
        host = host.partition(":")[0]
    if host and not host_exists(tx, host):
        raise BadRequest(f"Compute host {host} could not be found.")
    if zone:
        query = select(services.c.id).where(services.c.kind == "compute", services.c.availability_zone == zone)
        if tx.execute(query.limit(1)).first() is None:
            raise BadRequest(f"The requested availability zone is not available: {zone}")
    return zone or None, host or None


def _key(tx: Connection, context: Context, name: str | None) -> str | None:
    if name is None:
        return None
    query = select(keypairs.c.public_key).where(keypairs.c.user_id == context.user_id, keypairs.c.name == name)
    public_key: str | None = tx.execute(query).scalar_one_or_none()
    if public_key is None:
        raise BadRequest(f"Invalid key_name provided: key pair {name} not found for user {context.user_id}.")
    return public_key


def update_server(tx: Connection, context: Context, instance_id: str, changes: Mapping[str, Any]) -> None:
    """Change columns of the row that a client may change: name, description, accessIP, disk_config, hostname."""
    get_instance(tx, context, instance_id)
    if changes:
        tx.execute(update(instances).where(instances.c.id == instance_id).values(**changes))


def delete_server(tx: Connection, context: Context, instance_id: str) -> Pending:
    """Delete in any state; what was being done with it is given up. Asking again changes nothing."""
    row = get_instance(tx, context, instance_id, lock=True)
    check_unlocked(context, row)
    if row["task_state"] == "deleting" and operations.running_for(tx, instance_id):
        return Pending()
    operations.cancel_for(tx, instance_id, f"instance {instance_id} was deleted")
    begin_action(tx, instance_id, "delete", context)
    if row["host"] is None:
        hosts = end_instance(tx, instance_id)
        finish_action(tx, instance_id, context.request_id, "compute_terminate_instance")
        return Pending(network_hosts=tuple(hosts))
    tx.execute(update(instances).where(instances.c.id == instance_id).values(task_state="deleting"))
    topic = f"compute.{row['host']}"
    operation_id = operations.begin(
        tx, "server.delete", instance_id, context=context, topic=topic, step="run", deadline_s=DELETE_DEADLINE_S
    )
    return Pending(operations=((topic, operation_id),))


def check_unlocked(context: Context, row: RowMapping) -> None:
    """Raises `Conflict` when the instance is locked and the caller is no administrator."""
    if row["locked"] and not context.is_admin:
        raise Conflict(f"Instance {row['id']} is locked")


def set_metadata(
    tx: Connection, context: Context, instance_id: str, items: Mapping[str, str], *, replace: bool = False
) -> dict[str, str]:
    """Add items to the metadata, or replace all of it; answers all of it."""
    row = get_instance(tx, context, instance_id, lock=True)
    check_unlocked(context, row)
    every = dict(items) if replace else dict(row["metadata"]) | dict(items)
    limits.check_metadata_items(tx, row["project_id"], len(every))
    tx.execute(update(instances).where(instances.c.id == instance_id).values(metadata=every))
    return every


def delete_metadata(tx: Connection, context: Context, instance_id: str, key: str) -> None:
    row = get_instance(tx, context, instance_id, lock=True)
    check_unlocked(context, row)
    every = dict(row["metadata"])
    if every.pop(key, None) is None:
        raise NotFound("Metadata item was not found")
    tx.execute(update(instances).where(instances.c.id == instance_id).values(metadata=every))


def set_tags(tx: Connection, context: Context, instance_id: str, tags: Sequence[str]) -> list[str]:
    """Replace the tags. Raises `BadRequest` for more than 50."""
    row = get_instance(tx, context, instance_id, lock=True)
    check_unlocked(context, row)
    every = sorted(set(tags))
    if len(every) > MOST_TAGS:
        raise BadRequest(f"The number of tags exceeded the per-server limit {MOST_TAGS}")
    tx.execute(update(instances).where(instances.c.id == instance_id).values(tags=every))
    return every


def add_tag(tx: Connection, context: Context, instance_id: str, tag: str) -> bool:
    """False when it was there already."""
    tags = list(get_instance(tx, context, instance_id)["tags"])
    if tag in tags:
        return False
    set_tags(tx, context, instance_id, [*tags, tag])
    return True


def delete_tag(tx: Connection, context: Context, instance_id: str, tag: str) -> None:
    tags = list(get_instance(tx, context, instance_id)["tags"])
    if tag not in tags:
        raise NotFound(f"Server {instance_id} has no tag '{tag}'")
    set_tags(tx, context, instance_id, [other for other in tags if other != tag])
