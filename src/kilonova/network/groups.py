"""The rows of security groups: a project's default group and the rules that every new group begins with."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, insert

from kilonova.ids import GroupId, new_id
from kilonova.store import statements
from kilonova.store.schema import now, security_group_rules, security_groups

DEFAULT_NAME = "default"
DEFAULT_DESCRIPTION = "Default security group"


def ensure_default_group(tx: Connection, project_id: str) -> GroupId:
    """The project's default group, made at first use: its members reach each other and go out freely."""
    found = statements.rows(tx, security_groups, project_id=project_id, is_default=True).one_or_none()
    if found is not None:
        return GroupId(found.id)
    return insert_group(tx, project_id, DEFAULT_NAME, DEFAULT_DESCRIPTION, is_default=True)


def insert_group(
    tx: Connection,
    project_id: str,
    name: str,
    description: str = "",
    *,
    stateful: bool = True,
    is_default: bool = False,
) -> GroupId:
    """A group with its first rules: everything out; into a default group also what its own members send."""
    group_id = GroupId(new_id())
    tx.execute(
        insert(security_groups).values(
            id=group_id,
            project_id=project_id,
            name=name,
            description=description,
            stateful=stateful,
            is_default=is_default,
        )
    )
    directions: list[tuple[str, str | None]] = [("egress", None)]
    if is_default:
        directions.append(("ingress", group_id))
    moment = now()
    rules: list[dict[str, Any]] = [
        {
            "id": new_id(),
            "security_group_id": group_id,
            "project_id": project_id,
            "direction": direction,
            "ethertype": ethertype,
            "remote_group_id": remote,
            "created_at": moment,
            "updated_at": moment,
        }
        for direction, remote in directions
        for ethertype in ("IPv4", "IPv6")
    ]
    tx.execute(insert(security_group_rules), rules)
    return group_id
