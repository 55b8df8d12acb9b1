"""Which rule of which group lets a packet pass, as the rows say. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Literal

from kilonova.cloud.explain.question import Traffic
from kilonova.cloud.explain.rows import Group, Port, Rule, Snapshot
from kilonova.network.group_rules import WITH_PORTS, GroupRule, compile_rule, protocol_number
from kilonova.network.texts import plain_network

Way = Literal["ingress", "egress"]


@dataclass(frozen=True)
class Match:
    group: Group
    rule: Rule

    @property
    def text(self) -> str:
        """The nft rule that it becomes on a host."""
        rule = self.rule
        return (
            compile_rule(
                GroupRule(
                    "ingress" if rule.direction == "ingress" else "egress",
                    "IPv6" if rule.ethertype == "IPv6" else "IPv4",
                    rule.protocol,
                    rule.port_min,
                    rule.port_max,
                    rule.remote_cidr,
                    rule.remote_group_id,
                )
            )
            or ""
        )

    def __str__(self) -> str:
        return f"rule {self.rule.id} of group {self.group.name}: {describe(self.rule)}"


def find_rule(
    snapshot: Snapshot, port: Port, way: Way, traffic: Traffic, remote: str, domain: Iterable[str]
) -> Match | None:
    """The first rule that lets the packet pass.

    `remote` is the other end's address as it is seen at this port, `domain` the networks whose packets reach it with
    their own addresses.
    """
    networks = set(domain)
    for group_id in port.groups:
        group = snapshot.groups.get(group_id)
        if group is None:
            continue
        for rule in group.rules:
            if rule.direction == way and _matches(snapshot, rule, traffic, remote, networks):
                return Match(group, rule)
    return None


def _matches(snapshot: Snapshot, rule: Rule, traffic: Traffic, remote: str, networks: set[str]) -> bool:
    version = ip_address(remote).version
    if rule.ethertype != f"IPv{version}":
        return False
    number = protocol_number(rule.protocol, rule.ethertype)
    if number is not None and number != traffic.number:
        return False
    if number is not None and rule.port_min is not None:
        last = rule.port_min if rule.port_max is None else rule.port_max
        if number in WITH_PORTS:
            if traffic.port is None or not rule.port_min <= traffic.port <= last:
                return False
        elif traffic.icmp_type is not None and (traffic.icmp_type != rule.port_min or rule.port_max not in (None, 0)):
            return False
    if rule.remote_cidr:
        network = plain_network(rule.remote_cidr)
        if network.version != version or ip_address(remote) not in network:
            return False
    if rule.remote_group_id:
        return any((rule.remote_group_id, network, remote) in snapshot.members for network in networks)
    return True


def describe(rule: Rule) -> str:
    """A rule in a few words."""
    words = [rule.direction, rule.ethertype, rule.protocol or "any protocol"]
    if rule.port_min is not None:
        words.append(
            f"{rule.port_min}" if rule.port_max in (None, rule.port_min) else f"{rule.port_min}-{rule.port_max}"
        )
    side = "from" if rule.direction == "ingress" else "to"
    if rule.remote_group_id:
        words.append(f"{side} members of group {rule.remote_group_id}")
    words.append(
        f"{side} {rule.remote_cidr}" if rule.remote_cidr else "" if rule.remote_group_id else f"{side} anybody"
    )
    return " ".join(word for word in words if word)


def command_for(port: Port, way: Way, traffic: Traffic, remote: str | None, snapshot: Snapshot) -> str:
    """What would let the packet pass; `remote` none: from or to anybody."""
    group = next((snapshot.groups[group_id] for group_id in port.groups if group_id in snapshot.groups), None)
    if group is None:
        return f"openstack port set --security-group default {port.id}"
    words = [f"openstack security group rule create --{way}"]
    version = 4 if remote is None else ip_address(remote).version
    if version == 6:
        words.append("--ethertype IPv6")
    words.append(f"--protocol {'ipv6-icmp' if traffic.number == 58 else traffic.name}")
    if traffic.port is not None:
        words.append(f"--dst-port {traffic.port}")
    if remote is not None:
        words.append(f"--remote-ip {remote}/{32 if version == 4 else 128}")
    return " ".join([*words, group.id])
