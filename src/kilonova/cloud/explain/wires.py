"""The hops between devices of one network: its bridge on a host, and the wire to another host. Pure."""

from __future__ import annotations

from kilonova.cloud.explain.actual import Wrong, anything, link
from kilonova.cloud.explain.rows import Network
from kilonova.cloud.explain.trail import Trail
from kilonova.network.observation import Deviation


def bridge_hops(trail: Trail, network: Network, host: str, there: str) -> None:
    """Over the bridge of `host`, and if `there` is another host over the wire to its bridge."""
    _bridge(trail, network, host)
    if there and host and there != host:
        _wire(trail, network, host)
        _wire(trail, network, there)
        _bridge(trail, network, there)


def _bridge(trail: Trail, network: Network, host: str) -> None:
    where = f"{trail.host(host)}: {network.bridge} of {trail.network(network)}"
    if not host:
        trail.end("bridge", where, "on a host", "the network has no host: no network host was alive when it was made")
        return
    if not network.admin_state_up:
        trail.drop("bridge", where, "up", "the network is set down", f"openstack network set --enable {network.id}")
        return
    sight = trail.hosts.see(host, networks=[network.id])
    fragment = f"bridge {network.bridge}"
    trail.check("bridge", where, "up", sight, _bridge_wrong(network), planned=[fragment], owners=[network.id, ""])
    trail.strangers("other filters", sight, "-switch")


def _bridge_wrong(network: Network) -> Wrong:
    return anything(link(network.bridge), lambda item: item.kind == "namespace" and item.fragment == "rules")


def _wire(trail: Trail, network: Network, host: str) -> None:
    segment = f"{network.manager} {network.segmentation_id}" if network.segmentation_id else network.manager
    where = f"{trail.host(host)}: wire of {trail.network(network)} ({segment})"
    sight = trail.hosts.see(host, networks=[network.id])
    intent = f"{segment} to the other hosts"
    if sight.told is not None and not sight.told.simulated and not sight.told.wires.get(network.id):
        why = f"nothing on {trail.host(host)} joins {network.bridge} with other hosts"
        trail.drop("wire", where, intent, why, _wiring(network))
        return
    devices = sight.told.wires.get(network.id, ()) if sight.told else ()
    dead = [device for device in devices if sight.told and not sight.told.carriers.get(device, True)]
    wrong = _wire_wrong(network)
    if dead and not sight.wrong(wrong):
        why = f"{', '.join(dead)} has no carrier: the cable, or what is at its other end"
        trail.note("wire", where, intent, "dropped", why=why, actual="no carrier")
        return
    trail.check("wire", where, intent, sight, wrong, owners=[network.id])


def _wiring(network: Network) -> str:
    """What would join the network's bridge with other hosts."""
    if network.manager == "vxlan":
        return "kilonova up --tunnel DEVICE=ADDRESS/LENGTH"
    if network.manager.startswith("flat"):
        return f"ip link set DEVICE master {network.bridge}"
    return f"kilonova up --trunk {network.physical_network}=DEVICE"


def _wire_wrong(network: Network) -> Wrong:
    """Any device beside the bridge, whatever the wire is made of, its entries in `trusted`, and the NIC below it."""
    mine = (f"bridge {network.bridge}", f"uplinks of {network.bridge}", "tunnel ", "uplink ")

    def test(item: Deviation) -> bool:
        if not item.fragment.startswith(mine) or item.name == network.bridge:
            return False
        if item.owner != network.id and not item.fragment.startswith("uplink "):
            return False
        if item.kind == "link":
            return not item.found or set(item.key.split(",")) != {"mtu"}
        return item.kind not in ("element", "chain", "set") or item.name in ("kn_l2 trusted", "kn_sg underlay")

    return test
