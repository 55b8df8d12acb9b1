"""Project VPNs by the commands an administrator types, with a client that wg-quick connects."""

from __future__ import annotations

import os
import secrets
import stat
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kilonova.network.host import namespaces, wireguard

from .running import AsUser, RunningCloud, refused, told, until


@dataclass
class Tenant:
    cloud: RunningCloud
    name: str
    address: str
    """Of its server, inside."""
    outside: str
    directory: Path

    def in_outside(self, *argv: str, check: bool = True) -> str:
        done = namespaces.run_inside(self.outside, _run, argv, self.directory)
        assert not check or done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return done.stdout

    def reaches_its_server(self) -> bool:
        argv = ["curl", "-sS", "--max-time", "2", f"http://{self.address}/"]
        return namespaces.run_inside(self.outside, _run, argv, self.directory).returncode == 0


def _run(argv: Sequence[str], directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL, cwd=directory, check=False
    )


@pytest.fixture
def tenant(light_sandbox: RunningCloud, tmp_path: Path) -> Iterator[Tenant]:
    """A project with a server; what a client leaves outside is ended."""
    cloud = light_sandbox
    name = f"road{secrets.token_hex(2)}"
    user = cloud.member(name)
    image = cloud.connect().image.find_image("tiny") or cloud.upload_tiny()
    server = user.compute.create_server(name="inner", image_id=image.id, flavor_id="1", networks="auto")
    server = user.compute.wait_for_server(server, interval=0.1, wait=60)
    address = next(iter(server.addresses.values()))[0]["addr"]
    prefix = cloud.prefix
    outside = f"{prefix}-outside"
    try:
        yield Tenant(cloud, name, address, outside, tmp_path)
    finally:
        wireguard.end_processes(outside)
        user.compute.delete_server(server)
        user.compute.wait_for_delete(server, interval=0.1, wait=60)


def test_a_client_joins_its_project_is_seen_and_is_sent_away(tenant: Tenant) -> None:
    cloud, file = tenant.cloud, tenant.directory / "road.conf"
    made = told(cloud, "vpn", "run", tenant.name)
    assert [item["project_name"] for item in told(cloud, "vpn", "list") if item["status"] != "NONE"] == [tenant.name]
    until("the VPN is active", lambda: told(cloud, "vpn", "show", tenant.name)["status"] == "ACTIVE")
    written = cloud.kilonova("vpn", "config", tenant.name, "--user", "ann", "--output", str(file)).stdout
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert "PrivateKey" not in written
    assert f"Endpoint = {made['address']}:{made['port']}" in file.read_text()
    assert not tenant.reaches_its_server()

    tenant.in_outside("wg-quick", "up", str(file))
    until("the client reaches the server", tenant.reaches_its_server)
    until("its handshake is listed", lambda: _listed(tenant)["last_handshake_at"], 60)
    assert "active" in cloud.kilonova("vpn", "list").stdout

    assert told(cloud, "vpn", "revoke", tenant.name, "--user", "ann") == {"revoked": ["ann"]}
    until("the client reaches nothing", lambda: not tenant.reaches_its_server(), 10)
    assert _listed(tenant)["clients"] == 0
    tenant.in_outside("wg-quick", "down", str(file))

    assert cloud.kilonova("vpn", "stop", tenant.name).stdout == f"{tenant.name}: VPN stopped\n"
    until("its process has ended", lambda: not _serving(made["id"]), 10)


def test_a_cloud_that_is_killed_keeps_its_vpns_and_one_that_goes_down_ends_them(tenant: Tenant) -> None:
    cloud, file = tenant.cloud, tenant.directory / "road.conf"
    made = told(cloud, "vpn", "run", tenant.name)
    until("the VPN is active", lambda: told(cloud, "vpn", "show", tenant.name)["status"] == "ACTIVE")
    file.write_text(cloud.kilonova("vpn", "config", tenant.name, "--user", "bob").stdout)
    file.chmod(0o600)
    tenant.in_outside("wg-quick", "up", str(file))
    until("the client reaches the server", tenant.reaches_its_server)

    cloud.kill()
    assert tenant.reaches_its_server()
    cloud.up()
    assert tenant.reaches_its_server()

    tenant.in_outside("wg-quick", "down", str(file))
    cloud.kilonova("vpn", "stop", tenant.name)
    until("its process has ended", lambda: not _serving(made["id"]), 10)


def test_spawn_says_what_it_did(tenant: Tenant) -> None:
    cloud = tenant.cloud
    neighbour = f"next-to-{tenant.name}"
    cloud.member(neighbour).network.get_auto_allocated_topology()
    made = told(cloud, "vpn", "spawn")
    assert {tenant.name, neighbour} <= {item["project_name"] for item in made["started"]}
    assert cloud.kilonova("v", "sp").stdout == "every project that has a network has a VPN\n"
    for item in made["started"]:
        cloud.kilonova("vpn", "stop", item["project_id"])
        until("its process has ended", lambda item=item: not _serving(item["id"]), 10)  # type: ignore[misc]


def test_members_make_their_own_clients_and_nobody_elses(tenant: Tenant) -> None:
    cloud = tenant.cloud
    member, stranger = _as(cloud, tenant.name), _as(cloud, f"not-{tenant.name}")
    cloud.member(f"not-{tenant.name}")
    project_id = told(cloud, "vpn", "run", tenant.name)["project_id"]
    assert "PrivateKey = " in member.kilonova("vpn", "config", tenant.name, "--user", "me").stdout
    assert refused(stranger, "vpn", "config", tenant.name, "--user", "me")
    assert refused(stranger, "vpn", "revoke", project_id)
    assert "no project nowhere" in refused(cloud, "vpn", "run", "nowhere")
    cloud.kilonova("vpn", "stop", tenant.name)


def _as(cloud: RunningCloud, name: str) -> AsUser:
    mine = {"OS_USERNAME": name, "OS_PASSWORD": f"secret-{name}", "OS_PROJECT_NAME": name}
    return AsUser(cloud.state_dir, cloud.mode, cloud.driver, cloud.port, mine)


def _listed(tenant: Tenant) -> dict[str, Any]:
    return next(item for item in told(tenant.cloud, "vpn", "list") if item["project_name"] == tenant.name)


def _serving(vpn_id: str) -> bool:
    """Is there a process for a VPN's device?"""
    end = vpn_id.replace("-", "")[:9].encode()
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"wireguard-go" in words[0] and end in words[1]:
                return True
        except OSError:
            continue
    return False
