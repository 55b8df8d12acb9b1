"""The WireGuard devices of a host's routers: by the kernel where it has WireGuard, else by a process `wireguard-go`.

The process outlives the agent; it is there as long as its device is. Peers that stay are never told anew, so that a
restart or a change of others drops none of their packets. Keys go through standard input, never in arguments.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from kilonova.errors import CommandFailed
from kilonova.network.host import namespaces, netlink
from kilonova.network.host.links import Links
from kilonova.network.host.processes import end, processes_in
from kilonova.network.vpn_plan import FoundDevice, VpnPlan, parse_dump, peer_changes
from kilonova.process import run

PROGRAM = "wireguard-go"
SOCKETS = Path("/var/run/wireguard")
_AT_ONCE = 200
"""Peers named in one command."""


class WireGuard:
    """Everything blocks. Links, routes and filters around the devices are the layout's."""

    def __init__(self) -> None:
        self._believed: dict[str, VpnPlan] = {}

    def make(self, plan: VpnPlan, namespace: str, *, look: bool) -> list[str]:
        """Make the device if there is none; what was done. Raises `CommandFailed`."""
        if not look and plan.vpn_id in self._believed:
            return []
        if not namespaces.run_inside(namespace, _make, plan.device):
            return []
        self._believed.pop(plan.vpn_id, None)
        return [f"made {plan.device}"]

    def configure(self, plan: VpnPlan, namespace: str, *, look: bool) -> list[str]:
        """Give it its keys, port and peers; what was done. `look`: trust no memory. Raises `CommandFailed`."""
        if not look and self._believed.get(plan.vpn_id) == plan:
            return []
        self._believed.pop(plan.vpn_id, None)
        done = namespaces.run_inside(namespace, _configure, plan)
        self._believed[plan.vpn_id] = plan
        return done

    def forget(self, wanted: Mapping[str, VpnPlan]) -> None:
        """Remember only these."""
        self._believed = {vpn_id: plan for vpn_id, plan in self._believed.items() if vpn_id in wanted}

    @staticmethod
    def handshakes(plan: VpnPlan, namespace: str) -> Mapping[str, int]:
        """Public key -> the last one, seconds since 1970. Raises `CommandFailed`: nobody serves the device."""
        return namespaces.run_inside(namespace, _found, plan.device).handshakes


def end_processes(namespace: str) -> list[int]:
    """Kill every `wireguard-go` in a namespace that is about to go; a device of the kernel goes with it."""
    killed: list[int] = []
    for process in processes_in(namespace):
        try:
            words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.path.basename(words[0]) == PROGRAM.encode():
            end(process)
            killed.append(process)
            if len(words) > 1:
                (SOCKETS / f"{os.fsdecode(words[1])}.sock").unlink(missing_ok=True)
    return killed


def _make(device: str) -> bool:
    if Links.exists(device):
        return False
    with Links() as links:
        try:
            links.add_wireguard(device)
        except netlink.NetlinkError as error:
            if error.number not in (95, 93):  # EOPNOTSUPP, EPROTONOSUPPORT
                raise
        else:
            return True
    program = shutil.which(PROGRAM)
    if program is None:
        raise CommandFailed(
            f"VPN device {device}: this kernel has no WireGuard and {PROGRAM} is not installed (see `kilonova doctor`)"
        )
    # A session of its own: what ends the agent's terminal does not end it. It must not inherit a wish for logs, which
    # would keep our pipe open.
    run(["setsid", program, device], env={"PATH": os.environ.get("PATH", os.defpath)})
    return True


def _found(device: str) -> FoundDevice:
    return parse_dump(run(["wg", "show", device, "dump"], timeout_s=5.0))


def _configure(plan: VpnPlan) -> list[str]:
    found = _found(plan.device)
    done: list[str] = []
    own: list[str] = []
    if found.public_key != plan.public_key:
        own += ["private-key", "/dev/stdin"]
        done.append("gave it its key")
    if found.port != plan.port:
        own += ["listen-port", str(plan.port)]
        done.append(f"port {plan.port}")
    changes = peer_changes(found, plan)
    peers = [["peer", key, "remove"] for key in changes.removed]
    peers += [["peer", key, "allowed-ips", f"{address}/32"] for key, address in changes.set]
    while own or peers:
        now, peers = peers[:_AT_ONCE], peers[_AT_ONCE:]
        words = [*own, *(word for peer in now for word in peer)]
        run(["wg", "set", plan.device, *words], stdin=f"{plan.private_key}\n" if "private-key" in own else None)
        own = []
    if changes.removed:
        done.append(f"{len(changes.removed)} peers fewer")
    if changes.set:
        done.append(f"{len(changes.set)} peers set")
    return done
