"""The flat managers: one network per physical network, on the administrator's bridge, shared by its projects.

`flat` gives no DHCP: addresses are written into the guest at its launch. `flat-dhcp` is the same with DHCP.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from kilonova.config import Config
from kilonova.errors import BadRequest
from kilonova.network.managers.segments import RESERVED
from kilonova.network.managers.wires import HostWires


class FlatManager:
    network_type = "flat"
    is_shared = True
    id_noun = ""

    def __init__(self, name: str, *, has_dhcp: bool) -> None:
        self.name = name
        self.has_dhcp = has_dhcp

    def physical_network(self, config: Config, asked: str) -> str:
        if not asked:
            raise BadRequest(f"physical_network: a {self.name} network needs one, that has a bridge of yours.")
        if asked in RESERVED:
            raise BadRequest(f"physical_network: the name {asked} is reserved.")
        return asked

    def check(self, physical_network: str, first: int, last: int) -> None:
        raise BadRequest(f"segmentation_id: {first}: a flat network on {physical_network} has no id.")

    def free_id(self, tx: Connection, config: Config, physical_network: str) -> None:
        return None

    def bridge_name(
        self, config: Config, physical_network: str, segmentation_id: int | None, hosts: Sequence[HostWires]
    ) -> str:
        """The administrator's. Raises `BadRequest` when no live host has one."""
        for host in hosts:
            if physical_network in host.flat_bridges:
                return host.flat_bridges[physical_network]
        raise BadRequest(
            f"physical_network: no live host has a bridge for {physical_network} "
            f"({_known(hosts)}): make it, and {self.advice(physical_network)}."
        )

    def unmet_need(self, physical_network: str, host: HostWires, is_alone: bool) -> str | None:
        if not host.told or physical_network in host.flat_bridges:
            return None
        return f"no bridge for {physical_network}"

    def advice(self, physical_network: str) -> str:
        return f"`kilonova up --flat {physical_network}=BRIDGE` names it to a host"

    def mtu(self, config: Config, hosts: Sequence[HostWires]) -> int:
        return config.network.mtu


def _known(hosts: Sequence[HostWires]) -> str:
    if not hosts:
        return "no network host is alive"
    return "; ".join(f"{host.host} has {', '.join(sorted(host.flat_bridges)) or 'none'}" for host in hosts)
