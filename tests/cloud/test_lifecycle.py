"""`kilonova up|down|status` as a person uses them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from .conftest import MakeCloud
from .running import RunningCloud, free_port, until


def test_a_simulated_cloud_needs_no_root_and_answers_when_up_returns(make_cloud: MakeCloud) -> None:
    cloud = make_cloud("simulate", "fake")
    cloud.up()
    assert list(cloud.connect().compute.servers()) == []
    status = json.loads(cloud.kilonova("status", "--json").stdout)
    assert status["running"] is True
    assert {service["kind"] for service in status["services"]} >= {"network", "compute"}


def test_secrets_are_readable_by_their_owner_only(simulated: RunningCloud) -> None:
    for name in ("openrc", "clouds.yaml", "kilonova.sqlite", "kilonova.sqlite-wal", "kilonova.sqlite-shm"):
        mode = stat.S_IMODE((simulated.state_dir / name).stat().st_mode)
        assert mode == 0o600, f"{name} has mode {mode:o}"


def test_clouds_yaml_works(simulated: RunningCloud) -> None:
    environment = {"OS_CLIENT_CONFIG_FILE": str(simulated.state_dir / "clouds.yaml"), "OS_CLOUD": "kilonova"}
    program = next(Path(p) / "openstack" for p in simulated.environment["PATH"].split(":"))
    done = subprocess.run(
        [str(program), "token", "issue", "-f", "json"],
        env={**simulated.environment, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout)["id"]


def test_passwords_and_tokens_are_not_in_the_logs(simulated: RunningCloud) -> None:
    token = simulated.openstack_json("token", "issue")["id"]
    password = simulated.credentials()["OS_PASSWORD"]
    logged = "".join(path.read_text() for path in (simulated.state_dir / "logs").iterdir())
    assert "/identity/v3/auth/tokens" in logged
    assert token not in logged
    assert password not in logged


def test_down_ends_it_and_up_resumes_the_same_cloud(make_cloud: MakeCloud) -> None:
    cloud = make_cloud("simulate", "fake")
    cloud.up()
    image = cloud.upload_tiny()
    user = cloud.connect()
    flavor = user.compute.find_flavor("m1.nano", ignore_missing=False)
    server = user.compute.create_server(name="kept", image_id=image.id, flavor_id=flavor.id, networks="auto")
    user.compute.wait_for_server(server, wait=20, interval=0.05)
    before = cloud.credentials()
    cloud.down()
    assert cloud.kilonova("status", check=False).returncode == 1
    cloud.up()
    assert cloud.credentials() == before
    again = cloud.connect()
    until("ACTIVE again", lambda: again.compute.get_server(server.id).status == "ACTIVE", 20)


def test_down_twice_is_no_error(make_cloud: MakeCloud) -> None:
    cloud = make_cloud("simulate", "fake")
    cloud.up()
    cloud.down()
    cloud.down()


def test_admin_password_can_be_chosen_and_changed(make_cloud: MakeCloud) -> None:
    cloud = make_cloud("simulate", "fake")
    cloud.up("--admin-password", "first words")
    assert cloud.connect(password="first words").authorize()
    cloud.down()
    cloud.up("--admin-password", "other words")
    assert cloud.connect(password="other words").authorize()


def test_a_password_changed_through_the_api_survives_a_restart(make_cloud: MakeCloud) -> None:
    cloud = make_cloud("simulate", "fake")
    cloud.up("--admin-password", "first words")
    user = cloud.connect()
    body = {"user": {"password": "other words", "original_password": "first words"}}
    assert user.identity.post(f"/users/{user.current_user_id}/password", json=body).status_code == 204
    cloud.down()
    cloud.up()
    assert cloud.connect(password="other words").authorize()


def test_a_second_up_on_the_same_directory_is_refused(simulated: RunningCloud) -> None:
    refused = simulated.up(check=False)
    assert refused.returncode == 1
    assert "already served" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_a_taken_port_is_named(simulated: RunningCloud, tmp_path: Path) -> None:
    other = RunningCloud(tmp_path / "other", "simulate", "fake", simulated.port)
    refused = other.up(check=False)
    assert refused.returncode == 1
    assert f"127.0.0.1:{simulated.port}" in refused.stderr


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1:0", "127.0.0.1:99999"])
def test_a_bad_listen_address_is_a_usage_error(tmp_path: Path, listen: str) -> None:
    cloud = RunningCloud(tmp_path / "x", "simulate", "fake")
    refused = cloud.kilonova("up", "--simulate", "--listen", listen, check=False)
    assert refused.returncode == 2
    assert listen in refused.stderr


def test_simulate_with_a_real_driver_is_refused(tmp_path: Path) -> None:
    cloud = RunningCloud(tmp_path / "x", "simulate", "qemu", free_port())
    refused = cloud.up(check=False)
    assert refused.returncode == 1
    assert "--driver qemu" in refused.stderr


def test_status_of_nothing_says_how_to_begin(tmp_path: Path) -> None:
    cloud = RunningCloud(tmp_path / "nothing", "simulate", "fake")
    said = cloud.kilonova("status", check=False)
    assert said.returncode == 1
    assert "kilonova up" in said.stderr


def test_guests_outlive_a_killed_process_and_come_back_after_down(make_cloud: MakeCloud) -> None:
    cloud = make_cloud("sandbox", "namespace")
    cloud.up()
    image = cloud.upload_tiny()
    user = cloud.connect()
    flavor = user.compute.find_flavor("m1.nano", ignore_missing=False)
    server = user.compute.create_server(name="kept", image_id=image.id, flavor_id=flavor.id, networks="auto")
    server = user.compute.wait_for_server(server, wait=20, interval=0.05)
    public = next(user.network.networks(is_router_external=True))
    group = next(user.network.security_groups(name="default", project_id=user.current_project_id))
    user.network.create_security_group_rule(
        security_group_id=group.id,
        direction="ingress",
        ethertype="IPv4",
        protocol="tcp",
        port_range_min=80,
        port_range_max=80,
    )
    floating = user.network.create_ip(
        floating_network_id=public.id, port_id=next(user.network.ports(device_id=server.id)).id
    )

    def answers() -> bool:
        url = f"http://{floating.floating_ip_address}/"
        said = cloud.kilonova("sandbox", "exec", "--", "curl", "-s", "--max-time", "1", url, check=False)
        return said.returncode == 0

    until("HTTP", answers, 30)
    cloud.kill()
    assert answers(), "the guest must answer while the control process is dead"
    cloud.up()
    assert answers()
    cloud.down()
    assert not answers()
    cloud.up()
    until("HTTP after down and up", answers, 30)


def test_down_purge_leaves_nothing(make_cloud: MakeCloud) -> None:
    cloud = make_cloud("sandbox", "namespace")
    cloud.up()
    prefix = cloud.prefix
    image = cloud.upload_tiny()
    user = cloud.connect()
    flavor = user.compute.find_flavor("m1.nano", ignore_missing=False)
    server = user.compute.create_server(name="one", image_id=image.id, flavor_id=flavor.id, networks="auto")
    user.compute.wait_for_server(server, wait=20, interval=0.05)
    cloud.down("--purge")
    assert not cloud.state_dir.exists()
    namespaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    assert f"{prefix}-" not in namespaces
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and _mentions(pid, str(cloud.state_dir))]


def _mentions(pid: str, words: str) -> bool:
    try:
        return words in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
