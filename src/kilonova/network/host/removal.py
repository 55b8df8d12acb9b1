"""Removes the network state that this cloud made in the kernel, and its daemons; for `kilonova down`."""

from __future__ import annotations

from collections.abc import Iterable

from kilonova.config import Config
from kilonova.network.fragments import Names
from kilonova.network.host import namespaces, wireguard
from kilonova.network.host.dnsmasq import Dnsmasq
from kilonova.network.host.links import Links
from kilonova.network.host.processes import end_daemons
from kilonova.network.host.radvd import Radvd


def remove_everything(config: Config) -> list[str]:
    """What was removed, by name. Guests must have ended before; nothing without the cloud's prefix is touched."""
    if config.host.simulate:
        return []
    removed: list[str] = []
    names = Names(config.host.prefix)
    dnsmasq = Dnsmasq(config.state_dir / "network")
    for network_id in dnsmasq.networks():
        dnsmasq.remove(network_id)
        removed.append(f"dnsmasq of network {network_id}")
    radvd = Radvd(config.state_dir / "routers")
    for router_id in radvd.routers():
        radvd.remove(router_id)
        removed.append(f"radvd of router {router_id}")
    for name in namespaces.names(config.host.prefix):
        if names.owns(name):
            end_daemons(name)
            if name == names.switch:
                namespaces.run_inside(name, let_go, sorted(set(config.host.trunks.values())))
            wireguard.end_processes(name)
            namespaces.delete(name)
            removed.append(f"namespace {name}")
    return removed


def let_go(trunks: Iterable[str]) -> None:
    """In the switch namespace: leave its NICs as they came, before the kernel gives them back to the machine."""
    with Links() as links:
        for device in trunks:
            if links.exists(device):
                links.quiet(device)
