"""Compute's quotas: defaults, a project's own limits, what is used, and whether more may be made.

Usage is counted in the transaction that makes more; there are no counters that could drift.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from kilonova.errors import BadRequest, QuotaExceeded
from kilonova.network import quota
from kilonova.store import statements
from kilonova.store.schema import instances, keypairs, quotas

UNLIMITED = -1

DEFAULTS: dict[str, int] = {
    "instances": 10,
    "cores": 20,
    "ram": 51200,
    "metadata_items": 128,
    "key_pairs": 100,
    "server_groups": 10,
    "server_group_members": 10,
    "injected_files": 5,
    "injected_file_content_bytes": 10240,
    "injected_file_path_bytes": 255,
    "fixed_ips": UNLIMITED,
    "floating_ips": quota.DEFAULTS["floatingip"],
    "security_groups": quota.DEFAULTS["security_group"],
    "security_group_rules": quota.DEFAULTS["security_group_rule"],
}
"""Of a project for which nothing else was set."""

_STORED_AS = {
    "floating_ips": "floatingip",
    "security_groups": "security_group",
    "security_group_rules": "security_group_rule",
}
"""Limits that the network API holds under its own names."""


def limits_of(tx: Connection, project_id: str) -> dict[str, int]:
    """Every compute limit of a project."""
    own = {row.resource: row.hard_limit for row in statements.rows(tx, quotas, project_id=project_id)}
    return {name: own.get(_STORED_AS.get(name, name), default) for name, default in DEFAULTS.items()}


def usage_of(tx: Connection, project_id: str) -> dict[str, int]:
    """What counts towards the limits now; resources that are not counted show 0."""
    used = tx.execute(_USED, {"project_id": project_id}).one()
    return dict.fromkeys(DEFAULTS, 0) | {
        "instances": int(used.instances),
        "cores": int(used.cores),
        "ram": int(used.ram),
    }


_USED = select(
    func.count().label("instances"),
    func.coalesce(func.sum(instances.c.vcpus), 0).label("cores"),
    func.coalesce(func.sum(instances.c.ram_mb), 0).label("ram"),
).where(instances.c.project_id == bindparam("project_id"))


def count_within(
    tx: Connection, project_id: str, *, least: int, most: int, vcpus: int, ram_mb: int, metadata_items: int
) -> int:
    """How many instances of this size, `least` to `most`, may be made with so many metadata items.

    Raises `QuotaExceeded` as nova words it when not even `least` may.
    """
    limits, used = limits_of(tx, project_id), usage_of(tx, project_id)
    _check_metadata(limits, metadata_items)
    each = {"cores": vcpus, "instances": 1, "ram": ram_mb}
    bounded = [name for name in each if limits[name] != UNLIMITED and each[name]]
    over = [name for name in bounded if used[name] + least * each[name] > limits[name]]
    if over:
        names = ", ".join(over)
        requested = ", ".join(str(least * each[name]) for name in over)
        have, limit = (", ".join(str(numbers[name]) for name in over) for numbers in (used, limits))
        raise QuotaExceeded(
            f"Quota exceeded for {names}: Requested {requested}, but already used {have} of {limit} {names}"
        )
    return min([most, *((limits[name] - used[name]) // each[name] for name in bounded)])


def check_metadata_items(tx: Connection, project_id: str, count: int) -> None:
    """Raises `QuotaExceeded` for more metadata items than an instance may have."""
    _check_metadata(limits_of(tx, project_id), count)


def _check_metadata(limits: Mapping[str, int], count: int) -> None:
    limit = limits["metadata_items"]
    if limit != UNLIMITED and count > limit:
        raise QuotaExceeded(f"Maximum number of metadata items exceeds {limit}")


def check_keypairs(tx: Connection, project_id: str, user_id: str) -> None:
    """Raises `QuotaExceeded` when the user has all the key pairs it may have."""
    limit = limits_of(tx, project_id)["key_pairs"]
    query = select(func.count()).select_from(keypairs).where(keypairs.c.user_id == user_id)
    if limit != UNLIMITED and tx.execute(query).scalar_one() >= limit:
        raise QuotaExceeded("Quota exceeded, too many key pairs.")


def set_limits(tx: Connection, project_id: str, new: Mapping[str, int], *, force: bool) -> None:
    """Set some limits. Raises `BadRequest` for one below what is used, unless forced."""
    used = usage_of(tx, project_id)
    for resource, limit in new.items():
        if not force and UNLIMITED < limit < used[resource]:
            raise BadRequest(
                f"Quota limit {limit} for {resource} must be greater than or equal to already used {used[resource]}."
            )
        stored = _STORED_AS.get(resource, resource)
        where = (quotas.c.project_id == project_id, quotas.c.resource == stored)
        if not tx.execute(update(quotas).where(*where).values(hard_limit=limit)).rowcount:
            tx.execute(insert(quotas).values(project_id=project_id, resource=stored, hard_limit=limit))


def reset_limits(tx: Connection, project_id: str) -> None:
    """Back to the defaults, for compute's resources only."""
    ours = [resource for resource in DEFAULTS if resource not in _STORED_AS]
    tx.execute(delete(quotas).where(quotas.c.project_id == project_id, quotas.c.resource.in_(ours)))
