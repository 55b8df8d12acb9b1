"""Two projects' networks on every host of the lab, with equal addresses: only their VLANs keep them apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kilonova.network.fragments import Names
from kilonova.network.plan import guest_end_name

from .rack import Rack
from .rows import Network, Port, Rows
from .uml import TRUNK, UmlHost

HOSTS = 2
PREFIX = "lab"
SWITCH = Names(PREFIX).switch
CIDR = "10.50.0.0/24"
RED, BLUE = 100, 101


class Lab:
    def __init__(self, rack: Rack, hosts: Sequence[UmlHost]) -> None:
        self.rack = rack
        self.hosts = {host.name: host for host in hosts}
        self.rows = Rows()
        self.red, self.blue = self.rows.network(RED, CIDR), self.rows.network(BLUE, CIDR)
        self.ports: dict[tuple[str, int], Port] = {}
        for number, host in enumerate(hosts, start=1):
            for offset, network in ((10, self.red), (20, self.blue)):
                self.ports[host.name, network.vlan] = self.rows.port(network, host.name, offset + number)
        for host in hosts:
            self.realise(host)
            host.shell("set -e\n" + "".join(plug(port) for port in self.ports_of(host)))

    def close(self) -> None:
        self.rows.close()

    def ports_of(self, host: UmlHost) -> list[Port]:
        return [port for port in self.ports.values() if port.host == host.name]

    def realise(self, host: UmlHost, *, look: bool = False) -> Sequence[str]:
        """Make the host as the rows want it; what was changed."""
        values: dict[str, Any] = {"name": host.name, "prefix": PREFIX, "trunks": {"physnet1": TRUNK}}
        answer = host.ask(realise=self.rows.of_host(host.name), host=values, look=look)
        assert answer["failures"] == {}, f"{host.name}: {answer}"
        changes: Sequence[str] = answer["changes"]
        return changes

    def pings(self, source: Port, target: Port, *, size: int = 56) -> bool:
        words = f"ping -c 2 -i 0.2 -W 1 -M do -s {size} {target.address}"
        return self.hosts[source.host].succeeds(f"ip netns exec {source.name} {words}")

    def devices(self, host: UmlHost) -> str:
        return host.shell(f"ip -d -o -n {SWITCH} link show")


def plug(port: Port) -> str:
    """A script: the port's guest takes its interface and its address."""
    network: Network = port.network
    length = network.cidr.rpartition("/")[2]
    return f"""
ip netns add {port.name}
ip -n {SWITCH} link set {guest_end_name(port.id)} netns {port.name} name eth0
ip -n {port.name} addr add {port.address}/{length} dev eth0
ip -n {port.name} link set eth0 up
"""
