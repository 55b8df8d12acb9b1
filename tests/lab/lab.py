"""Two projects' networks on every host of the lab, with equal addresses: only their VLANs keep them apart.

`host1` and `host2` have kernels of their own, with 802.1Q. `host3` is namespaces of this machine, whose VLAN devices
are tc's, with all filters: a host as in the tier `host`, on the same trunk. A third network, with DHCP, is served by
`host1` and has guests on the others; a fourth is VXLAN, whose underlay is the trunk, untagged.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from kilonova.config import Config, HostConfig
from kilonova.network.fragments import Names
from kilonova.network.host import namespaces
from kilonova.network.host.apply import KernelHost
from kilonova.network.host.removal import remove_everything
from kilonova.network.plan import guest_end_name
from kilonova.network.planner import plan
from kilonova.network.rows import HostRows

from .rack import TRUNK_MTU, Rack
from .rows import Network, Port, Rows
from .uml import TRUNK

OWN_KERNELS = ("host1", "host2")
LOCAL = "host3"
HOSTS = (*OWN_KERNELS, LOCAL)
CIDR = "10.50.0.0/24"
RED, BLUE, SERVED = 100, 101, 102
TUNNELLED = 10001
"""A VNI."""
NETWORK_HOST = "host1"


class LabHost(Protocol):
    name: str
    prefix: str

    def realise(self, rows: HostRows, values: Mapping[str, Any], *, look: bool) -> Mapping[str, Any]:
        """Have the cloud's code make the host as the rows want it: `{failures, changes}`."""

    def shell(self, script: str) -> str:
        """What a script says; it must end well."""

    def succeeds(self, script: str) -> bool: ...

    def end(self) -> None: ...


class LocalHost:
    """The same host code on this machine's kernel."""

    def __init__(self, rack: Rack, directory: Path) -> None:
        self.name = LOCAL
        self.prefix = f"l{os.getpid() % 4096:03x}"
        self._config = Config(directory / self.name, host=HostConfig(**configuration(self), vlan_backend="tc"))
        self._host = KernelHost(self._config)
        self._host.open()
        switch = Names(self.prefix).switch
        rack.join(f"trunk-{self.name}", switch, TRUNK, TRUNK_MTU)

    def realise(self, rows: HostRows, values: Mapping[str, Any], *, look: bool) -> Mapping[str, Any]:
        outcome = self._host.apply(plan(rows, self._config), look=look)
        return {"failures": outcome.failures, "changes": outcome.changes}

    def shell(self, script: str) -> str:
        done = _run(script)
        assert done.returncode == 0, f"{self.name}: {script}\n{done.stdout}"
        return done.stdout

    def succeeds(self, script: str) -> bool:
        return _run(script).returncode == 0

    def end(self) -> None:
        self._host.close()
        for name in namespaces.names(self.prefix):
            if name.startswith(f"{self.prefix}-g-"):
                namespaces.delete(name)
        remove_everything(self._config)


def configuration(host: LabHost) -> dict[str, Any]:
    """Values of `HostConfig`."""
    return {
        "name": host.name,
        "prefix": host.prefix,
        "trunks": {"physnet1": TRUNK},
        "tunnel_interface": TRUNK,
        "tunnel_address": f"{underlay(host.name)}/24",
    }


def underlay(name: str) -> str:
    return f"192.0.2.{HOSTS.index(name) + 1}"


def _run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=50,
        check=False,
    )


class Lab:
    def __init__(self, rack: Rack, hosts: Sequence[LabHost]) -> None:
        self.rack = rack
        self.hosts = {host.name: host for host in hosts}
        self.rows = Rows()
        self.red, self.blue = self.rows.network(RED, CIDR), self.rows.network(BLUE, CIDR)
        self.ports: dict[tuple[str, int], Port] = {}
        for number, host in enumerate(hosts, start=1):
            for offset, network in ((10, self.red), (20, self.blue)):
                self.ports[host.name, network.segment] = self.rows.port(network, host.name, offset + number)
        tunnelled = self.rows.network(TUNNELLED, "10.70.0.0/24", manager="vxlan")
        for number, host in enumerate(hosts, start=1):
            self.rows.underlay(host.name, underlay(host.name))
            self.ports[host.name, TUNNELLED] = self.rows.port(tunnelled, host.name, 10 + number)
        self.served = self.rows.network(SERVED, "10.60.0.0/24", served_by=NETWORK_HOST)
        for number, host in enumerate(hosts, start=1):
            if host.name != NETWORK_HOST:
                self.ports[host.name, SERVED] = self.rows.port(self.served, host.name, 10 + number)
        for host in hosts:
            self.realise(host)
            host.shell("set -e\n" + "".join(plug(port, host) for port in self.ports.values() if port.host == host.name))

    def close(self) -> None:
        self.rows.close()

    def realise(self, host: LabHost, *, look: bool = False) -> Sequence[str]:
        """Make the host as the rows want it; what was changed."""
        answer = host.realise(self.rows.of_host(host.name), configuration(host), look=look)
        assert answer["failures"] == {}, f"{host.name}: {answer}"
        changes: Sequence[str] = answer["changes"]
        return changes

    def pings(self, source: Port, target: Port, *, size: int = 56) -> bool:
        host = self.hosts[source.host]
        words = f"ping -c 2 -i 0.2 -W 1 -M do -s {size} {target.address}"
        return host.succeeds(f"ip netns exec {guest(source, host)} {words}")

    def devices(self, host: LabHost) -> str:
        return host.shell(f"ip -d -o -n {switch(host)} link show")


def switch(host: LabHost) -> str:
    return Names(host.prefix).switch


def guest(port: Port, host: LabHost) -> str:
    """The namespace of a port's guest."""
    return f"{host.prefix}-g-{port.id[:8]}"


def plug(port: Port, host: LabHost) -> str:
    """A script: the port's guest takes its interface and, where there is no DHCP, its address."""
    network: Network = port.network
    name = guest(port, host)
    lines = [
        f"ip netns add {name}",
        f"ip -n {switch(host)} link set {guest_end_name(port.id)} netns {name} name eth0",
        f"ip -n {name} link set eth0 up",
    ]
    if not network.is_served:
        lines.append(f"ip -n {name} addr add {port.address}/{network.cidr.rpartition('/')[2]} dev eth0")
    return "\n".join(lines) + "\n"
