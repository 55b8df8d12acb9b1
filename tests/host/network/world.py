"""Builds rows, runs the agent, and plays the guests: the arrange and act parts of the tests of the host side."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, update

from kilonova.bus.local import LocalBus
from kilonova.config import Config, HostConfig
from kilonova.context import system_context
from kilonova.ids import new_id
from kilonova.network.agent import NetworkAgent
from kilonova.network.host import namespaces
from kilonova.network.host.inspect import survey
from kilonova.network.host.removal import remove_everything
from kilonova.network.layout import Layout
from kilonova.network.plan import guest_end_name, tap_name
from kilonova.store import schema
from kilonova.store.database import Store
from kilonova.store.ports import release_port

HOST = "host1"
PUBLIC_CIDR = "203.0.113.0/24"
LISTENER = """
import socket, sys
with socket.create_server(("", int(sys.argv[1]))) as server:
    while True:
        client, peer = server.accept()
        client.sendall(peer[0].encode())
        client.close()
"""
UDHCPC_SCRIPT = """#!/bin/sh
case $1 in
bound|renew)
  ip link set $interface mtu ${mtu:-1500}
  ip -4 addr flush dev $interface
  ip -4 addr add $ip/$mask dev $interface
  set -- $staticroutes
  while [ $# -ge 2 ]; do ip route replace $1 via $2 dev $interface onlink; shift 2; done
  echo "$ip" > "$LEASE";;
esac
"""


@dataclass(frozen=True)
class Network:
    id: str
    subnet_id: str
    cidr: str
    bridge: str
    project_id: str
    router_id: str = ""
    host: str = HOST
    """Where its services are."""

    def address(self, offset: int) -> str:
        return str(ip_network(self.cidr)[offset])


@dataclass(frozen=True)
class Guest:
    port_id: str
    instance_id: str
    mac: str
    address: str
    namespace: str
    network: Network

    def run(self, *argv: str, timeout_s: float = 20.0) -> subprocess.CompletedProcess[str]:
        return namespaces.run_inside(self.namespace, _run, argv, timeout_s)


class World:
    """One host. `beside`: another one, whose store and bus it shares (see `fabric.Fabric`)."""

    def __init__(
        self, directory: Path, prefix: str, *, name: str = HOST, beside: World | None = None, **host: Any
    ) -> None:
        self.directory = directory
        self.name = name
        values: dict[str, Any] = {"public_gateway": "203.0.113.1", "poll_interval_s": 600.0, **host}
        self.config = Config(
            state_dir=directory / f"state-{name}",
            host=HostConfig(name=name, prefix=prefix, driver="namespace", **values),
        )
        self.store: Store = beside.store if beside else Store(self.config.database_url)
        self.bus: LocalBus = beside.bus if beside else LocalBus()
        self.shares = beside is not None
        self.numbers: Iterator[int] = beside.numbers if beside else count(101)
        """VLAN ids, and the offsets of routers' public addresses."""
        self.agent = NetworkAgent(self.store, self.bus, self.config)
        self.guests: list[str] = []
        self.processes: list[subprocess.Popen[str]] = []
        self.switch = f"{prefix}-switch"
        self.outside = f"{prefix}-outside"

    async def open(self) -> None:
        self.config.state_dir.mkdir()
        if not self.shares:
            await self.store.open()
        await self.agent.start()

    async def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        await self.agent.stop()
        if not self.shares:
            await self.bus.close()
            await self.store.close()
        for name in self.guests:
            namespaces.delete(name)
        remove_everything(self.config)

    def configure(self, **host: Any) -> None:
        """Other values for the next start of the agent."""
        self.config = replace(self.config, host=replace(self.config.host, **host))

    async def restart_agent(self, config: Config | None = None) -> None:
        await self.agent.stop()
        self.agent = NetworkAgent(self.store, self.bus, config or self.config)
        await self.agent.start()

    async def call(self, method: str, *, host: str = "", **args: str) -> Any:
        """Ask this host's agent, or another one's."""
        return await self.bus.call(
            f"network.{host or self.name}", method, args, context=system_context(), deadline_s=20
        )

    async def look(self) -> None:
        answer = await self.call("look_again")
        assert answer["failures"] == {}

    async def look_at_host(self) -> None:
        """What the timer does: compare with the kernel."""
        self.agent._look = True
        await self.look()

    # -------------------------------------------------------------------------------------------- rows
    async def public_network(self) -> Network:
        network = Network(new_id(), new_id(), PUBLIC_CIDR, "br-public", "admin", host=self.name)
        await self.store.write(_network, network, external=True, segment=None, service=None, gateway="203.0.113.1")
        return network

    async def network(
        self, cidr: str = "10.0.0.0/24", project: str = "", public: Network | None = None, **values: Any
    ) -> Network:
        """A project network whose services are on this host and, with `public`, a router on it here.

        `values`: columns of the network (manager, bridge, ...) that are not a VLAN's.
        """
        number = next(self.numbers)
        router_id = new_id() if public else ""
        bridge = values.setdefault("bridge", f"br{number}")
        network = Network(new_id(), new_id(), cidr, bridge, project or new_id(), router_id, self.name)

        def rows(tx: Connection) -> None:
            segment = values.pop("segmentation_id", number)
            service, gateway = network.address(2), network.address(1)
            _network(tx, network, external=False, segment=segment, service=service, gateway=gateway, **values)
            _address(tx, network, _port(tx, network, owner="network:dhcp", host=self.name), service)
            if public is not None:
                router = {"id": router_id, "project_id": network.project_id, "external_network_id": public.id}
                tx.execute(insert(schema.routers).values(**router, host=self.name))
                leg = _port(tx, network, owner="network:router_interface", device=router_id)
                _address(tx, network, leg, network.address(1))
                uplink = _port(tx, public, owner="network:router_gateway", device=router_id)
                _address(tx, public, uplink, public.address(number))

        await self.store.write(rows)
        return network

    async def delete_network(self, network: Network, *, pool: bool = False) -> None:
        """As the controller does: no port left; with `pool` it was one of the pool and goes back there."""

        def rows(tx: Connection) -> None:
            ports = tx.execute(schema.ports.select().where(schema.ports.c.network_id == network.id)).mappings().all()
            for port in ports:
                release_port(tx, port["id"])
            for table in (schema.addresses, schema.allocation_pools, schema.subnets):
                column = table.c.network_id if "network_id" in table.c else table.c.subnet_id
                tx.execute(delete(table).where(column.in_([network.id, network.subnet_id])))
            tx.execute(delete(schema.networks).where(schema.networks.c.id == network.id))
            if pool:
                values = {"id": new_id(), "physical_network": "physnet1", "bridge": network.bridge, "position": 0}
                values |= {"cidr": network.cidr, "project_id": network.project_id, "released_host": network.host}
                tx.execute(insert(schema.pool_networks).values(**values, released_at=schema.now()))

        await self.store.write(rows)

    async def attach(self, network: Network, router_id: str) -> None:
        """Give a router a leg on the network, at its gateway address."""

        def rows(tx: Connection) -> None:
            leg = _port(tx, network, owner="network:router_interface", device=router_id)
            _address(tx, network, leg, network.address(1))

        await self.store.write(rows)

    async def update_router(self, network: Network, **values: Any) -> None:
        await self.update(schema.routers, network.router_id, **values)

    async def group(self, project: str, rules: Iterable[dict[str, Any]] = (), *, egress: bool = True) -> str:
        group_id = new_id()

        def rows(tx: Connection) -> None:
            tx.execute(insert(schema.security_groups).values(id=group_id, project_id=project, name=group_id[:8]))
            if egress:
                for ethertype in ("IPv4", "IPv6"):
                    _rule(tx, group_id, project, {"direction": "egress", "ethertype": ethertype})
            for rule in rules:
                _rule(tx, group_id, project, rule)

        await self.store.write(rows)
        return group_id

    async def default_group(self, project: str) -> str:
        """Its members reach each other; nothing else comes in."""
        group_id = await self.group(project)
        for ethertype in ("IPv4", "IPv6"):
            await self.rule(group_id, ethertype=ethertype, remote_group_id=group_id)
        return group_id

    async def rule(self, group_id: str, **values: Any) -> str:
        return await self.store.write(_rule, group_id, "", {"direction": "ingress", "ethertype": "IPv4", **values})

    async def remove_rule(self, rule_id: str) -> None:
        rules = schema.security_group_rules
        await self.store.write(lambda tx: tx.execute(delete(rules).where(rules.c.id == rule_id)).rowcount)

    async def regroup(self, guest: Guest, groups: Iterable[str]) -> None:
        """Give a port other groups."""
        links = schema.port_security_groups

        def rows(tx: Connection) -> None:
            tx.execute(delete(links).where(links.c.port_id == guest.port_id))
            for group in groups:
                tx.execute(insert(links).values(port_id=guest.port_id, security_group_id=group))

        await self.store.write(rows)

    async def port(
        self, network: Network, offset: int, groups: Iterable[str] = (), *, vif: str = "veth", **values: Any
    ) -> Guest:
        """An instance and its port, bound to this host."""
        instance_id = new_id()
        address = network.address(offset)

        def rows(tx: Connection) -> tuple[str, str]:
            tx.execute(
                insert(schema.instances).values(
                    id=instance_id,
                    project_id=network.project_id,
                    user_id="user",
                    name=f"guest-{offset}",
                    hostname=f"guest-{offset}",
                    flavor_id="1",
                    vcpus=1,
                    ram_mb=64,
                    disk_gb=1,
                    reservation_id="r-1",
                    host=self.name,
                )
            )
            port_id = _port(tx, network, owner="compute:nova", device=instance_id, host=self.name, vif=vif, **values)
            _address(tx, network, port_id, address)
            for group in groups:
                tx.execute(insert(schema.port_security_groups).values(port_id=port_id, security_group_id=group))
            mac = tx.execute(schema.ports.select().where(schema.ports.c.id == port_id)).mappings().one()["mac"]
            return port_id, mac

        port_id, mac = await self.store.write(rows)
        namespace = f"{self.config.host.prefix}-g-{instance_id[:11]}"
        return Guest(port_id, instance_id, mac, address, namespace, network)

    async def floating_ip(self, public: Network, offset: int, guest: Guest) -> str:
        address = public.address(offset)

        def rows(tx: Connection) -> None:
            port_id = _port(tx, public, owner="network:floatingip")
            _address(tx, public, port_id, address)
            tx.execute(
                insert(schema.floating_ips).values(
                    id=new_id(),
                    project_id=guest.network.project_id,
                    floating_network_id=public.id,
                    floating_port_id=port_id,
                    address=address,
                    fixed_port_id=guest.port_id,
                    fixed_address=guest.address,
                    router_id=guest.network.router_id,
                )
            )

        await self.store.write(rows)
        return address

    async def delete_port(self, port_id: str) -> None:
        await self.store.write(release_port, port_id)

    async def update(self, table: Any, row_id: str, **values: Any) -> None:
        await self.store.write(
            lambda tx: tx.execute(update(table).where(table.c.id == row_id).values(**values)).rowcount
        )

    async def row(self, table: Any, row_id: str) -> Any:
        return await self.store.read(
            lambda tx: dict(tx.execute(table.select().where(table.c.id == row_id)).mappings().one())
        )

    async def rows(self, table: Any) -> list[Any]:
        return await self.store.read(lambda tx: [dict(row) for row in tx.execute(table.select()).mappings()])

    # -------------------------------------------------------------------------------------------- guests
    async def guest(self, network: Network, offset: int, groups: Iterable[str] = (), **values: Any) -> Guest:
        """A guest with its address configured by hand."""
        guest = await self.port(network, offset, groups, **values)
        await self.wire(guest)
        length = ip_network(network.cidr).prefixlen
        guest.run("ip", "addr", "add", f"{guest.address}/{length}", "dev", "eth0")
        guest.run("ip", "route", "add", "default", "via", network.address(1))
        return guest

    async def wire(self, guest: Guest) -> None:
        """Wire the port and plug the guest in."""
        await self.call("realise", host=guest.network.host, network_id=guest.network.id)
        answer = await self.call("wire", port_id=guest.port_id)
        assert answer["device"] == tap_name(guest.port_id)
        self.plug(guest)

    def plug(self, guest: Guest) -> None:
        end = guest_end_name(guest.port_id)
        if not namespaces.exists(guest.namespace):
            self.guests.append(guest.namespace)
            namespaces.create(guest.namespace, lambda: None)
        self.inside(self.switch, "ip", "link", "set", end, "netns", guest.namespace, "name", "eth0")
        for words in ("link set lo up", "link set eth0 up"):
            guest.run("ip", *words.split())

    async def dhcp(self, guest: Guest) -> str:
        """The lease a guest gets; empty when nobody answers."""
        script = self.directory / "udhcpc.sh"
        script.write_text(UDHCPC_SCRIPT)
        script.chmod(0o755)
        lease = self.directory / f"lease-{guest.port_id}"
        lease.unlink(missing_ok=True)
        argv = ["env", f"LEASE={lease}", "busybox", "udhcpc", "-f", "-q", "-n", "-i", "eth0", "-s", str(script)]
        argv += ["-t", "5", "-T", "1", "-O", "staticroutes", "-O", "mtu", "-x", f"hostname:{guest.instance_id[:8]}"]
        await asyncio.to_thread(guest.run, *argv)
        return lease.read_text().strip() if lease.exists() else ""

    def inside(self, namespace: str, *argv: str, timeout_s: float = 20.0, check: bool = True) -> str:
        done = namespaces.run_inside(namespace, _run, argv, timeout_s)
        assert not check or done.returncode == 0, f"{argv}: {done.stderr}{done.stdout}"
        return done.stdout

    def background(self, namespace: str, *argv: str) -> subprocess.Popen[str]:
        process = namespaces.run_inside(namespace, _popen, argv)
        self.processes.append(process)
        return process

    def listen(self, guest: Guest, port: int) -> None:
        """Answer each TCP connection to a port with the peer's address."""
        self.listen_in(guest.namespace, port)

    def listen_in(self, namespace: str, port: int) -> None:
        self.background(namespace, sys.executable, "-S", "-c", LISTENER, str(port))
        until(
            lambda: f":{port:04X} 00000000:0000 0A " in self.inside(namespace, "cat", "/proc/net/tcp"), "the listener"
        )


def pings(namespace: str, address: str, *, wait_s: int = 1) -> bool:
    """Asks several times: after one that nobody answered the kernel waits up to a second with the next ARP request."""
    argv = ["ping", "-c", "1", "-i", "0.25", "-w", str(wait_s + 1), address]
    return namespaces.run_inside(namespace, _run, argv, 10.0).returncode == 0


def connects(namespace: str, address: str, port: int, *, wait_s: int = 3) -> str:
    """What the listener says (its peer's address); empty when there is no connection."""
    argv = ["busybox", "timeout", str(wait_s + 1), "busybox", "nc", "-w", str(wait_s), address, str(port)]
    done = namespaces.run_inside(namespace, _run, argv, 10.0)
    return done.stdout


def until(condition: Callable[[], bool], what: str, within_s: float = 5.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {within_s} s"
        time.sleep(0.02)


def inspect_namespace(name: str) -> Layout:
    """What the kernel has in a namespace, as far as a plan can say it; raises `NotFound`."""
    return survey(name).layout


async def eventually(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """As `until`, while agents go on working."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.02)


def _run(argv: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        list(argv), capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL, check=False
    )


def _popen(argv: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )


def _network(
    tx: Connection,
    /,
    network: Network,
    *,
    external: bool,
    segment: int | None,
    service: str | None,
    gateway: str,
    **values: Any,
) -> None:
    row = {
        "id": network.id,
        "project_id": network.project_id,
        "manager": "flat" if external else "vlan",
        "physical_network": "public" if external else "physnet1",
        "segmentation_id": segment,
        "bridge": network.bridge,
        "external": external,
        "host": None if external else network.host,
    }
    tx.execute(insert(schema.networks).values({**row, **values}))
    tx.execute(
        insert(schema.subnets).values(
            id=network.subnet_id,
            network_id=network.id,
            project_id=network.project_id,
            cidr=network.cidr,
            gateway_ip=gateway,
            enable_dhcp=not external,
            service_address=service,
            host=network.host if external else None,
        )
    )
    last = ip_network(network.cidr).num_addresses - 2
    tx.execute(
        insert(schema.allocation_pools).values(
            id=new_id(), subnet_id=network.subnet_id, first_offset=3, last_offset=last, next_offset=last + 1
        )
    )


def _port(tx: Connection, network: Network, *, owner: str, device: str = "", host: str = "", **values: Any) -> str:
    port_id = new_id()
    mac = "fa:16:3e:" + ":".join(port_id[position : position + 2] for position in (0, 2, 4))
    row = {"id": port_id, "network_id": network.id, "project_id": network.project_id, "mac": mac, **values}
    tx.execute(insert(schema.ports).values(device_owner=owner, device_id=device, host=host, **row))
    return port_id


def _address(tx: Connection, network: Network, port_id: str, address: str) -> None:
    row = {"subnet_id": network.subnet_id, "network_id": network.id, "address": address}
    tx.execute(insert(schema.addresses).values(port_id=port_id, **row))


def _rule(tx: Connection, group_id: str, project: str, values: dict[str, Any]) -> str:
    rule_id = new_id()
    row = {"id": rule_id, "security_group_id": group_id, "project_id": project, **values}
    tx.execute(insert(schema.security_group_rules).values(**row))
    return rule_id
