"""What the compute controller decides when guests and rows differ."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kilonova.compute.driver import PowerState
from kilonova.compute.rows import InstanceRow
from kilonova.compute.sweep import Verdict, decide
from kilonova.ids import InstanceId

A = InstanceId("a")
ACTIVE = InstanceRow(
    id=A,
    name="a",
    hostname="a",
    host="h",
    vcpus=1,
    ram_mb=64,
    disk_gb=0,
    config_drive=False,
    image_id=None,
    vm_state="active",
    task_state=None,
    power_state=1,
    wanted_power="running",
    launched=True,
)
RUNNING = {A: PowerState.RUNNING}


@pytest.mark.parametrize(
    ("row", "guests", "starting", "verdict"),
    [
        (ACTIVE, RUNNING, False, None),
        (ACTIVE, {}, False, Verdict.STOPPED),
        (ACTIVE, {A: PowerState.SHUTDOWN}, False, Verdict.STOPPED),
        (ACTIVE, {A: PowerState.CRASHED}, False, Verdict.STOPPED),
        (ACTIVE, {}, True, Verdict.BRING_BACK),
        (ACTIVE, {A: PowerState.SHUTDOWN}, True, Verdict.BRING_BACK),
        (replace(ACTIVE, wanted_power="shutdown"), {}, True, Verdict.STOPPED),
        (ACTIVE, {A: PowerState.PAUSED}, False, Verdict.SHOW),
        (replace(ACTIVE, vm_state="stopped", power_state=4), RUNNING, False, Verdict.SHOW),
        (replace(ACTIVE, vm_state="stopped", power_state=4), {}, True, None),
        (replace(ACTIVE, vm_state="error"), {}, True, None),
        (replace(ACTIVE, vm_state="error", launched=False), RUNNING, False, Verdict.ABANDONED),
        (replace(ACTIVE, vm_state="building"), {}, False, Verdict.ABANDONED),
        (replace(ACTIVE, task_state="powering-off"), RUNNING, False, Verdict.SHOW),
        (replace(ACTIVE, task_state="deleting"), RUNNING, False, None),
    ],
)
def test_verdict(row: InstanceRow, guests: dict[InstanceId, PowerState], starting: bool, verdict: Verdict) -> None:
    assert decide([row], guests, (), starting=starting).get(A) == verdict


def test_guest_without_a_row_is_destroyed_unless_an_operation_has_it() -> None:
    assert decide([], RUNNING, (), starting=False) == {A: Verdict.DESTROY}
    assert decide([], RUNNING, {A}, starting=False) == {}


def test_instance_that_is_worked_on_is_left_alone() -> None:
    assert decide([replace(ACTIVE, vm_state="building")], {}, {A}, starting=True) == {}
