"""What is there: the layout of a namespace as the kernel tells it. Reads only."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from kilonova.network.host import namespaces, proxies, routes
from kilonova.network.host.links import Links
from kilonova.network.host.nftables import Nft
from kilonova.network.layout import Layout
from kilonova.network.vpn_plan import device_name


class Survey(NamedTuple):
    """What there is, and all of its routes, those too that a layout has no words for."""

    layout: Layout
    routes: tuple[routes.Record, ...]


def inspect_here(links: Links, nft: Nft) -> Survey:
    """Of the namespace the calling thread is in."""
    filters, found, records = nft.found(), links.found(), links.routes()
    tunnels = {name: links.index(name) for name, link in found.items() if link.tunnel is not None and link.owner}
    forwarding = links.forwarding.found(tunnels)
    planned = routes.planned(records)
    layout = Layout(found, planned, filters.sets, filters.chains, filters.elements, forwarding, proxies=proxies.found())
    return Survey(layout, records)


def survey(name: str) -> Survey:
    """Of a namespace by name; raises `NotFound`."""

    def look() -> Survey:
        with Links() as links, Nft() as nft:
            return inspect_here(links, nft)

    return namespaces.run_inside(name, look)


def relevant(found: Layout, wanted: Layout, prefix: str) -> Layout:
    """`found` without the links that are none of this cloud's, and without the routes through those.

    A VPN's device is known by its name as well: it is there before it can be marked.
    """
    vpns = device_name(prefix, "")
    ours = {
        name: link
        for name, link in found.links.items()
        if link.owner or name in wanted.links or (link.kind == "wireguard" and name.startswith(vpns))
    }
    known = frozenset(item for item in found.routes if item.device in ours or item in wanted.routes)
    return replace(found, links=ours, routes=known)


def without_peoples_routes(there: Survey, wanted: Layout) -> Survey:
    """Of a sandbox's outside: whoever looks from there may add routes, and keeps them."""
    layout = replace(there.layout, routes=there.layout.routes & wanted.routes)
    return Survey(layout, tuple(record for record in there.routes if record.connected or record.route in wanted.routes))
