"""What a light guest does to its interfaces: the commands that a `network_data.json` means. Pure.

As the tiny image's `network_data.awk` reads the same document: an address that the document tells is configured, every
other IPv4 one is asked for by DHCP, SLAAC is the kernel's. Nothing of the document reaches the commands unparsed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import msgspec

from kilonova.errors import CommandFailed

NETWORK_DATA = "openstack/latest/network_data.json"
_TOLD = ("ipv4", "ipv6", "ipv6_dhcpv6-stateful")
"""The types whose address is in the document and is not made by the guest's kernel; busybox speaks no DHCPv6."""


class _Link(msgspec.Struct, frozen=True):
    id: str
    ethernet_mac_address: str
    mtu: int | None = None


class _Route(msgspec.Struct, frozen=True):
    network: str
    netmask: str
    gateway: str


class _Service(msgspec.Struct, frozen=True):
    type: str
    address: str


class _Network(msgspec.Struct, frozen=True):
    link: str
    type: str
    ip_address: str = ""
    netmask: str = ""
    routes: tuple[_Route, ...] = ()
    services: tuple[_Service, ...] = ()


class _Document(msgspec.Struct, frozen=True):
    links: tuple[_Link, ...] = ()
    networks: tuple[_Network, ...] = ()


def read_network_data(drive: Path | None) -> bytes:
    """The document of a config drive that is a directory; without a drive, one that says nothing."""
    return b"{}" if drive is None else (drive / NETWORK_DATA).read_bytes()


def network_commands(network_data: bytes, macs: Sequence[str]) -> str:
    """A shell script: interface `ethN` has the Nth MAC. `say`, `dhcp` and `reply_by` are its reader's functions.

    Raises `CommandFailed` for a document that is none.
    """
    try:
        document = msgspec.json.decode(network_data, type=_Document)
        lines = [line for number, mac in enumerate(macs) for line in _interface(document, number, mac)]
    except (msgspec.DecodeError, ValueError) as error:
        raise CommandFailed(f"network_data.json of the config drive: {error}") from error
    return "".join(f"{line}\n" for line in lines)


def _interface(document: _Document, number: int, mac: str) -> Iterator[str]:
    name = f"eth{number}"
    link = next((link for link in document.links if link.ethernet_mac_address.lower() == mac.lower()), None)
    networks = [network for network in document.networks if link is not None and network.link == link.id]
    yield f"ip addr flush dev {name} scope global"
    yield f"ip link set {name}" + (f" mtu {link.mtu}" if link is not None and link.mtu else "") + " up"
    for network in networks:
        if network.type in _TOLD:
            yield from _static(network, name, number)
    if not networks or any(network.type == "ipv4_dhcp" for network in networks):
        yield f"dhcp {name}"


def _static(network: _Network, name: str, number: int) -> Iterator[str]:
    """Routes have the interface's number as metric, so that the first interface's win."""
    address = ip_interface(f"{network.ip_address}/{_length(network.netmask)}")
    four = address.version == 4
    yield f"ip -{address.version} addr add {address} dev {name}"
    for route in network.routes:
        destination, gateway = ip_network(f"{route.network}/{_length(route.netmask)}"), ip_address(route.gateway)
        how = f"onlink metric {number}" if four else f"metric {number + 1}"
        yield f"ip -{address.version} route replace {destination} via {gateway} dev {name} {how}"
        if number and not destination.prefixlen:
            yield f"reply_by {address.version} {name} {number} {address.ip} {gateway}"
    yield f"say static {name} {address}"
    for service in network.services:
        if service.type == "dns":
            yield f"echo nameserver {ip_address(service.address)} >>/etc/resolv.conf.{name}"


def _length(netmask: str) -> int:
    """The prefix length of a netmask of either family."""
    return int(ip_address(netmask)).bit_count()
