"""NICs of the machine that belong into the switch namespace: moved there, joined to their bridge, trusted.

The machine is a namespace of the test, its NICs are one end of veth pairs: nothing of the real machine is touched.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kilonova.config import Config, HostConfig
from kilonova.network import rules
from kilonova.network.host import namespaces
from kilonova.network.host.apply import KernelHost
from kilonova.network.host.interface import Outcome
from kilonova.network.host.removal import remove_everything
from kilonova.network.layout import ElementKey
from kilonova.network.plan import BridgePlan, HostPlan, Uplink

from .world import inspect_namespace

PUBLIC = BridgePlan("br-public", "", 1500, 0)


@dataclass(frozen=True)
class Machine:
    """What stands for the machine: the namespace in which its agent runs and its NICs are."""

    namespace: str
    config: Config

    def apply(self, host: KernelHost, plan: HostPlan) -> Outcome:
        return namespaces.run_inside(self.namespace, host.apply, plan, look=True)

    def ip(self, *words: str) -> None:
        namespaces.run_inside(self.namespace, subprocess.run, ["ip", *words], check=True)

    def has(self, device: str) -> bool:
        return device in inspect_namespace(self.namespace).links


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    prefix = "n" + secrets.token_hex(1)
    machine = Machine(f"{prefix}-machine", Config(state_dir=tmp_path, host=HostConfig(prefix=prefix)))
    namespaces.create(machine.namespace, lambda: None)
    machine.ip("link", "add", "eth1", "type", "veth", "peer", "name", "cable1")
    machine.ip("link", "add", "eth2", "type", "veth", "peer", "name", "cable2")
    yield machine
    remove_everything(machine.config)
    namespaces.delete(machine.namespace)


def test_public_nic_and_trunk_move_into_the_switch_and_are_trusted(machine: Machine) -> None:
    plan = HostPlan(bridges={"br-public": PUBLIC}, uplinks=(Uplink("eth1", "br-public"), Uplink("eth2", "")))
    host = KernelHost(machine.config)
    host.open()
    try:
        assert machine.apply(host, plan).failures == {}

        found = inspect_namespace(f"{machine.config.host.prefix}-switch")
        assert found.links["eth1"].master == "br-public"
        assert found.links["eth1"].up
        assert found.links["eth2"].master == ""
        assert found.links["eth2"].up
        for device in ("eth1", "eth2"):
            assert ElementKey(rules.TRUSTED, f'"{device}"') in found.elements
            assert not machine.has(device)
        assert machine.has("cable1")
        assert machine.apply(host, plan).changes == ()
    finally:
        host.close()


def test_nic_that_the_plan_no_longer_names_is_let_go_and_not_removed(machine: Machine) -> None:
    host = KernelHost(machine.config)
    host.open()
    try:
        machine.apply(host, HostPlan(bridges={"br-public": PUBLIC}, uplinks=(Uplink("eth1", "br-public"),)))

        assert machine.apply(host, HostPlan(bridges={"br-public": PUBLIC})).failures == {}

        found = inspect_namespace(f"{machine.config.host.prefix}-switch")
        assert "eth1" in found.links
        assert ElementKey(rules.TRUSTED, '"eth1"') not in found.elements
    finally:
        host.close()


def test_nic_that_the_machine_has_not_fails_by_name_and_keeps_nothing_else_from_being_made(machine: Machine) -> None:
    host = KernelHost(machine.config)
    host.open()
    try:
        plan = HostPlan(bridges={"br-public": PUBLIC}, uplinks=(Uplink("eth7", ""), Uplink("eth1", "br-public")))

        outcome = machine.apply(host, plan)

        assert outcome.failures.keys() == {"eth7"}
        assert "eth7" in outcome.failures["eth7"]
        assert inspect_namespace(f"{machine.config.host.prefix}-switch").links["eth1"].master == "br-public"
    finally:
        host.close()
