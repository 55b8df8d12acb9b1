"""Network managers: how a network is kept apart from others on the wire, one module each, behind one interface.

Only the transactional part lives here: which segment and bridge a new network gets, and which hosts can carry it. What
the hosts make of it is the network agent's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection

from kilonova.config import Config
from kilonova.errors import BadRequest
from kilonova.network.managers.flat import FlatManager
from kilonova.network.managers.vlan import VlanManager
from kilonova.network.managers.vxlan import VxlanManager
from kilonova.network.managers.wires import HostWires

NAMES = ("flat", "flat-dhcp", "vlan", "vxlan")


@dataclass(frozen=True)
class Segment:
    """Where a network's frames travel: columns of `networks`."""

    manager: str
    physical_network: str
    segmentation_id: int | None
    bridge: str


class Manager(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def network_type(self) -> str:
        """The API's provider:network_type."""

    @property
    def is_shared(self) -> bool:
        """One network serves many projects, by a gateway of the administrator's; else each has one and a router."""

    @property
    def has_dhcp(self) -> bool:
        """Of a network of the pool."""

    @property
    def id_noun(self) -> str:
        """What people call a segment id of it; empty: it has none."""

    def physical_network(self, config: Config, asked: str) -> str:
        """As the store writes it, of the one asked for (empty: none was). Raises `BadRequest`."""

    def check(self, physical_network: str, first: int, last: int) -> None:
        """Raises `BadRequest` when these segment ids do not exist."""

    def free_id(self, tx: Connection, config: Config, physical_network: str) -> int | None:
        """A segment id for a network that a user makes. Raises `NoMoreNetworks`."""

    def bridge_name(
        self, config: Config, physical_network: str, segmentation_id: int | None, hosts: Sequence[HostWires]
    ) -> str:
        """The bridge of a segment on every host, at most 15 characters. Raises `BadRequest` when it must be there."""

    def unmet_need(self, physical_network: str, host: HostWires, is_alone: bool) -> str | None:
        """What the host lacks to carry such networks, in words; `is_alone`: no frame has to leave it."""

    def advice(self, physical_network: str) -> str:
        """The command that gives a host what it lacks."""

    def mtu(self, config: Config, hosts: Sequence[HostWires]) -> int:
        """The largest packet of a network, in bytes."""


_MANAGERS: dict[str, Manager] = {
    "flat": FlatManager("flat", has_dhcp=False),
    "flat-dhcp": FlatManager("flat-dhcp", has_dhcp=True),
    "vlan": VlanManager(),
    "vxlan": VxlanManager(),
}

SHARED = tuple(name for name, manager in _MANAGERS.items() if manager.is_shared)
"""The managers whose networks are shared by projects."""


def manager_named(name: str) -> Manager:
    """Raises `BadRequest` for a name that is none."""
    if name not in _MANAGERS:
        raise BadRequest(f"manager: '{name}' is not one of {', '.join(NAMES)}")
    return _MANAGERS[name]


def able_hosts(manager: Manager, physical_network: str, hosts: Sequence[HostWires]) -> tuple[list[str], str]:
    """Of live hosts those that can carry a manager's networks, else, in words, why none can.

    A cloud without a live host can have all but flat networks: they are placed once there is one.
    """
    is_alone = len(hosts) == 1
    able, unmet = [], []
    for host in hosts:
        need = manager.unmet_need(physical_network, host, is_alone)
        if need is None and not host.enforces_groups:
            need = "cannot enforce security groups"
        if need is None:
            able.append(host.host)
        else:
            unmet.append(f"{host.host}: {need}")
    if able or (not hosts and not manager.is_shared):
        return able, ""
    return [], f"{'; '.join(unmet) or 'no network host is alive'} ({manager.advice(physical_network)})"


def new_segment(
    tx: Connection,
    config: Config,
    hosts: Sequence[HostWires],
    *,
    manager: str,
    physical_network: str = "",
    segmentation_id: int | None = None,
) -> Segment:
    """The segment of a network that a user makes: what is asked for, else a free id.

    Whether an id that was asked for is taken is decided by the constraint on `networks`. Raises `BadRequest`,
    `NoMoreNetworks`.
    """
    chosen = manager_named(manager)
    physical = chosen.physical_network(config, physical_network)
    if segmentation_id is None:
        segmentation_id = chosen.free_id(tx, config, physical)
    if segmentation_id is not None:
        chosen.check(physical, segmentation_id, segmentation_id)
    return Segment(manager, physical, segmentation_id, chosen.bridge_name(config, physical, segmentation_id, hosts))
