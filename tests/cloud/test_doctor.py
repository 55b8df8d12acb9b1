"""`kilonova doctor` on a cloud that runs: it names drift and leaks, changes nothing unless told to, and mends."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

from kilonova.service.state import StateDirectory

from .conftest import MakeCloud
from .running import RunningCloud, until

GONE = "11111111-2222-4333-8444-555555555555"


def told(cloud: RunningCloud, *options: str) -> tuple[int, list[dict[str, Any]]]:
    """The exit code, and what is said about the cloud's state."""
    done = cloud.kilonova("doctor", "--json", *options, check=False)
    findings = [item for item in json.loads(done.stdout) if item["check"].startswith(("drift", "leak"))]
    return done.returncode, findings


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def test_drift_and_leaks_are_named_and_mended(make_cloud: MakeCloud) -> None:
    cloud = make_cloud("sandbox", "namespace")
    cloud.up()
    assert told(cloud) == (0, [{"check": "drift and leaks", "level": "ok", "found": "none", "advice": ""}])
    image, user = cloud.upload_tiny(), cloud.connect()
    flavor = user.compute.find_flavor("m1.nano", ignore_missing=False)
    server = user.compute.create_server(name="s", image_id=image.id, flavor_id=flavor.id, networks="auto")
    user.compute.wait_for_server(server, wait=60)
    assert told(cloud)[0] == 0
    options = StateDirectory(cloud.state_dir).read_options()
    assert options is not None
    prefix, (port,) = options.prefix, list(user.network.ports(device_id=server.id))

    ip("-n", f"{prefix}-switch", "link", "set", f"tap{port.id[:11]}", "down")
    ip("netns", "add", f"{prefix}-g-{GONE[:11]}")
    left = cloud.state_dir / "network" / GONE
    left.mkdir()
    with closing(sqlite3.connect(cloud.state_dir / "kilonova.sqlite")) as database:
        row = "SELECT subnet_id, '10.255.255.1', network_id FROM addresses WHERE port_id = ?"
        database.execute(f"INSERT INTO addresses (subnet_id, address, network_id) {row}", [port.id])
        database.commit()

    code, found = told(cloud)
    words = "\n".join(item["found"] for item in found)
    assert code == 1, found
    assert {item["level"] for item in found} == {"problem"}
    assert f"link tap{port.id[:11]} in {prefix}-switch is down, not up" in words
    assert f"namespace {prefix}-g-{GONE[:11]}" in words
    assert str(left) in words
    assert "address 10.255.255.1" in words
    # What the agent mends by its timer may be gone by now; what nobody mends by himself is there.
    assert Path("/run/netns", f"{prefix}-g-{GONE[:11]}").exists()

    code, found = told(cloud, "--mend")
    assert code == 0, found
    mended = "\n".join(item["found"] for item in found if item["found"].startswith("mended: "))
    assert f"namespace {prefix}-g-{GONE[:11]}" in mended
    assert "address 10.255.255.1" in mended
    assert not left.exists()
    assert not Path("/run/netns", f"{prefix}-g-{GONE[:11]}").exists()
    assert told(cloud)[0] == 0
    until("the guest is still there", lambda: user.compute.get_server(server.id).status == "ACTIVE", 5)


def test_what_guests_left_is_named_and_removed(make_cloud: MakeCloud) -> None:
    """A directory that the compute controller has to see to, and a process without one, which only `doctor` finds."""
    cloud = make_cloud("sandbox", "namespace")
    cloud.up()
    instances = cloud.state_dir / "instances"
    left, lost = instances / GONE, instances / "22222222-2222-4333-8444-555555555555" / "disk"
    words = ["qemu-system-x86_64", "-c", "read line", str(lost)]
    with subprocess.Popen(words, executable="/bin/bash", stdin=subprocess.PIPE) as process:
        try:
            left.mkdir(parents=True)
            code, found = told(cloud)
            assert code == 1, found
            assert f"process {process.pid}: it is the guest of {lost.parent.name}" in str(found)
            assert process.poll() is None

            code, found = told(cloud, "--mend")
            assert code == 0, found
            assert f"mended: process {process.pid}" in str(found)
            assert process.wait(20) != 0
            assert not left.exists()
            assert told(cloud)[0] == 0
        finally:
            process.kill()


def test_a_cloud_that_does_not_run_is_not_audited(make_cloud: MakeCloud) -> None:
    cloud = make_cloud("simulate", "fake")
    cloud.up()
    assert told(cloud)[0] == 0
    cloud.down()
    code, (finding,) = told(cloud)
    assert (code, finding["level"]) == (0, "note")
    assert "does not run" in finding["found"]
