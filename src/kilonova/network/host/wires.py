"""Which of a host's configured wires (trunks, administrator's bridges, the tunnel's NIC) are there. Reads only."""

from __future__ import annotations

from kilonova.config import HostConfig
from kilonova.network.host import namespaces
from kilonova.network.host.interface import Wires
from kilonova.network.host.links import Links


def find_wires(switch: str, host: HostConfig) -> Wires:
    """In the switch namespace; nothing while that does not exist."""
    if not namespaces.exists(switch):
        return Wires()
    return namespaces.run_inside(switch, _wires_here, host)


def _wires_here(host: HostConfig) -> Wires:
    with Links() as links:
        configured = Wires.configured(host)
        tunnel_mtu = 0
        if host.tunnel_address and links.exists(host.tunnel_interface):
            tunnel_mtu = links.mtu(host.tunnel_interface)
        return Wires(
            trunks=tuple(name for name in configured.trunks if links.exists(host.trunks[name])),
            flat_bridges={name: bridge for name, bridge in configured.flat_bridges.items() if links.exists(bridge)},
            tunnel_address=configured.tunnel_address if tunnel_mtu else "",
            tunnel_mtu=tunnel_mtu,
        )
