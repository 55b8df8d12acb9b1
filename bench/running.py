"""A cloud to measure: started by `kilonova up` in a directory of its own, reached only through its public interfaces.

The client is the standard library's, on one kept connection, because what it costs itself is in every figure.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KILONOVA = str(Path(sys.executable).parent / "kilonova")
PASSWORD = "bench-password"
JSON = {"Content-Type": "application/json"}


class Failed(Exception):
    """The cloud answered what the benchmark cannot go on with."""


class Client:
    """One caller on one connection. Not for several threads."""

    def __init__(self, address: str, token: str = "") -> None:
        self._address = address
        self.token = token
        self._connection: http.client.HTTPConnection | None = None

    def call(
        self, method: str, path: str, body: Any = None, *, ok: tuple[int, ...] = (200, 201, 202, 204), **headers: str
    ) -> Any:
        """The JSON document of the answer; none when it has no body. Raises `Failed` for another status."""
        status, document, _ = self.exchange(method, path, body, **headers)
        if status not in ok:
            raise Failed(f"{method} {path}: {status} {document}")
        return document

    def exchange(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"X-Auth-Token": self.token, **(JSON if data is not None else {})}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        kept = self._connection is not None
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._address, timeout=60)
            self._connection.connect()
            self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._connection.request(method, path, data, sent)
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            self._connection = None
            if kept and isinstance(error, http.client.RemoteDisconnected):  # it was idle for too long
                return self.exchange(method, path, body, **headers)
            raise
        is_json = content and "json" in answer.headers.get("content-type", "")
        return answer.status, json.loads(content) if is_json else None, {k.lower(): v for k, v in answer.getheaders()}

    def log_in(self, project: str = "admin") -> str:
        """A new token of the administrator for a project."""
        user = {"name": "admin", "domain": {"id": "default"}, "password": PASSWORD}
        scope = {"project": {"name": project, "domain": {"id": "default"}}}
        identity = {"methods": ["password"], "password": {"user": user}}
        status, document, headers = self.exchange(
            "POST", "/identity/v3/auth/tokens", {"auth": {"identity": identity, "scope": scope}}
        )
        if status != 201:
            raise Failed(f"log in: {status} {document}")
        return headers["x-subject-token"]

    def again(self) -> Client:
        """Another connection of the same caller."""
        return Client(self._address, self.token)


@dataclass
class Cloud:
    """A running cloud: the process is a child of this one."""

    state_dir: Path
    address: str
    process: subprocess.Popen[bytes]
    started_at: float
    """time.perf_counter() just before the command."""

    def client(self) -> Client:
        client = Client(self.address)
        client.token = client.log_in()
        return client

    def memory_mb(self) -> dict[str, float]:
        """Of the cloud's process and its children, guests not counted."""
        found = {"rss": 0.0, "pss": 0.0, "processes": 0.0}
        for pid in (self.process.pid, *_children(self.process.pid)):
            try:
                if "qemu" in Path(f"/proc/{pid}/comm").read_text():
                    continue
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    name, _, rest = line.partition(":")
                    if name in {"Rss", "Pss"}:
                        found[name.lower()] += int(rest.split()[0]) / 1024
            except FileNotFoundError:
                continue
            found["processes"] += 1
        return {name: round(value, 1) for name, value in found.items()}

    def cpu_s(self) -> float:
        """Processor time that the cloud's process has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(state_dir: Path, port: int, *options: str) -> Cloud:
    """Run `kilonova up` with these options; does not wait."""
    address = f"127.0.0.1:{port}"
    command = [KILONOVA, "up", "--state-dir", str(state_dir), "--listen", address, "--admin-password", PASSWORD]
    log = open(state_dir.with_suffix(".out"), "ab")  # noqa: SIM115 - handed to the child
    began = time.perf_counter()
    process = subprocess.Popen([*command, *options], stdout=log, stderr=log)
    log.close()
    return Cloud(state_dir, address, process, began)


def wait(cloud: Cloud, *, timeout_s: float = 30.0) -> float:
    """Until an authenticated GET of the servers succeeds; seconds since the command. Raises `Failed`."""
    client = Client(cloud.address)
    while time.perf_counter() - cloud.started_at < timeout_s:
        if cloud.process.poll() is not None:
            raise Failed(f"the cloud ended: {cloud.state_dir.with_suffix('.out').read_text()[-2000:]}")
        try:
            client.token = client.token or client.log_in()
            client.call("GET", "/compute/v2.1/servers", ok=(200,))
        except (OSError, http.client.HTTPException):
            time.sleep(0.005)
            continue
        return time.perf_counter() - cloud.started_at
    raise Failed(f"the cloud did not answer within {timeout_s:g} s")


def stop(cloud: Cloud) -> None:
    """End the cloud and everything of it."""
    down = [KILONOVA, "down", "--purge", "--state-dir", str(cloud.state_dir)]
    subprocess.run(down, stdout=subprocess.DEVNULL, check=False, timeout=60)
    if cloud.process.poll() is None:
        cloud.process.send_signal(signal.SIGKILL)
    cloud.process.wait(20)


@contextmanager
def running(*options: str) -> Iterator[Cloud]:
    """A cloud in a directory of its own that ends with the block."""
    parent = Path(tempfile.mkdtemp(prefix="kilonova-bench-"))
    cloud = start(parent / "state", free_port(), *options)
    try:
        wait(cloud)
        yield cloud
    finally:
        stop(cloud)
        shutil.rmtree(parent, ignore_errors=True)


def until(look: Callable[[], bool], *, timeout_s: float, every_s: float, what: str) -> None:
    give_up = time.perf_counter() + timeout_s
    while not look():
        if time.perf_counter() > give_up:
            raise Failed(f"not within {timeout_s:g} s: {what}")
        time.sleep(every_s)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            direct = [int(word) for word in (task / "children").read_text().split()]
        except FileNotFoundError:
            continue
        for child in direct:
            found += [child, *_children(child)]
    return found
