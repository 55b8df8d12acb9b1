"""What the network agent asks of a host: make it as planned. The kernel's host and the simulated one both are one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

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

    def has_device(self, device: str) -> bool:
        """Is there such a port's device?"""

    def service_namespaces(self, plan: HostPlan) -> dict[str, str]:
        """Network -> the namespace in which its metadata shall be served."""
