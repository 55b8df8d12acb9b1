"""Compares the guests that a host has with the instances that it should have: at start, by a timer, on request.

Deciding is `decide`, a pure function from what was found to one verdict per instance; the compute controller acts on
it under the instance's lock, after looking again.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping

from kilonova.compute.driver import PowerState
from kilonova.compute.rows import RUNNING_STATES, InstanceRow
from kilonova.ids import InstanceId


class Verdict(enum.Enum):
    """What to do about one instance."""

    DESTROY = "its row is gone, or another host has it"
    BRING_BACK = "the host or this program was restarted, and the user left it running"
    STOPPED = "it ended by itself"
    SHOW = "its row shows something else than what it is in"
    ABANDONED = "nobody makes it any more, or making it was given up"


def decide(
    instances: Collection[InstanceRow],
    guests: Mapping[InstanceId, PowerState],
    busy: Collection[str],
    *,
    starting: bool,
) -> dict[InstanceId, Verdict]:
    """One verdict for each instance that needs one.

    `busy` are those that an operation is running for: it will do what is needed. `starting`: this program has just
    begun, so a guest that is not there did not end before its eyes.
    """
    verdicts: dict[InstanceId, Verdict] = {}
    rows = {instance.id: instance for instance in instances}
    for instance_id in guests:
        if instance_id not in rows and instance_id not in busy:
            verdicts[instance_id] = Verdict.DESTROY
    for instance_id, instance in rows.items():
        if instance_id in busy:
            continue
        if instance.vm_state == "building" or (instance.vm_state == "error" and not instance.launched):
            verdicts[instance_id] = Verdict.ABANDONED
            continue
        state = guests.get(instance_id, PowerState.NONE)
        verdict = _about(instance, state, starting=starting)
        if verdict is not None:
            verdicts[instance_id] = verdict
    return verdicts


def _about(instance: InstanceRow, state: PowerState, *, starting: bool) -> Verdict | None:
    alive = state in (PowerState.RUNNING, PowerState.PAUSED)
    if instance.task_state == "deleting":
        return None  # the user's next delete finds it so
    if instance.task_state is not None:
        return Verdict.SHOW  # of an operation that ended without taking it back
    if instance.vm_state in RUNNING_STATES and not alive:
        return Verdict.BRING_BACK if starting and instance.wanted_power != "shutdown" else Verdict.STOPPED
    if instance.vm_state in {*RUNNING_STATES, "stopped"} and alive and int(state) != instance.power_state:
        return Verdict.SHOW
    return None
