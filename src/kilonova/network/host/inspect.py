"""What is there: the layout of a namespace as the kernel tells it. Reads only."""

from __future__ import annotations

from dataclasses import replace

from kilonova.network.host import namespaces, proxies
from kilonova.network.host.links import Links
from kilonova.network.host.nftables import Nft
from kilonova.network.layout import Layout


def inspect_here(links: Links, nft: Nft) -> Layout:
    """Of the namespace the calling thread is in."""
    filters, found = nft.found(), links.found()
    tunnels = {name: links.index(name) for name, link in found.items() if link.tunnel is not None and link.owner}
    forwarding = links.forwarding.found(tunnels)
    return Layout(
        found, links.routes(), filters.sets, filters.chains, filters.elements, forwarding, proxies=proxies.found()
    )


def inspect_namespace(name: str) -> Layout:
    """Of a namespace by name; raises `NotFound`."""

    def look() -> Layout:
        with Links() as links, Nft() as nft:
            return inspect_here(links, nft)

    return namespaces.run_inside(name, look)


def relevant(found: Layout, wanted: Layout) -> Layout:
    """`found` without the links that are none of this cloud's."""
    ours = {name: link for name, link in found.links.items() if link.owner or name in wanted.links}
    return replace(found, links=ours)
