"""The status that clients see, made of vm_state and task_state, and the states that a status stands for. Pure."""

from __future__ import annotations

_PLAIN = {
    "active": "ACTIVE",
    "building": "BUILD",
    "stopped": "SHUTOFF",
    "paused": "PAUSED",
    "suspended": "SUSPENDED",
    "error": "ERROR",
    "deleted": "DELETED",
}
_BY_TASK = {
    ("active", "rebooting"): "REBOOT",
    ("stopped", "rebooting"): "REBOOT",
    ("active", "rebooting_hard"): "HARD_REBOOT",
    ("stopped", "rebooting_hard"): "HARD_REBOOT",
    ("paused", "rebooting_hard"): "HARD_REBOOT",
    ("error", "rebooting_hard"): "HARD_REBOOT",
}
KNOWN = frozenset(
    {
        *_PLAIN.values(),
        *_BY_TASK.values(),
        "MIGRATING",
        "PASSWORD",
        "REBUILD",
        "RESCUE",
        "RESIZE",
        "REVERT_RESIZE",
        "SHELVED",
        "SHELVED_OFFLOADED",
        "SOFT_DELETED",
        "UNKNOWN",
        "VERIFY_RESIZE",
    }
)
"""Every status of the API; those this cloud does not reach match no server."""

WITH_PROGRESS = frozenset({"ACTIVE", "BUILD", "REBUILD", "RESIZE", "VERIFY_RESIZE", "MIGRATING"})


def status_of(vm_state: str, task_state: str | None) -> str:
    if task_state is not None and (status := _BY_TASK.get((vm_state, task_state))):
        return status
    return _PLAIN.get(vm_state, "UNKNOWN")


def states_of(status: str) -> tuple[list[str], list[tuple[str, str]], list[tuple[str, str]]]:
    """The rows a status stands for: the vm_states, but without the pairs with a task; and further such pairs."""
    status = status.upper()
    plain = [state for state, name in _PLAIN.items() if name == status]
    excluded = [pair for pair in _BY_TASK if pair[0] in plain]
    pairs = [pair for pair, name in _BY_TASK.items() if name == status]
    return plain, excluded, pairs
