# ruff: noqa: F811 (a fixture of another module is imported by its name)
"""Drivers with real guests: the conformance suite, and what is particular to each.

Each test has a switch namespace with one bridge, a DHCP server and the devices that the network agent would have made.
Needs root; the QEMU tests need the tiny image.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from unit.compute.test_driver_conformance import DriverConformance, Guest, directory_leftovers, guest  # noqa: F401

from kilonova.compute.config_drive import write_config_drive, write_config_files
from kilonova.compute.driver import Driver, GuestSpec, NicSpec, PowerState
from kilonova.compute.guest_directory import GuestDirectory
from kilonova.compute.namespace import NamespaceDriver
from kilonova.compute.qemu import QemuDriver
from kilonova.compute.tap import in_namespace, link_names
from kilonova.config import HostConfig
from kilonova.errors import BadRequest, CommandFailed
from kilonova.ids import InstanceId, PortId, new_id
from kilonova.metadata import InstanceMetadata, Interface, InterfaceAddress, Route, config_drive_files

ROOT = Path(__file__).parents[3]

PREFIX = f"c{os.getpid() % 4096:x}"
"""Of this process, so that two runs on one machine do not meet."""
SWITCH = f"{PREFIX}-switch"
TINY = ROOT / "build" / "image" / "tiny.qcow2"


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def in_switch(*words: str) -> None:
    ip("-n", SWITCH, *words)


class Wire:
    """A bridge with a DHCP server in a namespace of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._hosts = directory / "hosts"
        self._server: subprocess.Popen[bytes] | None = None
        self._next = 3

    def make(self) -> None:
        self.remove()
        self._hosts.mkdir()
        ip("netns", "add", SWITCH)
        in_switch("link", "set", "lo", "up")
        in_switch("link", "add", "br1", "type", "bridge")
        in_switch("address", "add", "10.9.0.1/24", "dev", "br1")
        in_switch("address", "add", "169.254.169.254/32", "dev", "br1")
        in_switch("address", "add", "fd09::1/64", "dev", "br1", "nodad")
        in_switch("address", "add", "10.10.0.1/24", "dev", "lo")
        in_switch("link", "set", "br1", "up")
        self._server = subprocess.Popen(
            [
                *(
                    "ip",
                    "netns",
                    "exec",
                    SWITCH,
                    "dnsmasq",
                    "--keep-in-foreground",
                    "--conf-file=/dev/null",
                    "--port=0",
                ),
                *("--interface=br1", "--bind-interfaces", "--dhcp-range=10.9.0.0,static", "--dhcp-option=26,1400"),
                *(f"--dhcp-hostsdir={self._hosts}", f"--dhcp-leasefile={self._directory}/leases"),
                *("--pid-file=", "--log-facility=/dev/null", "--user=root"),
            ]
        )

    def plug(self, vif: str, *, known: bool = True) -> tuple[NicSpec, str]:
        """A device for one interface, and the address that its guest will get; not by DHCP when it is not `known`."""
        port_id = new_id()
        mac = f"fa:16:3e:00:00:{self._next:02x}"
        address = f"10.9.0.{self._next}"
        self._next += 1
        tap = f"tap{port_id[:11]}"
        device = tap
        if vif == "tap":
            in_switch("tuntap", "add", "dev", tap, "mode", "tap")
        else:
            device = f"gst{port_id[:11]}"
            in_switch("link", "add", tap, "type", "veth", "peer", "name", device)
        in_switch("link", "set", tap, "master", "br1", "up")
        if known:
            (self._hosts / port_id).write_text(f"{mac},{address}\n")
        return NicSpec(port_id=PortId(port_id), device=device, mac=mac, mtu=1450, vif=vif), address

    def fetch(self, address: str, port: int = 80, path: str = "") -> str | None:
        """The page that a guest serves; none while it does not."""

        def get() -> str:
            with urllib.request.urlopen(f"http://{address}:{port}/{path}", timeout=1) as answer:
                return str(answer.read().decode())

        try:
            return in_namespace(SWITCH, get)
        except OSError:
            return None

    def remove(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        subprocess.run(["ip", "netns", "delete", SWITCH], check=False, capture_output=True)


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    if os.geteuid():
        pytest.skip("needs root")
    made = Wire(tmp_path)
    made.make()
    yield made
    made.remove()


class HostBench:
    """A state directory whose path is long, as they are."""

    ready_word = "ready"

    def __init__(self, wire: Wire, tmp_path: Path) -> None:
        self.wire = wire
        self.state_dir = tmp_path / ("a-long-name-" * 8) / "state"
        self.config = HostConfig(prefix=PREFIX)
        self.address = ""

    def kill(self, _driver: Driver, instance_id: InstanceId) -> None:
        process = GuestDirectory(self.state_dir, instance_id).load_process()
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)

    def processes(self, word: str) -> list[str]:
        """Processes whose command line has the word, by number and program; the guest's id is in none of ours."""
        found = []
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                with contextlib.suppress(OSError):
                    line = Path(f"/proc/{entry}/cmdline").read_text(errors="replace")
                    if word in line:
                        found.append(f"{entry} {line.split(chr(0))[0]}")
        return sorted(found)


class NamespaceBench(HostBench):
    boot_s = 10.0

    def new_driver(self) -> Driver:
        return NamespaceDriver(self.config, self.state_dir)

    def new_spec(self) -> GuestSpec:
        nic, self.address = self.wire.plug("veth")
        return GuestSpec(
            instance_id=InstanceId(new_id()),
            name="light",
            hostname="light",
            vcpus=1,
            ram_mb=64,
            nics=(nic,),
            switch_namespace=SWITCH,
            namespace_prefix=PREFIX,
        )

    def leftovers(self, instance_id: InstanceId) -> list[str]:
        left = directory_leftovers(self.state_dir, instance_id)
        namespace = Path(f"/run/netns/{PREFIX}-g-{instance_id[:11]}")
        left += [str(namespace)] if namespace.exists() else []
        return left + [name for name in self.processes(instance_id) if "unshare" in name]


class QemuBench(HostBench):
    boot_s = 60.0

    def new_driver(self) -> Driver:
        return QemuDriver(self.config, self.state_dir)

    def new_spec(self) -> GuestSpec:
        if not TINY.exists():
            pytest.fail(f"{TINY} does not exist: run `make image`")
        nic, self.address = self.wire.plug("tap")
        return GuestSpec(
            instance_id=InstanceId(new_id()),
            name="tiny",
            hostname="tiny",
            vcpus=1,
            ram_mb=128,
            image=TINY,
            nics=(nic,),
            switch_namespace=SWITCH,
            namespace_prefix=PREFIX,
        )

    def leftovers(self, instance_id: InstanceId) -> list[str]:
        return directory_leftovers(self.state_dir, instance_id) + self.processes(instance_id)


@pytest.fixture
def bench(request: pytest.FixtureRequest, wire: Wire, tmp_path: Path) -> HostBench:
    made: HostBench = request.cls.bench_class(wire, tmp_path)
    return made


async def serves(bench: HostBench, deadline_s: float, address: str = "") -> str:
    """What the guest's web server says, once it does."""
    give_up = time.monotonic() + deadline_s
    while (page := await asyncio.to_thread(bench.wire.fetch, address or bench.address)) is None:
        assert time.monotonic() < give_up, "the guest does not serve HTTP"
        await asyncio.sleep(0.05)
    return page


def told_document(guest: Guest, nic: NicSpec, address: str) -> dict[str, bytes]:
    """The first interface has its address by DHCP, `nic` has static ones of both families."""
    routes = (Route("10.10.0.0/24", "10.9.0.1"),)
    four = InterfaceAddress(address, 24, "s4", dhcp=False, nameservers=("10.9.0.53",), routes=routes)
    six = InterfaceAddress("fd09::5", 64, "s6", dhcp=False)
    first = guest.spec.nics[0]
    interfaces = (
        Interface(first.port_id, first.device, first.mac, 1400, "n1", (InterfaceAddress("10.9.0.3", 24, "d"),)),
        Interface(nic.port_id, nic.device, nic.mac, 1390, "n2", (four, six)),
    )
    document = InstanceMetadata(guest.id, "told", "told", "p", interfaces=interfaces)
    return config_drive_files(document)


def process_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@pytest.fixture
def big_image(tmp_path: Path) -> Path:
    path = tmp_path / "big.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "3G"], check=True)
    return path


class TestNamespaceDriver(DriverConformance):
    bench_class = NamespaceBench

    async def test_guest_gets_its_address_and_serves(self, bench: HostBench, guest: Guest) -> None:
        await guest.driver.create(guest.spec)
        assert (await serves(bench, 30)).strip() == "light"
        assert "lease eth0 10.9.0.3/24" in await guest.driver.console(guest.id)
        assert "mtu=1400" in await guest.driver.console(guest.id)

    async def test_second_interface_is_configured_as_the_config_drive_says(
        self, bench: HostBench, guest: Guest
    ) -> None:
        nic, address = bench.wire.plug("veth", known=False)
        directory = GuestDirectory(bench.state_dir, guest.id)
        directory.make()
        write_config_files(directory.config_files, told_document(guest, nic, address))
        nics = (*guest.spec.nics, nic)
        await guest.driver.create(msgspec.structs.replace(guest.spec, config_drive=directory.config_files, nics=nics))
        assert (await serves(bench, 30, address)).strip() == "told"
        assert (await serves(bench, 30, "[fd09::5]")).strip() == "told"
        assert (await serves(bench, 30)).strip() == "told"
        namespace = f"{PREFIX}-g-{guest.id[:11]}"
        shown = ip("-n", namespace, "route") + ip("-n", namespace, "link", "show", "eth1")
        assert "10.10.0.0/24 via 10.9.0.1 dev eth1 metric 1 onlink" in shown
        assert "mtu 1390" in shown
        await guest.driver.reboot(guest.id, hard=False, timeout_s=10)
        assert (await serves(bench, 30, address)).strip() == "told"

    async def test_soft_reboot_keeps_the_interface(self, bench: HostBench, guest: Guest) -> None:
        await guest.boot()
        await guest.driver.reboot(guest.id, hard=False, timeout_s=10)
        assert (await serves(bench, 30)).strip() == "light"

    async def test_stopped_guest_has_no_namespace(self, guest: Guest) -> None:
        await guest.driver.create(guest.spec)
        await guest.driver.shutdown(guest.id, 0)
        assert f"{PREFIX}-g-{guest.id[:11]}" not in os.listdir("/run/netns")
        assert guest.spec.nics[0].device in in_namespace(SWITCH, link_names)

    async def test_destroying_takes_both_ends_of_the_interface_at_once(self, guest: Guest) -> None:
        await guest.driver.create(guest.spec)
        await guest.driver.destroy(guest.id)
        assert not [name for name in in_namespace(SWITCH, link_names) if name.startswith(("tap", "gst"))]

    async def test_namespace_without_a_directory_is_removed_at_start(self, guest: Guest) -> None:
        stray = f"{PREFIX}-g-stray"
        ip("netns", "add", stray)
        await guest.renew_driver()
        assert stray not in os.listdir("/run/netns")


class TestQemuDriver(DriverConformance):
    bench_class = QemuBench

    async def test_process_has_no_rights_and_a_full_sandbox(self, bench: HostBench, guest: Guest) -> None:
        await guest.driver.create(guest.spec)
        process = GuestDirectory(bench.state_dir, guest.id).load_process()
        assert process is not None
        status = process_status(process.pid)
        assert "0" not in status["Uid"].split()
        assert status["Groups"].split() == []
        assert int(status["CapEff"], 16) == 0
        assert status["Seccomp"] == "2"

    async def test_guest_boots_from_its_disk_and_serves(self, bench: HostBench, guest: Guest) -> None:
        await guest.driver.create(guest.spec)
        assert await serves(bench, 60)

    async def test_lost_disk_is_said_and_never_replaced(self, bench: HostBench, guest: Guest) -> None:
        await guest.driver.create(guest.spec)
        await guest.driver.shutdown(guest.id, 0.0)
        disk = GuestDirectory(bench.state_dir, guest.id).disk
        disk.unlink()
        for again in (guest.driver.create(guest.spec), guest.driver.start(guest.id)):
            with pytest.raises(CommandFailed, match=str(disk)):
                await again
        assert not disk.exists()

    async def test_guest_whose_number_was_not_noted_is_found(self, bench: HostBench, guest: Guest) -> None:
        await guest.driver.create(guest.spec)
        GuestDirectory(bench.state_dir, guest.id).save_process(None)
        await guest.renew_driver()
        assert await guest.state() == PowerState.RUNNING

    async def test_missing_tap_is_named(self, guest: Guest) -> None:
        in_switch("link", "delete", guest.spec.nics[0].device)
        with pytest.raises(CommandFailed, match=guest.spec.nics[0].device):
            await guest.driver.create(guest.spec)
        assert await guest.state() == PowerState.SHUTDOWN

    async def test_refusal_of_qemu_is_shown(self, guest: Guest) -> None:
        huge = msgspec.structs.replace(guest.spec, ram_mb=10**9)
        with pytest.raises(CommandFailed, match="memory"):
            await guest.driver.create(huge)
        assert await guest.state() == PowerState.SHUTDOWN

    async def test_image_larger_than_the_flavors_disk_is_refused(self, guest: Guest, big_image: Path) -> None:
        with pytest.raises(BadRequest, match="3 GB"):
            await guest.driver.create(msgspec.structs.replace(guest.spec, image=big_image, disk_gb=1))

    async def test_guest_with_a_config_drive_sees_it(self, bench: HostBench, guest: Guest) -> None:
        directory = GuestDirectory(bench.state_dir, guest.id)
        directory.make()
        document = InstanceMetadata(guest.id, "driven", "driven", "p")
        write_config_drive(directory.config_drive, config_drive_files(document))
        guest.spec = msgspec.structs.replace(guest.spec, config_drive=directory.config_drive, nics=())
        bench.ready_word = "hostname driven"
        await guest.boot()

    async def test_second_interface_is_configured_as_the_config_drive_says(
        self, bench: HostBench, guest: Guest
    ) -> None:
        nic, address = bench.wire.plug("tap", known=False)
        directory = GuestDirectory(bench.state_dir, guest.id)
        directory.make()
        write_config_drive(directory.config_drive, told_document(guest, nic, address))
        nics = (*guest.spec.nics, nic)
        await guest.driver.create(msgspec.structs.replace(guest.spec, config_drive=directory.config_drive, nics=nics))
        assert (await serves(bench, 60, address)).strip() == "told"
        assert (await serves(bench, 30, "[fd09::5]")).strip() == "told"
        assert (await serves(bench, 30)).strip() == "told"
        info = await asyncio.to_thread(bench.wire.fetch, f"{address}", 80, "cgi-bin/info")
        assert {"mtu: eth0 1400", "mtu: eth1 1390", "resolv: nameserver 10.9.0.53"} <= set(str(info).splitlines())
        assert f"address: eth1 {address}/24" in str(info)
        assert "route: 10.10.0.0/24 via 10.9.0.1 dev eth1" in str(info)
