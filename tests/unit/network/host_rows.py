"""Builds the rows of a host for the tests of the plan: a few words per row."""

from __future__ import annotations

from typing import Any

from kilonova.config import Config, HostConfig
from kilonova.network import rows
from kilonova.network.rows import (
    AddressRow,
    FloatingRow,
    HostRows,
    MemberRow,
    NetworkRow,
    PortRow,
    RouterRow,
    RuleRow,
    SubnetRow,
    VpnClientRow,
    VpnRow,
)

HOST = "host1"


def config(**host: Any) -> Config:
    from pathlib import Path

    return Config(state_dir=Path("/state"), host=HostConfig(name=HOST, **host))


def uid(kind: int, number: int) -> str:
    """An id whose first eleven characters differ for every (kind, number)."""
    return f"{kind:02x}{number:06x}-0000-4000-8000-{kind:04x}{number:08x}"


def mac(number: int) -> str:
    return f"fa:16:3e:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"


class Rows:
    """Collects rows; `host_rows` gives them as `rows.load` would."""

    def __init__(self) -> None:
        self.networks: list[NetworkRow] = []
        self.subnets: list[SubnetRow] = []
        self.ports: list[PortRow] = []
        self.addresses: list[AddressRow] = []
        self.routers: list[RouterRow] = []
        self.floating: list[FloatingRow] = []
        self.port_groups: list[tuple[str, str]] = []
        self.rules: list[RuleRow] = []
        self.members: list[MemberRow] = []
        self.routed: list[tuple[str, str]] = []
        self.released: list[rows.ReleasedRow] = []
        self.vpns: list[VpnRow] = []
        self.vpn_clients: list[VpnClientRow] = []

    def network(self, number: int, cidr: str = "10.0.0.0/24", *, external: bool = False, **values: Any) -> str:
        network_id = uid(1, number)
        base = cidr.rpartition(".")[0]
        row = NetworkRow(
            network_id, "vlan", "physnet1", number, f"br{number}", 1500, True, external, "", None if external else HOST
        )
        self.networks.append(row._replace(**values))
        self.subnets.append(
            SubnetRow(
                uid(2, number),
                network_id,
                cidr,
                f"{base}.1",
                not external,
                [],
                [],
                None if external else f"{base}.2",
                HOST if external else None,
            )
        )
        return network_id

    def subnet6(self, number: int, network: int, cidr: str, mode: str | None = None, **values: Any) -> str:
        """An IPv6 subnet of a network that is there; mode: of both fields."""
        subnet_id, base = uid(2, number), cidr.partition("::")[0]
        row = SubnetRow(subnet_id, uid(1, network), cidr, f"{base}::1", True, [], [], f"{base}::2", None, mode, mode)
        self.subnets.append(row._replace(**values))
        return subnet_id

    def port(self, number: int, network: int, address: str = "", groups: tuple[str, ...] = (), **values: Any) -> str:
        port_id = uid(3, number)
        row = PortRow(
            port_id,
            uid(1, network),
            mac(number),
            True,
            "DOWN",
            uid(9, number),
            "compute:nova",
            HOST,
            "tap",
            True,
            [],
            "",
            None,
        )
        self.ports.append(row._replace(**values))
        if address:
            self.addresses.append(AddressRow(port_id, uid(2, network), address))
        self.port_groups += [(port_id, group) for group in groups]
        return port_id

    def router(self, number: int, *legs: tuple[int, str], gateway: tuple[int, str] | None = None, **values: Any) -> str:
        router_id = uid(4, number)
        external = uid(1, gateway[0]) if gateway else None
        self.routers.append(RouterRow(router_id, True, "ACTIVE", external, True, [])._replace(**values))
        for position, (network, address) in enumerate(legs):
            owner = rows.INTERFACE_OWNER
            self.port(
                1000 * number + position, network, address, device_owner=owner, device_id=router_id, host="", vif="none"
            )
            self.routed.append((router_id, uid(1, network)))
        if gateway:
            owner = rows.GATEWAY_OWNER
            self.port(
                1000 * number + 999,
                gateway[0],
                gateway[1],
                device_owner=owner,
                device_id=router_id,
                host="",
                vif="none",
            )
        return router_id

    def rule(self, group: str, **values: Any) -> None:
        self.rules.append(RuleRow(group, "ingress", "IPv4", None, None, None, None, None)._replace(**values))

    def vpn(self, number: int, router: int, port: int = 1000) -> str:
        vpn_id = uid(5, number)
        self.vpns.append(VpnRow(vpn_id, uid(4, router), port, f"private-{number}", f"public-{number}", "DOWN"))
        return vpn_id

    def vpn_client(
        self, number: int, vpn: int, network: int, address: str, groups: tuple[str, ...] = (), **port: Any
    ) -> str:
        values = {"device_owner": "network:vpn_client", "device_id": uid(5, vpn), "vif": "none", **port}
        port_id = self.port(90000 + number, network, address, groups, **values)
        self.vpn_clients.append(VpnClientRow(uid(6, number), uid(5, vpn), port_id, f"client-{number}", None))
        return port_id

    def host_rows(self) -> HostRows:
        return HostRows(
            HOST,
            self.networks,
            self.subnets,
            self.ports,
            self.addresses,
            self.routers,
            self.floating,
            self.port_groups,
            self.rules,
            self.members,
            self.routed,
            self.released,
            [],
            vpns=self.vpns,
            vpn_clients=self.vpn_clients,
        )
