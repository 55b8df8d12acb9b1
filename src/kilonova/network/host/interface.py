"""What the network agent asks of a host: make it as planned. The kernel's host and the simulated one both are one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_interface
from typing import Any, Protocol

from kilonova.config import HostConfig
from kilonova.network.observation import Audit, Concern, Observation
from kilonova.network.plan import HostPlan
from kilonova.network.rows import ReleasedRow


@dataclass(frozen=True)
class Outcome:
    """What came of applying a plan."""

    failures: dict[str, str] = field(default_factory=dict)
    """Network, router or port id -> why it is not as planned; "" when it concerns all of the host."""
    forgotten: tuple[ReleasedRow, ...] = ()
    """Released addresses that nothing on this host holds any longer."""
    changes: tuple[str, ...] = ()
    """What was done, in words."""


@dataclass(frozen=True)
class Wires:
    """The ways from a host to others that are there now."""

    trunks: tuple[str, ...] = ()
    """Physical networks whose trunk's NIC is there."""
    flat_bridges: Mapping[str, str] = field(default_factory=dict)
    """Physical network -> the administrator's bridge, where it exists."""
    tunnel_address: str = ""
    tunnel_mtu: int = 0

    @staticmethod
    def configured(host: HostConfig) -> Wires:
        """As if everything that the configuration names were there."""
        return Wires(
            trunks=tuple(sorted(host.trunks)),
            flat_bridges=dict(sorted(host.flat_bridges.items())),
            tunnel_address=str(ip_interface(host.tunnel_address).ip) if host.tunnel_address else "",
            tunnel_mtu=1500 if host.tunnel_address else 0,
        )

    def capacity(self) -> dict[str, Any]:
        """What the agent's heartbeat tells: `services.capacity`."""
        tunnel = {"address": self.tunnel_address, "mtu": self.tunnel_mtu} if self.tunnel_address else None
        return {
            "trunks": list(self.trunks),
            "flat_bridges": dict(self.flat_bridges),
            "tunnel": tunnel,
            "groups": True,
        }


class Host(Protocol):
    """Calls block and come one at a time, from any thread."""

    def open(self) -> None:
        """Make what every plan needs. Raises `CommandFailed` without the rights or the kernel features."""

    def close(self) -> None:
        """Let go; everything made stays and works."""

    def apply(self, plan: HostPlan, *, look: bool) -> Outcome:
        """Make the host as planned; `look` compares with what is there instead of with the last plan."""

    def hold(self, seconds: float) -> None:
        """The lease runs so much longer; not positive: it has ended, routers and services are cut off now.

        Comes at any time, also while `apply` works. Raises `CommandFailed` when the kernel's filters are not there.
        """

    def wires(self) -> Wires:
        """What is there of the configured trunks, bridges and tunnel; may be asked while a plan is applied."""

    def handshakes(self, plan: HostPlan) -> Mapping[str, Mapping[str, int]]:
        """VPN -> client's public key -> its last handshake, seconds since 1970. Raises `CommandFailed`."""

    def has_device(self, device: str) -> bool:
        """Is there such a port's device?"""

    def service_namespaces(self, plan: HostPlan) -> dict[str, str]:
        """Network -> the namespace in which its metadata shall be served."""

    def observe(self, plan: HostPlan, concern: Concern) -> Observation:
        """What is there of these objects; changes nothing."""

    def audit(self, plan: HostPlan, *, mend: bool) -> Audit:
        """Everything that is not as planned. Changes nothing; with `mend` it ends daemons that serve nothing."""
