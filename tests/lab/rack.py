"""What joins the hosts of the lab: a namespace with two bridges, one for the test's words and one for the trunk.

The trunk's bridge knows nothing of VLANs: it passes tagged frames on as they are. `Capture` reads them with their tags.
"""

from __future__ import annotations

import socket
import struct
import subprocess
from typing import NamedTuple

from kilonova.network.host import namespaces
from kilonova.network.host.links import write_sysctls

MANAGEMENT = "mgmt"
TRUNK = "trunk"
TRUNK_MTU = 1600
_ALL_FRAMES = 0x0003
_SOL_PACKET, _PACKET_AUXDATA = 263, 8
_AUXDATA = struct.Struct("=IIIHHHH")
_TAG_IS_VALID = 1 << 4
_8021Q = 0x8100


class Rack:
    def __init__(self, name: str) -> None:
        self.name = name

    def open(self, hosts: int) -> None:
        namespaces.create(self.name, _pass_everything)
        lines = ["link set lo up"]
        for bridge, mtu in ((MANAGEMENT, 1500), (TRUNK, TRUNK_MTU)):
            lines += [f"link add {bridge} mtu {mtu} type bridge mcast_snooping 0", f"link set {bridge} up"]
            for number in range(1, hosts + 1):
                tap = f"{bridge}{number}"
                lines += [f"tuntap add {tap} mode tap", f"link set {tap} mtu {mtu} master {bridge} up"]
        lines.append(f"addr add 198.18.0.254/24 dev {MANAGEMENT}")
        self.ip(*lines)

    def join(self, end: str, namespace: str, device: str, mtu: int) -> None:
        """Give a namespace a `device` whose other end, `end`, is on the trunk."""
        self.ip(
            f"link add {end} mtu {mtu} type veth peer name {device} mtu {mtu} netns {namespace}",
            f"link set {end} master {TRUNK} up",
        )

    def ip(self, *lines: str) -> None:
        text = "".join(f"{line}\n" for line in lines)
        subprocess.run(["ip", "-n", self.name, "-batch", "-"], input=text, text=True, check=True, capture_output=True)

    def close(self) -> None:
        namespaces.delete(self.name)


def _pass_everything() -> None:
    """A switch looks at no packet."""
    bridge = {f"net/bridge/bridge-nf-call-{kind}": "0" for kind in ("iptables", "ip6tables", "arptables")}
    write_sysctls({**bridge, "net/ipv6/conf/default/disable_ipv6": "1"})


class Frame(NamedTuple):
    vlan: int | None
    """The tag's VLAN id; none: untagged."""
    ethertype: int
    payload: bytes


class Capture:
    """Every frame through a device, both ways, from the moment it is made."""

    def __init__(self, namespace: str, device: str) -> None:
        self._socket = namespaces.run_inside(namespace, lambda: _listen(device))

    def frames(self) -> list[Frame]:
        """Those seen since the last call."""
        found: list[Frame] = []
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(2048, 256)
            except BlockingIOError:
                return found
            found.append(_frame(data, ancillary))

    def close(self) -> None:
        self._socket.close()


def _listen(device: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_FRAMES))
    made.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    made.bind((device, _ALL_FRAMES))
    made.setblocking(False)
    return made


def _frame(data: bytes, ancillary: list[tuple[int, int, bytes]]) -> Frame:
    """The kernel takes a tag out of the bytes and tells it beside them; one that it did not take out is still there."""
    vlan: int | None = None
    for level, kind, body in ancillary:
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA):
            status, _, _, _, _, tag, _ = _AUXDATA.unpack_from(body)
            if status & _TAG_IS_VALID:
                vlan = tag & 0xFFF
    (ethertype,) = struct.unpack_from("!H", data, 12)
    rest = data[14:]
    if vlan is None and ethertype == _8021Q:
        tag, ethertype = struct.unpack_from("!HH", rest)
        vlan, rest = tag & 0xFFF, rest[4:]
    return Frame(vlan, ethertype, rest)
