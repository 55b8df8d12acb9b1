"""Network managers: how a network is kept apart from others on the wire, one module each, behind one interface.

Only the transactional part lives here: which segment and bridge a new network gets. What the hosts make of it is the
network agent's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection

from kilonova.config import Config
from kilonova.errors import BadRequest
from kilonova.network.errors import NotSupportedYet
from kilonova.network.managers import vlan

NAMES = ("flat", "flat-dhcp", "vlan", "vxlan")


@dataclass(frozen=True)
class Segment:
    """Where a network's frames travel: columns of `networks`."""

    manager: str
    physical_network: str
    segmentation_id: int | None
    bridge: str


class Manager(Protocol):
    def bridge_name(self, config: Config, physical_network: str, segmentation_id: int) -> str:
        """The bridge of a segment on every host, at most 15 characters."""

    def check(self, physical_network: str, first: int, last: int) -> None:
        """Raises `BadRequest` when these segment ids do not exist."""

    def free_id(self, tx: Connection, config: Config, physical_network: str) -> int:
        """A segment id for a network that a user makes. Raises `NoMoreNetworks`."""


_MANAGERS: dict[str, Manager] = {"vlan": vlan.VlanManager()}


def manager_named(name: str) -> Manager:
    """Raises `BadRequest` for a name that is none, `NotSupported` for a manager that is still to come."""
    if name not in NAMES:
        raise BadRequest(f"manager: '{name}' is not one of {', '.join(NAMES)}")
    if name not in _MANAGERS:
        raise NotSupportedYet(f"The network manager {name} is not supported yet: use {', '.join(_MANAGERS)}.")
    return _MANAGERS[name]


def new_segment(
    tx: Connection,
    config: Config,
    *,
    manager: str | None = None,
    physical_network: str | None = None,
    segmentation_id: int | None = None,
) -> Segment:
    """The segment of a new network: what is asked for, else the default manager and a free id.

    Whether the id is taken is decided by the constraint on `networks`.
    """
    name = manager or config.network.default_manager
    chosen = manager_named(name)
    physical = physical_network or config.network.physical_network
    if segmentation_id is None:
        segmentation_id = chosen.free_id(tx, config, physical)
    chosen.check(physical, segmentation_id, segmentation_id)
    return Segment(name, physical, segmentation_id, chosen.bridge_name(config, physical, segmentation_id))
