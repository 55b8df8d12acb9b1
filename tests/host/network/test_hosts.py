"""A network host and compute hosts over one fabric: what a guest on one host gets from another."""

from __future__ import annotations

from .fabric import Fabric
from .world import pings


async def test_floating_address_of_any_host_is_reached_from_one_outside(fabric: Fabric) -> None:
    first, second, _ = fabric.hosts
    public = await first.public_network()
    for host in (first, second):
        network = await host.network(public=public, physical_network="this-host-alone")
        group = await host.group(network.project_id)
        await host.rule(group, protocol="icmp")
        guest = await host.guest(network, 3, [group])
        floating = await host.floating_ip(public, 50 if host is first else 51, guest)
        await host.look()

        assert pings(fabric.outside, floating)
