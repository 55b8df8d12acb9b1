"""Several hosts over physical wires: each a `World` of its own on one store and one bus, joined by a rack's switches.

The rack is a namespace with a bridge per wire: the trunk (tagged frames pass), the underlay of tunnels, the public wire
and the wire of a flat network. What stands for the internet is a namespace on the public wire, no host's own, so that
every host's floating addresses are reached from it and any host may die.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from kilonova.network.host import namespaces
from kilonova.network.host.links import write_sysctls

from .world import World, inspect_namespace

TRUNK, UNDERLAY, PUBLIC, FLAT = "trunk0", "under0", "public0", "flat0"
"""The NICs in a host's switch namespace, and the bridges of the rack."""
WIRES = (TRUNK, UNDERLAY, PUBLIC, FLAT)
WIRE_MTU = 1600
"""Of every wire but the public one: a full frame of a guest fits with a tag or a tunnel's headers."""


class Fabric:
    """Hosts `host1`, `host2`, ...; `host`: values of every host's configuration."""

    def __init__(self, directory: Path, prefix: str, size: int = 3, **host: Any) -> None:
        """`prefix`: three characters at most; each host adds a letter."""
        self.prefix = prefix
        self.rack = f"{prefix}-rack"
        self.outside = f"{prefix}-outside"
        self.hosts: list[World] = []
        for number in range(1, size + 1):
            values: dict[str, Any] = {
                "public_gateway": "",
                "public_interface": PUBLIC,
                "trunks": {"physnet1": TRUNK},
                "tunnel_interface": UNDERLAY,
                "tunnel_address": f"192.0.2.{number}/24",
                **host,
            }
            first = self.hosts[0] if self.hosts else None
            world = World(directory, f"{prefix}{chr(96 + number)}", name=f"host{number}", beside=first, **values)
            world.outside = self.outside
            self.hosts.append(world)

    async def open(self) -> None:
        namespaces.create(self.rack, _set_up_rack)
        rack = self.hosts[0]
        for wire in WIRES:
            rack.inside(self.rack, "ip", "link", "add", wire, "mtu", str(WIRE_MTU), "type", "bridge")
            rack.inside(self.rack, "ip", "link", "set", wire, "up")
        namespaces.create(self.outside, lambda: None)
        self._wire(self.outside, "eth0", PUBLIC, "outside")
        for words in ("link set lo up", "addr add 203.0.113.1/24 dev eth0"):
            rack.inside(self.outside, "ip", *words.split())
        for world in self.hosts:
            self.plug(world)
            await world.open()

    async def close(self) -> None:
        for world in reversed(self.hosts):
            await world.close()
        for name in (self.outside, self.rack):
            namespaces.delete(name)

    def plug(self, world: World) -> None:
        """Put the host's NICs into its switch namespace, which is made if need be."""
        namespaces.create(world.switch, lambda: None)
        for wire in WIRES:
            self.plug_in(world, wire)

    def plug_in(self, world: World, wire: str) -> None:
        """One of them."""
        self._wire(world.switch, wire, wire, f"{wire}-{world.config.host.prefix[-1]}")

    def flat_bridge(self, world: World, name: str = "br-flat") -> str:
        """The administrator's bridge on a host, the wire of flat networks as its uplink."""
        for words in (f"add {name} mtu {WIRE_MTU} type bridge", f"set {name} up", f"set {FLAT} master {name} up"):
            world.inside(world.switch, "ip", "link", *words.split())
        return name

    async def look(self) -> None:
        """Every host has made a pass, without a failure."""
        await asyncio.gather(*(world.look() for world in self.hosts))

    def _wire(self, namespace: str, device: str, wire: str, end: str) -> None:
        """A veth pair between a namespace and a bridge of the rack, where its end is called `end`."""
        rack = self.hosts[0]
        mtu = "1500" if wire == PUBLIC else str(WIRE_MTU)
        words = ["link", "add", end, "mtu", mtu, "type", "veth", "peer", "name", device, "mtu", mtu, "netns", namespace]
        rack.inside(self.rack, "ip", *words)
        rack.inside(self.rack, "ip", "link", "set", end, "master", wire, "up")
        rack.inside(namespace, "ip", "link", "set", device, "up")


def columns(fabric: Fabric, kind: str) -> dict[str, Any]:
    """Of a network of this kind; what the administrator prepares for it is done."""
    if kind == "vlan":
        return {}
    if kind == "vxlan":
        vni = 9900 + next(fabric.hosts[0].numbers)
        values = {"physical_network": "vxlan", "segmentation_id": vni, "bridge": f"bv{vni}", "mtu": 1500}
        return {"manager": kind, **values}
    for host in fabric.hosts:
        if "br-flat" not in inspect_namespace(host.switch).links:
            fabric.flat_bridge(host)
    return {"manager": kind, "physical_network": "flat1", "segmentation_id": None, "bridge": "br-flat"}


def _set_up_rack() -> None:
    """A switch looks at no packet: its frames must not pass a firewall, and tagged ones are not opened."""
    bridge = {f"net/bridge/bridge-nf-call-{kind}": "0" for kind in ("iptables", "ip6tables", "arptables")}
    write_sysctls({**bridge, "net/ipv6/conf/all/disable_ipv6": "1", "net/ipv6/conf/default/disable_ipv6": "1"})
