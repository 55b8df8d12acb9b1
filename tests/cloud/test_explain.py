"""`kilonova explain` as a person uses it: what it prints, how it exits, and that its advice is right."""

from __future__ import annotations

import json
import shlex
import subprocess
from typing import Any

from .running import PROGRAMS, RunningCloud, run_program, until


def run(cloud: RunningCloud, name: str, *argv: str) -> subprocess.CompletedProcess[str]:
    """As the member of a project."""
    user = {"OS_USERNAME": name, "OS_PASSWORD": f"secret-{name}", "OS_PROJECT_NAME": name}
    environment = {**cloud.environment, **cloud.credentials(), **user}
    return run_program([str(PROGRAMS / argv[0]), *argv[1:]], environment, False, 60)


def explain(cloud: RunningCloud, name: str, *argv: str) -> Any:
    done = run(cloud, name, "kilonova", "explain", "--json", *argv)
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["verdict"] == "arrives" else 1)
    return found


def test_following_the_advice_makes_the_packet_arrive(light_sandbox: RunningCloud) -> None:
    cloud, name = light_sandbox, "advised"
    user = cloud.member(name)
    image = cloud.upload_tiny(f"image-of-{name}")
    flavor = user.compute.find_flavor("m1.nano", ignore_missing=False)
    server = user.compute.create_server(name="web", image_id=image.id, flavor_id=flavor.id, networks="auto")
    user.compute.wait_for_server(server, wait=60)
    until("the guest has its address", lambda: explain(cloud, name, "web", "outside")["verdict"] == "arrives", 60)

    said = run(cloud, name, "kilonova", "explain", "outside", "web", "80/tcp")
    assert said.returncode == 1
    assert "dropped at floating IP" in said.stdout
    advice = []
    for _ in range(3):
        found = explain(cloud, name, "outside", "web", "80/tcp")
        if found["verdict"] == "arrives":
            break
        advice.append(found["hop"])
        done = run(cloud, name, *shlex.split(found["command"]))
        assert done.returncode == 0, done.stderr
    assert advice == ["floating IP", "ingress group"]
    address = next(iter(user.network.ips())).floating_ip_address

    def page() -> str:
        argv = ("sandbox", "exec", "--", "curl", "-s", "--max-time", "1", f"http://{address}/")
        return cloud.kilonova(*argv, check=False).stdout

    until("the guest's page", lambda: page().strip() == "web", 60)
    said = run(cloud, name, "kilonova", "explain", "outside", address, "80/tcp")
    assert said.returncode == 0, said.stdout
    assert said.stdout.splitlines()[-1].endswith("should arrive")

    user.compute.stop_server(server)
    user.compute.wait_for_server(server, status="SHUTOFF", wait=60)
    found = explain(cloud, name, "outside", "web", "80/tcp")
    assert "does not run" in found["conclusion"], found["conclusion"]
    assert found["command"] == f"openstack server start {server.id}"


def test_what_is_no_question_is_a_usage_error_or_one_line(light_sandbox: RunningCloud) -> None:
    light_sandbox.member("asker")
    assert run(light_sandbox, "asker", "kilonova", "explain", "web").returncode == 2
    assert run(light_sandbox, "asker", "kilonova", "explain", "web", "outside", "80/tcp", "more").returncode == 2
    for words in (("nobody", "outside"), ("outside", "outside"), ("outside", "203.0.113.250")):
        failed = run(light_sandbox, "asker", "kilonova", "explain", *words)
        assert failed.returncode == 1
        assert failed.stdout == ""
        assert len(failed.stderr.splitlines()) == 1
