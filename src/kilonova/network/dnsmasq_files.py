"""What a network's dnsmasq reads: its configuration, and for each port what DHCP and what DNS says of it. Pure.

The digest of the configuration is part of its file's name, so a running process tells by its command line which
configuration it has. The rest it reads again while it runs.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

from kilonova.network.plan import METADATA_ADDRESS, SHORT_ID, HostEntry, ServicePlan, ServiceSubnet
from kilonova.network.port_names import full_name

LEASE_TIME_S = 86400
HOSTS, NAMES, OPTIONS = "hosts", "names", "options"
"""Two directories that dnsmasq watches, what DHCP hands out and what DNS answers, and a file."""
_V6 = "dhcpv6"
"""The tag that dnsmasq itself gives to requests of DHCPv6."""
_NO_NAME = re.compile(r"ignore|infinite|\d+[smhdw]?", re.IGNORECASE)


@dataclass(frozen=True)
class DnsmasqFiles:
    config_name: str
    config: str
    hosts: dict[str, str]
    """File name in the hosts directory -> its line."""
    names: dict[str, str] = field(default_factory=dict)
    """File name in the names directory -> its lines."""
    options: str = ""
    """The options of single ports. It reads them when it starts."""

    def watched(self) -> dict[str, str]:
        """Path below the network's directory -> text, of what changes with the ports."""
        files = {f"{HOSTS}/{name}": text for name, text in self.hosts.items()}
        return files | {f"{NAMES}/{name}": text for name, text in self.names.items()} | {OPTIONS: self.options}


def dnsmasq_files(plan: ServicePlan, directory: Path, device: str, user: str) -> DnsmasqFiles:
    """For a dnsmasq that keeps everything in `directory` and serves `device`."""
    config = "\n".join(_config_lines(plan, directory, device, user)) + "\n"
    digest = hashlib.sha256(config.encode()).hexdigest()[:16]
    of_port: dict[str, list[HostEntry]] = defaultdict(list)
    for entry in plan.entries:
        of_port[entry.port_id].append(entry)
    hosts: dict[str, str] = {}
    names: dict[str, str] = {}
    serves6 = any(subnet.dhcp and ":" in subnet.cidr for subnet in plan.subnets)
    for port_id, entries in of_port.items():
        hosts |= _host_files(port_id, entries, plan.domain, serves6=serves6)
        names[port_id] = "".join(f"{entry.address} {_full_names(entry, plan.domain)}\n" for entry in entries)
    options = [
        f"tag:{_tag(port_id)},{option}\n" for port_id, entries in of_port.items() for option in entries[0].options
    ]
    return DnsmasqFiles(f"dnsmasq-{digest}.conf", config, hosts, names, "".join(options))


def _host_files(port_id: str, entries: list[HostEntry], domain: str, *, serves6: bool) -> dict[str, str]:
    """A file per IPv4 address, the first one with those of IPv6.

    dnsmasq takes the first line with the MAC, whether or not it has an address of the version that is asked for, and
    fills in what is missing by the name. So lines without one say that they are not for DHCPv6, where that is served.
    """
    fourth = [entry for entry in entries if entry.dhcp and ":" not in entry.address]
    sixth = [entry for entry in entries if entry.dhcp and ":" in entry.address]
    files: dict[str, str] = {}
    own = [f"set:{_tag(port_id)}"] if entries[0].options else []
    bracketed = [f"[{entry.address}]" for entry in sixth]
    for entry in fourth:
        only = [f"tag:!{_V6}"] if serves6 and not bracketed else []
        words = [entry.mac, *only, *own, entry.address, *bracketed]
        files[f"{port_id}-{entry.address}"] = ",".join((*words, _dhcp_name(entry.hostname, domain))) + "\n"
        bracketed = []
    if bracketed:
        name = _dhcp_name(sixth[0].hostname, domain)
        files[f"{port_id}-{_V6}"] = ",".join((sixth[0].mac, *own, *bracketed, name)) + "\n"
    return files


def _dhcp_name(name: str, domain: str) -> str:
    """A name that a dhcp-host line would mean otherwise (`ignore`, a lease time) is said with its domain."""
    return f"{name}.{domain}" if _NO_NAME.fullmatch(name) else name


def _tag(port_id: str) -> str:
    return f"port-{port_id[:SHORT_ID]}"


def _full_names(entry: HostEntry, domain: str) -> str:
    """Each name with the network's domain, the first one is the address's in the reverse; then the short ones."""
    names = entry.names or (entry.hostname,)
    full = [full_name(name, domain) for name in names]
    return " ".join(dict.fromkeys((*full, *(name for name in names if "." not in name))))


def _config_lines(plan: ServicePlan, directory: Path, device: str, user: str) -> list[str]:
    size = sum(ip_network(subnet.cidr).num_addresses for subnet in plan.subnets)
    lines = [
        # It binds to the addresses that are there when it starts: another one needs another process.
        f"# answers at {', '.join(subnet.service_address for subnet in plan.subnets)}",
        f"interface={device}",
        "bind-interfaces",
        "except-interface=lo",
        f"user={user}",
        f"pid-file={directory / 'pid'}",
        f"dhcp-leasefile={directory / 'leases'}",
        f"dhcp-hostsdir={directory / HOSTS}",
        f"hostsdir={directory / NAMES}",
        f"dhcp-optsfile={directory / OPTIONS}",
        f"dhcp-lease-max={min(size, 1 << 17)}",
        "dhcp-authoritative",
        "dhcp-rapid-commit",
        "no-ping",
        "no-hosts",
        "no-resolv",
        "no-poll",
        "bogus-priv",
        "domain-needed",
        "quiet-dhcp",
        "quiet-dhcp6",
        f"log-facility={directory / 'log'}",
        f"domain={plan.domain}",
        f"local=/{plan.domain}/",
        "expand-hosts",
    ]
    lines += [f"server={address}" for address in plan.forwarders]
    for number, subnet in enumerate(plan.subnets):
        if subnet.dhcp and ":" in subnet.cidr:
            lines += _subnet6_lines(f"subnet{number}", subnet, plan.domain)
        elif subnet.dhcp:
            lines += _subnet_lines(f"subnet{number}", subnet, plan.mtu)
    sixth = [subnet for subnet in plan.subnets if subnet.dhcp and ":" in subnet.cidr]
    if len(sixth) > 1:
        # Who asks for options only does not say in which of the subnets it is.
        lines += [f"dhcp-option=option6:{option}" for option in _options6(sixth[0], plan.domain)]
    return lines


def _subnet_lines(tag: str, subnet: ServiceSubnet, mtu: int) -> list[str]:
    """RFC 3442: who takes the classless routes ignores the router option, so the default route is among them."""
    network = ip_network(subnet.cidr)
    routes = [f"{METADATA_ADDRESS}/32,{subnet.service_address}"]
    routes += [f"{route.destination},{route.next_hop}" for route in subnet.routes if ":" not in route.destination]
    if subnet.gateway:
        routes.append(f"0.0.0.0/0,{subnet.gateway}")
    # One address of the other family and dnsmasq refuses the whole configuration.
    dns = ",".join([server for server in subnet.dns if ":" not in server] or [subnet.service_address])
    option = f"dhcp-option=tag:{tag},option"
    return [
        f"dhcp-range=set:{tag},{network.network_address},static,{network.netmask},{LEASE_TIME_S}",
        f"{option}:router" + (f",{subnet.gateway}" if subnet.gateway else ""),
        f"{option}:dns-server,{dns}",
        f"{option}:mtu,{mtu}",
        f"{option}:classless-static-route,{','.join(routes)}",
    ]


def _subnet6_lines(tag: str, subnet: ServiceSubnet, domain: str) -> list[str]:
    """Routes, gateway and MTU are what routers announce; here are addresses, for hosts that have a line, and DNS."""
    network = ip_network(subnet.cidr)
    return [
        f"dhcp-range=set:{tag},{network.network_address},static,{network.prefixlen},{LEASE_TIME_S}",
        *(f"dhcp-option=tag:{tag},option6:{option}" for option in _options6(subnet, domain)),
    ]


def _options6(subnet: ServiceSubnet, domain: str) -> list[str]:
    servers = [server for server in subnet.dns if ":" in server] or [subnet.service_address]
    return [f"dns-server,{','.join(f'[{server}]' for server in servers)}", f"domain-search,{domain}"]
