"""A VPN in a world of namespaces: its rows, and a client far outside that runs WireGuard from the client's file."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import Connection, delete, insert, select

from kilonova.ids import new_id
from kilonova.network.host import namespaces
from kilonova.network.host.wireguard import end_processes
from kilonova.network.vpn_files import ClientFile, Keys, new_keys
from kilonova.store import schema
from kilonova.store.ports import release_port

from .world import HOST, Network, World, _address, _port, _run, until

PROJECT_MTU = 1420


@dataclass(frozen=True)
class Vpn:
    id: str
    network: Network
    port: int
    keys: Keys
    address: str
    """Of the router, outside."""


@dataclass
class VpnClient:
    """Its file, and once it is connected its namespace."""

    id: str
    port_id: str
    address: str
    file: str
    namespace: str = ""
    device: str = field(default_factory=lambda: "wc" + new_id()[:8])


async def vpn(world: World, network: Network, *, port: int = 1000) -> Vpn:
    """The row of a project's VPN, in the router of its network."""
    keys = new_keys()
    vpn_id = new_id()

    def rows(tx: Connection) -> str:
        values = {"id": vpn_id, "project_id": network.project_id, "router_id": network.router_id, "port": port}
        tx.execute(insert(schema.vpns).values(**values, private_key=keys.private, public_key=keys.public))
        ports, addresses = schema.ports, schema.addresses
        query = (
            select(addresses.c.address)
            .join(ports, ports.c.id == addresses.c.port_id)
            .where(ports.c.device_id == network.router_id, ports.c.device_owner == "network:router_gateway")
        )
        return str(tx.execute(query).scalar_one())

    address = await world.store.write(rows)
    return Vpn(vpn_id, network, port, keys, address)


async def client(world: World, of: Vpn, offset: int, groups: list[str], *, user: str = "") -> VpnClient:
    """The rows of a client at an address of the network, in these groups."""
    keys, network = new_keys(), of.network
    client_id = new_id()

    def rows(tx: Connection) -> str:
        port_id = _port(tx, network, owner="network:vpn_client", device=network.router_id, host=HOST)
        _address(tx, network, port_id, network.address(offset))
        for group in groups:
            tx.execute(insert(schema.port_security_groups).values(port_id=port_id, security_group_id=group))
        values = {"id": client_id, "vpn_id": of.id, "user_name": user or client_id, "port_id": port_id}
        tx.execute(insert(schema.vpn_clients).values(**values, public_key=keys.public))
        return port_id

    port_id = await world.store.write(rows)
    file = ClientFile(
        project=network.project_id,
        user=user or client_id,
        private_key=keys.private,
        address=network.address(offset),
        mtu=PROJECT_MTU,
        server_key=of.keys.public,
        endpoint=f"{of.address}:{of.port}",
        networks=(network.cidr,),
        local_dns=network.address(2),
    )
    return VpnClient(client_id, port_id, network.address(offset), file.text())


async def revoke(world: World, gone: VpnClient) -> None:
    def rows(tx: Connection) -> None:
        tx.execute(delete(schema.vpn_clients).where(schema.vpn_clients.c.id == gone.id))
        release_port(tx, gone.port_id)

    await world.store.write(rows)


async def delete_vpn(world: World, gone: Vpn, clients: Sequence[VpnClient]) -> None:
    for each in clients:
        await revoke(world, each)

    def rows(tx: Connection) -> int:
        return tx.execute(delete(schema.vpns).where(schema.vpns.c.id == gone.id)).rowcount

    await world.store.write(rows)


def connect(world: World, joining: VpnClient, *, number: int = 0) -> None:
    """Its packets appear in a namespace of its own, its socket is outside (wireguard.com/netns)."""
    joining.namespace = f"{world.config.host.prefix}-c{number}"
    namespaces.create(joining.namespace, lambda: None)
    world.guests.append(joining.namespace)
    world.inside(world.outside, "setsid", "wireguard-go", joining.device)
    path = world.directory / f"{joining.device}.conf"
    path.write_text(joining.file)
    path.chmod(0o600)
    stripped = world.inside(world.outside, "wg-quick", "strip", str(path))
    namespaces.run_inside(world.outside, _set_up, joining.device, stripped)
    world.inside(world.outside, "ip", "link", "set", joining.device, "netns", joining.namespace)
    wanted = dict(line.split(" = ") for line in joining.file.splitlines() if " = " in line)
    more = ["ip link set lo up", f"ip addr add {wanted['Address']} dev {joining.device}"]
    more += [f"ip link set {joining.device} mtu {wanted['MTU']} up"]
    more += [f"ip route add {network} dev {joining.device}" for network in wanted["AllowedIPs"].split(", ")]
    for line in more:
        world.inside(joining.namespace, *line.split())


def disconnect_all(world: World) -> None:
    """End the clients' processes; their namespaces go with the world."""
    if namespaces.exists(world.outside):
        end_processes(world.outside)


def _set_up(device: str, text: str) -> None:
    subprocess.run(["wg", "setconf", device, "/dev/stdin"], input=text, text=True, check=True, timeout=10)


def wireguard_processes(namespace: str) -> list[int]:
    """The processes that serve the VPN devices of a namespace."""
    found: list[int] = []
    identity = namespaces.identity(namespace)
    for entry in Path("/proc").iterdir():
        try:
            if (entry / "comm").read_text().strip() == "wireguard-go" and (entry / "ns/net").stat().st_ino == identity:
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


def reaches(who: VpnClient, address: str, port: int, *, within_s: float = 8.0) -> str:
    """What the listener there says within some seconds: the first packets of a new tunnel may wait for its making."""
    heard: list[str] = []

    def ask() -> bool:
        argv = ["busybox", "timeout", "2", "busybox", "nc", "-w", "1", address, str(port)]
        heard.append(namespaces.run_inside(who.namespace, _run, argv, 10.0).stdout)
        return bool(heard[-1])

    until(ask, f"answer of {address}:{port}", within_s)
    return heard[-1]
