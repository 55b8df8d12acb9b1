"""Many projects side by side: every guest gets its lease and reaches its own project; gone projects leave nothing."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import uuid
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from openstack.connection import Connection

from .conftest import MakeCloud
from .running import RunningCloud, until

PROJECTS, GUESTS = 5, 4
REMEMBERED = {"operations", "instance_actions", "instance_action_events", "revocations", "reusable_addresses"}
"""Tables of what was: history, tokens that end by themselves, addresses that are free again."""


@pytest.mark.timeout(300)
def test_guests_of_several_projects_get_leases_and_reach_their_own_alone(light_sandbox: RunningCloud) -> None:
    image = light_sandbox.upload_tiny()
    members = [light_sandbox.member(f"many-{uuid.uuid4().hex[:8]}") for _ in range(PROJECTS)]
    guests = [(member, _server(member, image.id)) for _ in range(GUESTS) for member in members]
    addresses = {server: _address(member, server) for member, server in guests}

    prefix = light_sandbox.prefix
    for _, server in guests:
        until(f"lease of {server}", partial(_has_address, prefix, server, addresses[server]))

    for number, (member, source) in enumerate(guests):
        own = next(server for other, server in guests if other is member and server != source)
        stranger = guests[(number + 1) % PROJECTS][1]
        until(f"answer of {own} to {source}", partial(_pings, prefix, source, addresses[own]))
        assert not _pings(prefix, source, addresses[stranger])
    for member, server in guests:
        member.compute.delete_server(server)


@pytest.mark.timeout(300)
def test_projects_that_come_and_go_leave_kernel_and_store_as_they_were(make_cloud: MakeCloud) -> None:
    cloud = make_cloud("sandbox", "namespace")
    cloud.up()
    image = cloud.upload_tiny()
    _come_and_go(cloud, image.id, 1)  # what the first use makes for good
    before = _census(cloud)

    during = _come_and_go(cloud, image.id, 10)

    assert len(during - before) > 5, "the projects made nothing that the census sees"
    until("everything forgotten", lambda: not _census(cloud) - before)
    assert _census(cloud) - before == Counter()


def _come_and_go(cloud: RunningCloud, image: str, number: int) -> Counter[str]:
    """Projects with a server on a floating address, some with a VPN, made and deleted; what there was in between."""
    admin = cloud.connect()
    public = next(admin.network.networks(is_router_external=True))
    names = [f"gone-{uuid.uuid4().hex[:8]}" for _ in range(number)]
    members = [cloud.member(name) for name in names]
    servers = [_server(member, image) for member in members]
    for member, server in zip(members, servers, strict=True):
        _address(member, server)
        port = next(iter(member.network.ports(device_id=server)))
        member.network.create_ip(floating_network_id=public.id, port_id=port.id)
    for name in names[:2]:
        cloud.kilonova("vpn", "run", name)
        cloud.kilonova("vpn", "config", name, "--user", "ann")
    during = _census(cloud)
    for name in names[:2]:
        cloud.kilonova("vpn", "stop", name)
    for name, member, server in zip(names, members, servers, strict=True):
        for address in member.network.ips(project_id=member.current_project_id):
            member.network.delete_ip(address)
        member.compute.delete_server(server)
        member.compute.wait_for_delete(member.compute.get_server(server), interval=0.1, wait=60)
        member.network.delete_auto_allocated_topology(member.current_project_id)
        project, user = admin.identity.find_project(name), admin.identity.find_user(name)
        for group in admin.network.security_groups(project_id=project.id):
            admin.network.delete_security_group(group)
        admin.identity.delete_project(project)
        admin.identity.delete_user(user)
    return during


def _server(member: Connection, image: str) -> str:
    flavor = member.compute.find_flavor("m1.nano", ignore_missing=False)
    server = member.compute.create_server(name="one", image_id=image, flavor_id=flavor.id, networks="auto")
    return str(server.id)


def _address(member: Connection, server: str) -> str:
    """Its fixed address, once it runs."""

    def look() -> str:
        found = member.compute.get_server(server)
        assert found.status != "ERROR", found.fault
        return found.status if found.status == "ACTIVE" else ""

    until(f"server {server} ACTIVE", look, 90)
    (port,) = member.network.ports(device_id=server)
    return str(port.fixed_ips[0]["ip_address"])


def _census(cloud: RunningCloud) -> Counter[str]:
    """Namespaces, links, filters, processes, files and rows of the cloud."""
    prefix = cloud.prefix
    found = Counter({f"rows of {table}": number for table, number in _rows(cloud).items() if table not in REMEMBERED})
    found.update(
        f"namespace {name.split('-')[1]}" for name in os.listdir("/run/netns") if name.startswith(f"{prefix}-")
    )
    switch = ["ip", "netns", "exec", f"{prefix}-switch"]
    found["links"] = len(_run(*switch, "ip", "-o", "link").splitlines())
    rules = _run(*switch, "nft", "list", "ruleset").splitlines()
    found["filters"] = sum(len(line.split(",")) for line in rules if "expires" not in line)
    for kind in ("network", "instances"):
        directory = cloud.state_dir / kind
        found[f"files of {kind}"] = sum(1 for _ in directory.rglob("*")) if directory.is_dir() else 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and str(cloud.state_dir).encode() in _command(entry):
            found[f"process {_command(entry).partition(b' ')[0].decode(errors='replace')}"] += 1
    return found


def _rows(cloud: RunningCloud) -> dict[str, int]:
    with closing(sqlite3.connect(f"file:{cloud.state_dir / 'kilonova.sqlite'}?mode=ro", uri=True)) as store:
        tables = [name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {table: store.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0] for table in tables}


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b""


def _inside(prefix: str, server: str, *argv: str) -> str:
    return _run("ip", "netns", "exec", f"{prefix}-g-{server[:11]}", *argv)


def _has_address(prefix: str, server: str, address: str) -> bool:
    return address in _inside(prefix, server, "ip", "addr")


def _pings(prefix: str, server: str, address: str) -> bool:
    return " 0% packet loss" in _inside(prefix, server, "ping", "-c", "1", "-W", "1", address)


def _run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20).stdout
