"""The switch namespace of a host: a thread that lives in it, with a netlink socket and an nft context of its own.

Everything here does what it is told, in that thread; what is to be done is decided elsewhere (`apply`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Concatenate, ParamSpec, TypeVar

from kilonova.network.flows import Cut, doomed, not_resumed
from kilonova.network.host import conntrack, namespaces
from kilonova.network.host.failures import HOST_ITSELF, Failures, catching
from kilonova.network.host.inspect import inspect_here
from kilonova.network.host.links import Links
from kilonova.network.host.nftables import Nft
from kilonova.network.host.vlans import VlanBackend
from kilonova.network.layout import Changes, Layout, nft_commands
from kilonova.network.plan import HostPlan

P = ParamSpec("P")
T = TypeVar("T")

_BATCH = 1000
"""So many set elements fit the netlink buffer of a namespace without privileges on the machine."""


class Switch:
    """A thread that lives in the switch namespace with its netlink socket and nft context."""

    def __init__(self, name: str, vlan_backend: VlanBackend) -> None:
        self.identity = namespaces.identity(name)
        self._worker = namespaces.Worker(name)
        self.links, self.nft = self._worker.run(lambda: (Links(vlan_backend), Nft()))

    def run(self, function: Callable[Concatenate[Switch, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` with this switch in its thread."""
        return self._worker.run(function, self, *args, **kwargs)

    def close(self) -> None:
        self._worker.run(self.links.close)
        self._worker.run(self.nft.close)
        self._worker.close()

    def inspect(self) -> Layout:
        return inspect_here(self.links, self.nft).layout

    def rename_link(self, name: str, wanted: str) -> None:
        self.links.rename(name, wanted)

    def has_link(self, name: str) -> bool:
        return self.links.exists(name)

    def remove_link(self, name: str) -> None:
        self.links.remove(name)

    def filter(self, commands: str) -> None:
        self.nft.run(commands)

    def cut(self, plan: HostPlan, flows: set[Cut]) -> None:
        """End flows; before they end, keep their answers from beginning them anew."""
        with conntrack.Conntrack() as table:
            ended, remembered = doomed(plan, flows, table.flows(flows))
            elements = not_resumed(plan, remembered)
            for start in range(0, len(elements), _BATCH):
                self.nft.run(nft_commands(Changes(added_elements=tuple(elements[start : start + _BATCH]))))
            table.delete(ended)

    def foreign_ports(self, bridges: list[str]) -> dict[str, tuple[str, ...]]:
        return {bridge: self.links.foreign_ports(bridge) for bridge in bridges}

    def change_links(self, changes: Changes, owners: Mapping[str, str]) -> Failures:
        """By owner, what could not be done."""
        failures: Failures = {}
        with catching(failures, HOST_ITSELF):
            self.links.remove_all(changes.removed_links)
        for name, link in changes.added_links:
            with catching(failures, link.owner or name):
                self.links.add(name, link)
                if link.peer is not None and not link.peer.namespace:
                    self.links.up(link.peer.device)
        for change in changes.changed_links:
            with catching(failures, change.after.owner or change.name):
                self.links.change(change)
        for entry in changes.removed_forwarding:
            with catching(failures, owners.get(entry.device, HOST_ITSELF)):
                self.links.forwarding.remove(entry)
        for entry in changes.added_forwarding:
            with catching(failures, owners.get(entry.device, HOST_ITSELF)):
                self.links.forwarding.add(entry)
        return failures
