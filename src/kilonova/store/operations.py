"""The rows of durable operations: who works on what, on which step, until when.

A user action that takes time is one row. A worker claims it with a lease and renews the lease while it works; when the
worker dies another claims the row after the lease. At the deadline the reaper fails it. The engine that runs them is
`kilonova.operations`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, bindparam, delete, or_, select, update

from kilonova.context import Context
from kilonova.ids import OperationId, ProjectId, RequestId, UserId, new_id
from kilonova.store import statements
from kilonova.store.schema import now, operations


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One claimed operation, as its worker sees it."""

    id: OperationId
    kind: str
    resource_id: str
    project_id: str | None
    user_id: str | None
    request_id: str
    topic: str
    step: str
    arguments: dict[str, Any]
    deadline: datetime

    @property
    def context(self) -> Context:
        """The context of the request that began it."""
        return Context(
            request_id=RequestId(self.request_id),
            project_id=ProjectId(self.project_id) if self.project_id else None,
            user_id=UserId(self.user_id) if self.user_id else None,
        )


def begin(
    tx: Connection,
    kind: str,
    resource_id: str,
    *,
    context: Context,
    topic: str,
    step: str,
    deadline_s: float,
    arguments: dict[str, Any] | None = None,
) -> OperationId:
    """Write a new running operation; the caller casts `run_operation` to `topic` after the commit."""
    operation_id = OperationId(new_id())
    statements.add(
        tx,
        operations,
        id=operation_id,
        kind=kind,
        resource_id=resource_id,
        project_id=context.project_id,
        user_id=context.user_id,
        request_id=context.request_id,
        topic=topic,
        step=step,
        arguments=arguments or {},
        deadline=now() + timedelta(seconds=deadline_s),
    )
    return operation_id


def claim(
    tx: Connection, operation_id: str, owner: str, lease_s: float, *, topic: str | None = None
) -> Operation | None:
    """Take the lease; none when the operation has ended or another worker's lease still runs.

    With `topic`, only while that topic's worker does the present step: a doubled message does not bring it back.
    """
    moment = now()
    found = statements.rows(tx, operations, id=operation_id, state="running").one_or_none()
    if found is None or (topic is not None and found.topic != topic):
        return None
    claim = {
        "operation_id": operation_id,
        "present_topic": found.topic,
        "claimer": owner,
        "moment": moment,
        "ends": moment + timedelta(seconds=lease_s),
    }
    return _operation(found) if tx.execute(_CLAIM, claim).rowcount else None


_CLAIM = (
    update(operations)
    .where(
        operations.c.id == bindparam("operation_id"),
        operations.c.topic == bindparam("present_topic"),
        operations.c.state == "running",
        or_(
            operations.c.owner.is_(None),
            operations.c.owner == bindparam("claimer"),
            operations.c.lease_until < bindparam("moment"),
        ),
    )
    .values(owner=bindparam("claimer"), lease_until=bindparam("ends"))
)


def renew(tx: Connection, operation_id: str, owner: str, lease_s: float) -> bool:
    """Prolong the lease; false when it was lost or the operation has ended."""
    held = {"id": operation_id, "owner": owner, "state": "running"}
    return bool(statements.change(tx, operations, held, lease_until=now() + timedelta(seconds=lease_s)))


def release(tx: Connection, topic: str, owner: str) -> None:
    """Give every lease back at an orderly stop: the next worker need not wait for it to run out."""
    held = {"topic": topic, "owner": owner, "state": "running"}
    statements.change(tx, operations, held, owner=None, lease_until=None)


def advance(tx: Connection, operation_id: str, *, step: str, topic: str) -> bool:
    """Hand the operation to the worker of the next step; the caller casts to `topic` after the commit.

    False when it has ended meanwhile.
    """
    handed_on = {"step": step, "topic": topic, "owner": None, "lease_until": None}
    return bool(statements.change(tx, operations, {"id": operation_id, "state": "running"}, **handed_on))


def complete(tx: Connection, operation_id: str) -> bool:
    """End it well; false when it had ended before, for example because a delete overtook it."""
    return _end(tx, operation_id, "done", None)


def fail(tx: Connection, operation_id: str, error: str) -> bool:
    """End it with an error; false when it had ended before."""
    return _end(tx, operation_id, "failed", error)


def _end(tx: Connection, operation_id: str, state: str, error: str | None) -> bool:
    ended = {"state": state, "error": error, "owner": None, "lease_until": None}
    return bool(statements.change(tx, operations, {"id": operation_id, "state": "running"}, **ended))


def cancel_for(tx: Connection, resource_id: str, reason: str, *, except_id: str = "") -> None:
    """Fail every running operation of a resource but one: a delete overtakes all others."""
    tx.execute(
        update(operations)
        .where(operations.c.resource_id == resource_id, operations.c.state == "running", operations.c.id != except_id)
        .values(state="failed", error=reason, owner=None, lease_until=None)
    )


def running_for(tx: Connection, resource_id: str) -> list[Operation]:
    """The running operations of a resource, oldest first."""
    found = statements.rows(tx, operations, resource_id=resource_id, state="running").all()
    return [_operation(row) for row in sorted(found, key=lambda row: row.created_at)]


def is_running(tx: Connection, operation_id: str) -> bool:
    return statements.rows(tx, operations, id=operation_id, state="running").first() is not None


def pending_for_topic(tx: Connection, topic: str, owner: str = "") -> list[OperationId]:
    """Running operations of a topic that nobody else holds: those to resume."""
    query = select(operations.c.id).where(
        operations.c.state == "running",
        operations.c.topic == topic,
        or_(operations.c.owner.is_(None), operations.c.owner == owner, operations.c.lease_until < now()),
    )
    return [OperationId(row.id) for row in tx.execute(query.order_by(operations.c.created_at))]


def overdue(tx: Connection, grace_s: float = 30.0) -> list[Operation]:
    """Running operations past their deadline for the reaper to unwind.

    Those that nobody holds, and those whose holder has not unwound them itself within `grace_s`.
    """
    moment = now()
    query = select(operations).where(
        operations.c.state == "running",
        operations.c.deadline < moment,
        or_(
            operations.c.owner.is_(None),
            operations.c.lease_until < moment,
            operations.c.deadline < moment - timedelta(seconds=grace_s),
        ),
    )
    return [_operation(row) for row in tx.execute(query)]


def prune(tx: Connection, older_than_s: float) -> int:
    """Forget ended operations; how many."""
    horizon = now() - timedelta(seconds=older_than_s)
    ended = tx.execute(delete(operations).where(operations.c.state != "running", operations.c.updated_at < horizon))
    return ended.rowcount


def _operation(row: Row[Any]) -> Operation:
    return Operation(
        id=OperationId(row.id),
        kind=row.kind,
        resource_id=row.resource_id,
        project_id=row.project_id,
        user_id=row.user_id,
        request_id=row.request_id,
        topic=row.topic,
        step=row.step,
        arguments=row.arguments,
        deadline=row.deadline,
    )
