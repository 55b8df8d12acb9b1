"""The command line of a guest's QEMU process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from kilonova.compute.driver import GuestSpec, NicSpec
from kilonova.compute.qemu_command import Accelerator, Descriptors, qemu_command
from kilonova.ids import InstanceId, PortId

ID = "0b1c2d3e-4f50-4161-8273-849506172839"
SPEC = GuestSpec(
    instance_id=InstanceId(ID),
    name="evil,-name",
    hostname="web",
    vcpus=2,
    ram_mb=256,
    disk_gb=1,
    image=Path("/images/one"),
    nics=(NicSpec(port_id=PortId("p"), device="tapp", mac="fa:16:3e:00:00:01", mtu=1450),),
)
DESCRIPTORS = Descriptors(monitor=10, serial=11, console_log=12, disk=13, image=14, config_drive=15, taps=(16,))
TCG = Accelerator("tcg")


def option(command: list[str], name: str) -> list[str]:
    return [command[index + 1] for index, word in enumerate(command) if word == name]


def disks(command: list[str]) -> dict[str, dict[str, object]]:
    return {disk["node-name"]: disk for disk in map(json.loads, option(command, "-blockdev"))}


def test_runs_in_the_full_sandbox_without_any_path_of_ours() -> None:
    command = qemu_command(SPEC, DESCRIPTORS, TCG)
    assert option(command, "-sandbox") == ["on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    assert not [word for word in command if "/images" in word]


def test_a_users_words_do_not_reach_the_command_line() -> None:
    assert not [word for word in qemu_command(SPEC, DESCRIPTORS, TCG) if "evil" in word]


def test_disk_lies_over_the_image_which_is_read_only() -> None:
    nodes = disks(qemu_command(SPEC, DESCRIPTORS, TCG))
    assert nodes["root"]["backing"] == "image"
    assert nodes["root"]["file"] == {
        "driver": "file",
        "filename": "/dev/fdset/13",
        "read-only": False,
        "locking": "off",
    }
    assert nodes["image"]["read-only"] is True
    assert nodes["config"]["driver"] == "raw"


def test_every_descriptor_of_a_file_is_declared() -> None:
    command = qemu_command(SPEC, DESCRIPTORS, TCG)
    assert set(option(command, "-add-fd")) == {f"fd={number},set={number}" for number in (12, 13, 14, 15)}
    assert set(DESCRIPTORS.all()) == {10, 11, 12, 13, 14, 15, 16}


def test_interface_gets_its_mac_mtu_and_tap() -> None:
    command = qemu_command(SPEC, DESCRIPTORS, TCG)
    assert option(command, "-netdev") == ["tap,id=net0,fd=16"]
    assert "virtio-net-pci,netdev=net0,id=nic0,mac=fa:16:3e:00:00:01,host_mtu=1450,romfile=" in command


def test_guest_without_disk_or_interface_has_neither() -> None:
    bare = msgspec.structs.replace(SPEC, image=None, nics=())
    command = qemu_command(bare, Descriptors(monitor=10, serial=11, console_log=12), TCG)
    assert disks(command) == {}
    assert option(command, "-netdev") == []


def test_interfaces_and_taps_must_match() -> None:
    with pytest.raises(ValueError, match="1 interfaces, but 0 taps"):
        qemu_command(SPEC, replace(DESCRIPTORS, taps=()), TCG)


@pytest.mark.parametrize(
    ("accelerator", "accel", "processor"),
    [
        (TCG, "tcg,thread=multi", "max"),
        (Accelerator("kvm"), "kvm", "host"),
        (Accelerator("kvm", 17), "kvm,device=/dev/fdset/17", "host"),
    ],
)
def test_accelerator(accelerator: Accelerator, accel: str, processor: str) -> None:
    command = qemu_command(SPEC, DESCRIPTORS, accelerator)
    assert option(command, "-accel") == [accel]
    assert option(command, "-cpu") == [processor]


def test_guest_sees_that_it_is_an_openstack_guest() -> None:
    (identity,) = option(qemu_command(SPEC, DESCRIPTORS, TCG), "-smbios")
    assert "product=OpenStack Compute" in identity
    assert f"serial={ID}" in identity
