"""What a network's dnsmasq reads: its configuration and one file per port. Pure.

The digest of the configuration is part of its file's name, so a running process tells by its command line which
configuration it has.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

from kilonova.network.plan import METADATA_ADDRESS, ServicePlan, ServiceSubnet

LEASE_TIME_S = 86400


@dataclass(frozen=True)
class DnsmasqFiles:
    config_name: str
    config: str
    hosts: dict[str, str]
    """File name in the hosts directory -> its line."""


def dnsmasq_files(plan: ServicePlan, directory: Path, device: str, user: str) -> DnsmasqFiles:
    """For a dnsmasq that keeps everything in `directory` and serves `device`."""
    config = "\n".join(_config_lines(plan, directory, device, user)) + "\n"
    digest = hashlib.sha256(config.encode()).hexdigest()[:16]
    hosts: dict[str, str] = {}
    for entry in plan.entries:
        hosts[f"{entry.port_id}-{entry.address}"] = f"{entry.mac},{entry.address},{entry.hostname}\n"
    return DnsmasqFiles(f"dnsmasq-{digest}.conf", config, hosts)


def _config_lines(plan: ServicePlan, directory: Path, device: str, user: str) -> list[str]:
    size = sum(ip_network(subnet.cidr).num_addresses for subnet in plan.subnets)
    lines = [
        f"interface={device}",
        "bind-interfaces",
        "except-interface=lo",
        f"user={user}",
        f"pid-file={directory / 'pid'}",
        f"dhcp-leasefile={directory / 'leases'}",
        f"dhcp-hostsdir={directory / 'hosts'}",
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
        if subnet.dhcp:
            lines += _subnet_lines(f"subnet{number}", subnet, plan.mtu)
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
