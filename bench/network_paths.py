"""The ways a datagram goes: by a bare bridge or router, and by those of a host with its filters and translations."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from network_host import GATEWAY, Host
from packets import Path
from sqlalchemy import insert

from kilonova.cloud import floating_ips
from kilonova.context import Context
from kilonova.ids import ProjectId, new_id, new_request_id
from kilonova.network.host import namespaces
from kilonova.network.host.links import write_sysctls
from kilonova.network.plan import guest_end_name
from kilonova.network.ports import MadePort
from kilonova.network.routers import external_network
from kilonova.store import schema

_BARE = {f"net/bridge/bridge-nf-call-{kind}": "0" for kind in ("iptables", "ip6tables", "arptables")}


@contextmanager
def bare() -> Iterator[list[Path]]:
    """Namespaces with bridges and no rule: over one bridge, and over two with a router between them."""
    prefix = "p" + secrets.token_hex(3)
    names = {end: f"{prefix}-{end}" for end in ("switch", "router", "a", "b", "c")}
    for name in names.values():
        namespaces.create(name, lambda: write_sysctls(_BARE))
    switch = names["switch"]
    try:
        _ip(switch, ["link add br1 up type bridge", "link add br2 up type bridge"])
        ends = (("a", "br1", "10.1.0.2"), ("b", "br1", "10.1.0.3"), ("c", "br2", "10.2.0.2"))
        for end, bridge, address in ends:
            _plug(switch, bridge, names[end], "eth0", f"{address}/24")
            _ip(names[end], [f"route add default via {address[:-1]}1"])
        _plug(switch, "br1", names["router"], "eth1", "10.1.0.1/24")
        _plug(switch, "br2", names["router"], "eth2", "10.2.0.1/24")
        namespaces.run_inside(names["router"], write_sysctls, {"net/ipv4/ip_forward": "1"})
        yield [
            Path("plain bridge", names["a"], names["b"], "10.1.0.3"),
            Path("plain routed", names["a"], names["c"], "10.2.0.2"),
        ]
    finally:
        for name in names.values():
            namespaces.delete(name)


async def pair(host: Host, name: str, guests: list[str]) -> tuple[Path, MadePort]:
    """Two guests of a project's default group and the way between them; namespaces are added to `guests`."""
    made = await host.ports(2, vif="veth")
    source, target = [await _guest(host, port, guests) for port in made]
    return Path(name, source, target, address_of(made[1])), made[1]


async def floating(host: Host, port: MadePort, guest: str) -> Path:
    """From the outside to a guest's floating address."""

    def rows(tx: object) -> str | None:
        group = tx.execute(  # type: ignore[attr-defined]
            schema.security_groups.select().where(schema.security_groups.c.project_id == port.project_id)
        ).one()
        values = {"id": new_id(), "security_group_id": group.id, "project_id": port.project_id, "protocol": "udp"}
        tx.execute(  # type: ignore[attr-defined]
            insert(schema.security_group_rules).values(**values, direction="ingress", ethertype="IPv4")
        )
        return external_network(tx)  # type: ignore[arg-type]

    network = await host.cloud.store.write(rows)
    context = Context(request_id=new_request_id(), project_id=ProjectId(port.project_id), roles=frozenset({"member"}))
    wanted = {"floating_network_id": network, "port_id": port.id}
    (made,) = await floating_ips.create(host.cloud, context, [wanted])
    await host.look()
    return Path("floating address", f"{host.prefix}-outside", guest, made["floating_ip_address"])


def address_of(port: MadePort) -> str:
    address = port.fixed_ips[0].address
    assert address is not None
    return address


async def _guest(host: Host, port: MadePort, guests: list[str]) -> str:
    await host.call("wire", port_id=port.id)
    name = f"{host.prefix}-g-{port.id[:11]}"
    namespaces.create(name, lambda: None)
    guests.append(name)
    end, address = guest_end_name(port.id), address_of(port)
    _ip(f"{host.prefix}-switch", [f"link set {end} netns {name} name eth0"])
    gateway = address.rpartition(".")[0] + ".1"
    _ip(name, ["link set eth0 up", f"addr add {address}/24 dev eth0", f"route add default via {gateway}"])
    return name


def _plug(switch: str, bridge: str, namespace: str, device: str, address: str) -> None:
    end = f"t{secrets.token_hex(4)}"
    _ip(switch, [f"link add {end} up master {bridge} type veth peer name {device} netns {namespace}"])
    _ip(namespace, [f"link set {device} up", f"addr add {address} dev {device}"])


def _ip(namespace: str, lines: Sequence[str]) -> None:
    subprocess.run(["ip", "-n", namespace, "-batch", "-"], input="\n".join(lines) + "\n", text=True, check=True)


__all__ = ["GATEWAY", "address_of", "bare", "floating", "pair"]
