"""A cloud that runs for a test: started by `kilonova up` in a directory of its own, used by real clients."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openstack
from openstack.connection import Connection

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(sys.executable).parent
TINY = ROOT / "build" / "image" / "tiny.qcow2"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(what: str, look: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """Look until there is something; fails with `what` at the deadline."""
    give_up = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < give_up, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.03)
    return found


@dataclass
class RunningCloud:
    state_dir: Path
    mode: str
    driver: str
    port: int = field(default_factory=free_port)

    # ------------------------------------------------------------------------------------------ life
    def up(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        known = [] if (self.state_dir / "options.json").exists() else self._first_options()
        return self.kilonova("up", "--detach", *known, *options, check=check)

    def _first_options(self) -> list[str]:
        return [f"--{self.mode}", "--driver", self.driver, "--listen", f"127.0.0.1:{self.port}"]

    def down(self, *options: str) -> None:
        self.kilonova("down", *options)

    @property
    def prefix(self) -> str:
        """Begins the names of its namespaces."""
        return str(json.loads((self.state_dir / "options.json").read_text())["prefix"])

    def pid(self) -> int:
        return int((self.state_dir / "run" / "kilonova.pid").read_text())

    def kill(self) -> None:
        """End the process as a power failure would."""
        pid = self.pid()
        descriptor = os.pidfd_open(pid)
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        until(f"process {pid} gone", lambda: not Path(f"/proc/{pid}/cmdline").exists() or _is_zombie(pid), 10)
        os.close(descriptor)

    # ------------------------------------------------------------------------------------------ clients
    @property
    def environment(self) -> dict[str, str]:
        """What a person's shell has after `source openrc`, and where programs are."""
        base = {k: v for k, v in os.environ.items() if not k.startswith("OS_")}
        path = f"{PROGRAMS}:{base.get('PATH', '')}:/usr/sbin:/sbin"
        return {**base, "PATH": path, "KILONOVA_STATE_DIR": str(self.state_dir)}

    def credentials(self) -> dict[str, str]:
        found = {}
        for line in (self.state_dir / "openrc").read_text().splitlines():
            name, _, value = shlex.split(line)[1].partition("=")
            found[name] = value
        return found

    def kilonova(self, *args: str, check: bool = True, timeout_s: float = 90) -> subprocess.CompletedProcess[str]:
        return run_program([str(PROGRAMS / "kilonova"), *args], self.environment, check, timeout_s)

    def openstack(
        self, *args: str, check: bool = True, as_user: tuple[str, str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The real client; `as_user` is (user, password, project), else the administrator."""
        environment = {**self.environment, **self.credentials()}
        if as_user:
            environment.update(OS_USERNAME=as_user[0], OS_PASSWORD=as_user[1], OS_PROJECT_NAME=as_user[2])
        return run_program([str(PROGRAMS / "openstack"), *args], environment, check, 120)

    def openstack_json(self, *args: str, as_user: tuple[str, str, str] | None = None) -> Any:
        return json.loads(self.openstack(*args, "-f", "json", as_user=as_user).stdout)

    def connect(self, user: str = "", password: str = "", project: str = "") -> Connection:
        """openstacksdk, as the administrator unless a user is named."""
        base = self.credentials()
        return openstack.connect(
            load_yaml_config=False,
            load_envvars=False,
            auth_type="password",
            auth_url=base["OS_AUTH_URL"],
            username=user or base["OS_USERNAME"],
            password=password or base["OS_PASSWORD"],
            project_name=project or base["OS_PROJECT_NAME"],
            user_domain_name="Default",
            project_domain_name="Default",
            region_name=base["OS_REGION_NAME"],
            app_name="kilonova-tests",
        )

    def member(self, name: str) -> Connection:
        """A new project with one member, named alike; a connection as that member."""
        admin = self.connect()
        project = admin.identity.create_project(name=name, domain_id="default")
        user = admin.identity.create_user(name=name, password="secret-" + name, domain_id="default")
        role = admin.identity.find_role("member", ignore_missing=False)
        admin.identity.assign_project_role_to_user(project, user, role)
        return self.connect(name, "secret-" + name, name)

    def upload_tiny(self, name: str = "tiny", content: bytes | None = None) -> Any:
        """A public image: the real one for guests that boot, else any bytes."""
        admin = self.connect()
        if content is None and self.driver == "qemu":
            assert TINY.exists(), f"{TINY} is missing: `make image` builds it"
            content = TINY.read_bytes()
        image = admin.image.create_image(
            name=name,
            container_format="bare",
            disk_format="qcow2" if self.driver == "qemu" else "raw",
            visibility="public",
            data=content or b"kilonova" * 512,
        )
        return admin.image.get_image(image.id)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def run_program(
    argv: list[str], environment: dict[str, str], check: bool, timeout_s: float, directory: Path | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environment,
        cwd=directory,
        check=False,
    )
    words = f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert not check or done.returncode == 0, words
    return done


class AsUser(RunningCloud):
    """The same cloud in the shell of somebody else."""

    def __init__(self, *where: Any) -> None:
        *place, self._user = where
        super().__init__(*place)

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, **self.credentials(), **self._user}


def told(cloud: RunningCloud, *args: str) -> Any:
    """What a command prints with `--json`."""
    return json.loads(cloud.kilonova(*args, "--json").stdout)


def refused(cloud: RunningCloud, *args: str) -> str:
    """The one line with which a command fails."""
    failed: subprocess.CompletedProcess[str] = cloud.kilonova(*args, check=False)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert failed.stdout == ""
    lines = failed.stderr.splitlines()
    assert len(lines) == 1, failed.stderr
    assert lines[0].startswith("kilonova: ")
    return lines[0]
