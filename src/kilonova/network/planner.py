"""`plan`: the pure function that makes a host's plan of the store's rows."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_interface, ip_network
from typing import TypeVar

from kilonova.config import Config
from kilonova.network.dhcp_options import option_text
from kilonova.network.group_rules import GroupRule, compile_rules
from kilonova.network.ipv6 import LEAST_DHCP_PREFIX, STATEFUL, STATELESS, gives_addresses, is_automatic, link_local
from kilonova.network.layout import VlanTag
from kilonova.network.plan import (
    AddressPair,
    Advertisement,
    BridgePlan,
    Filter,
    GroupPlan,
    HostEntry,
    HostPlan,
    InterfacePlan,
    Member,
    OutsidePlan,
    PortPlan,
    Prefix,
    RouterPlan,
    ServicePlan,
    ServiceSubnet,
    StaticRoute,
    Uplink,
    tap_name,
)
from kilonova.network.port_names import domain_of, names_of
from kilonova.network.rows import (
    GATEWAY_OWNER,
    INTERFACE_OWNER,
    SERVICE_OWNER,
    HostRows,
    NetworkRow,
    PortRow,
    RouterRow,
    SubnetRow,
)
from kilonova.network.texts import LARGEST_PAIR
from kilonova.network.tunnels import too_small, tunnels
from kilonova.network.vpn_planner import plan_vpns

T = TypeVar("T")
FLAT = ("flat", "flat-dhcp")
_REMEMBERED = 16384
_FIRST_HASHED_ZONE, _LAST_ZONE = 4096, 65535


def plan(rows: HostRows, config: Config) -> HostPlan:
    """What the host of `config` shall have. The same rows give the same plan."""
    return _Planner(rows, config).plan()


class _Planner:
    """The indexes that `plan` needs; used once."""

    def __init__(self, rows: HostRows, config: Config) -> None:
        self.rows = rows
        self.host = config.host
        self.forwarders = config.network.dns_nameservers
        self.networks = {network.id: network for network in rows.networks}
        self.zones = zones(rows.networks)
        self.subnets = {subnet.id: subnet for subnet in rows.subnets}
        self.subnets_of = _grouped(rows.subnets, lambda subnet: subnet.network_id)
        self.addresses_of = _grouped(rows.addresses, lambda address: address.port_id)
        self.ports_of_device = _grouped(rows.ports, lambda port: port.device_id)
        self.groups_of: dict[str, set[str]] = defaultdict(set)
        for port_id, group_id in rows.port_groups:
            self.groups_of[port_id].add(group_id)
        self.warnings: list[str] = []

    def plan(self) -> HostPlan:
        services = {service.network_id: service for service in self._services()}
        bridges = {bridge.name: bridge for bridge in self._bridges()}
        routers = {router.id: self._router(router) for router in self.rows.routers if router.admin_state_up}
        ports = {port.port_id: port for port in self._ports()}
        claimed = (
            {(port.network_id, item.address) for port in ports.values() for item in port.filters}
            if (self.rows.vpn_clients)
            else set()
        )
        return HostPlan(
            bridges=bridges,
            ports=ports,
            groups={group.group_id: group for group in self._groups()},
            services=services,
            routers=routers,
            vpns={vpn.vpn_id: vpn for vpn in plan_vpns(self.rows, routers, self.groups_of, self.host.prefix, claimed)},
            uplinks=tuple(self._uplinks()),
            tunnels={tunnel.network_id: tunnel for tunnel in tunnels(self.rows, self.host)},
            outside=self._outside(),
            forget=tuple(self.rows.released),
            released_pool_networks=tuple(self.rows.released_pool_networks),
            warnings=(*self.warnings, *too_small(self.rows)),
        )

    # -------------------------------------------------------------------------------------------- bridges
    def bridge_name(self, network: NetworkRow) -> str:
        if network.external:
            return self.host.public_bridge
        return self.host.flat_bridges.get(network.physical_network, network.bridge)

    def _bridges(self) -> Iterable[BridgePlan]:
        if self.host.public_gateway or self.host.public_interface:
            yield BridgePlan(self.host.public_bridge, "", 1500, 0)
        for network in self.rows.networks:
            if network.external:
                yield BridgePlan(self.bridge_name(network), network.id, network.mtu, 0)
                continue
            trunk = self.host.trunks.get(network.physical_network)
            tagged = network.manager == "vlan" and trunk is not None and network.segmentation_id is not None
            yield BridgePlan(
                name=self.bridge_name(network),
                given=network.manager in FLAT,
                network_id=network.id,
                mtu=network.mtu,
                zone=self.zones[network.id],
                vlan=VlanTag(trunk or "", network.segmentation_id or 0) if tagged else None,
                dhcp_servers=tuple(
                    subnet.service_address
                    for subnet in self.subnets_of[network.id]
                    if subnet.enable_dhcp and subnet.service_address and ":" not in subnet.service_address
                ),
            )

    def _uplinks(self) -> Iterable[Uplink]:
        found: dict[str, Uplink] = {}
        if self.host.public_interface:
            found[self.host.public_interface] = Uplink(self.host.public_interface, self.host.public_bridge)
        for device in sorted(self.host.trunks.values()):
            found.setdefault(device, Uplink(device))
        if self.host.tunnel_interface:  # it may be a trunk as well
            found[self.host.tunnel_interface] = Uplink(self.host.tunnel_interface, address=self.host.tunnel_address)
        return found.values()

    def _outside(self) -> OutsidePlan | None:
        if not self.host.public_gateway:
            return None
        gateway = ip_interface(self.host.public_gateway)
        for subnet in self.rows.subnets:
            network = self.networks.get(subnet.network_id)
            if network is not None and network.external and gateway.ip in ip_network(subnet.cidr):
                length = ip_network(subnet.cidr).prefixlen
                return OutsidePlan(self.host.public_bridge, f"{gateway.ip}/{length}", network.mtu)
        return None

    # -------------------------------------------------------------------------------------------- ports
    def _ports(self) -> Iterable[PortPlan]:
        local = [port for port in self.rows.ports if port.host == self.host.name and port.vif != "none"]
        pairs_of = {port.id: self._pairs(port) for port in local}
        guards: dict[tuple[str, str], frozenset[str]] = {}
        for port in local:
            if port.port_security_enabled:
                groups = frozenset(self.groups_of[port.id])
                for pair in pairs_of[port.id]:
                    key = port.network_id, pair.address
                    guards[key] = guards[key] | groups if key in guards else groups
        for port in local:
            network = self.networks[port.network_id]
            secured = port.port_security_enabled
            pairs = pairs_of[port.id] if secured else ()
            filters: list[Filter] = []
            for address in dict.fromkeys(pair.address for pair in pairs):
                guard = guards.pop((port.network_id, address), None)
                if guard is not None:  # else: a port before this one shares the address and guards it
                    filters.append(_filter(address, guard))
            yield _port_plan(
                port.id,
                port.network_id,
                port.vif,
                self.bridge_name(network),
                port.mac,
                network.mtu,
                port.admin_state_up and network.admin_state_up,
                secured,
                pairs,
                tuple(filters),
            )

    def _pairs(self, port: PortRow) -> tuple[AddressPair, ...]:
        own = _own_pairs(port.mac, tuple(address.address for address in self.addresses_of[port.id]))
        if not port.allowed_address_pairs:
            return own
        pairs = list(own)
        macs = {port.mac}
        for allowed in port.allowed_address_pairs:
            mac = (allowed.get("mac_address") or port.mac).lower()
            macs.add(mac)
            network = ip_network(allowed["ip_address"], strict=False)
            if network.num_addresses > LARGEST_PAIR:
                self.warnings.append(f"port {port.id}: the allowed address pair {network} is too wide and not realised")
                continue
            pairs += [AddressPair(mac, str(address)) for address in network]
        pairs += [AddressPair(mac, link_local(mac)) for mac in sorted(macs)]
        return tuple(dict.fromkeys(pairs))

    # -------------------------------------------------------------------------------------------- groups
    def _groups(self) -> Iterable[GroupPlan]:
        rules = _grouped(self.rows.rules, lambda rule: rule.group_id)
        used = {group for groups in self.groups_of.values() for group in groups}
        remote = {rule.remote_group_id for rule in self.rows.rules if rule.remote_group_id}
        members = self._members()
        for group_id in sorted(used | remote):
            compiled: list[GroupRule] = []
            for row in rules[group_id]:
                compiled.append(
                    GroupRule(
                        "ingress" if row.direction == "ingress" else "egress",
                        "IPv6" if row.ethertype == "IPv6" else "IPv4",
                        row.protocol,
                        row.port_range_min,
                        row.port_range_max,
                        row.remote_ip_prefix,
                        row.remote_group_id,
                    )
                )
            yield GroupPlan(
                group_id=group_id,
                ingress=compile_rules(compiled, "ingress"),
                egress=compile_rules(compiled, "egress"),
                members=tuple(sorted(members[group_id])),
            )

    def _members(self) -> Mapping[str, set[Member]]:
        """Group -> where its members' packets may appear: every bridge here of their routing domain."""
        domains = routing_domains(self.rows.routed)
        members: dict[str, set[Member]] = defaultdict(set)
        for row in self.rows.members:
            for network_id in domains.get(row.network_id, {row.network_id}):
                network = self.networks.get(network_id)
                if network is not None:
                    members[row.group_id].add(Member(self.bridge_name(network), row.address))
        return members

    # -------------------------------------------------------------------------------------------- services
    def _services(self) -> Iterable[ServicePlan]:
        ports_of_network = _grouped(self.rows.ports, lambda port: port.network_id)
        for network in self.rows.networks:
            if network.host != self.host.name or network.external:
                continue
            subnets = tuple(
                self._service_subnet(subnet) for subnet in self.subnets_of[network.id] if subnet.service_address
            )
            if not subnets:
                continue
            ports = ports_of_network[network.id]
            handed_out = {subnet.subnet_id for subnet in subnets if subnet.dhcp and subnet.stateful}
            guests = [port for port in ports if not port.device_owner.startswith("network:")]
            yield ServicePlan(
                network_id=network.id,
                bridge=self.bridge_name(network),
                mac=self._service_mac(ports, subnets[0]) or _derived_mac(network.id),
                mtu=network.mtu,
                domain=domain_of(network.dns_domain),
                subnets=subnets,
                forwarders=self.forwarders,
                entries=tuple(entry for port in guests for entry in self._entries(port, handed_out)),
            )

    def _service_mac(self, ports: Iterable[PortRow], first: ServiceSubnet) -> str:
        """Of the port with the oldest subnet's address: guests know it, whatever subnets come later."""
        services = [port for port in ports if port.device_owner == SERVICE_OWNER]
        for port in services:
            if any(address.subnet_id == first.subnet_id for address in self.addresses_of[port.id]):
                return port.mac
        return services[0].mac if services else ""

    def _service_subnet(self, subnet: SubnetRow) -> ServiceSubnet:
        modes = (subnet.ipv6_address_mode, subnet.ipv6_ra_mode)
        network = ip_network(subnet.cidr)
        if network.version == 4:
            dhcp, stateful = subnet.enable_dhcp, True
        else:
            stateful = gives_addresses(*modes)
            answers = stateful or subnet.ipv6_address_mode == STATELESS
            dhcp = subnet.enable_dhcp and answers and network.prefixlen >= LEAST_DHCP_PREFIX
        return ServiceSubnet(
            subnet_id=subnet.id,
            cidr=subnet.cidr,
            service_address=subnet.service_address or "",
            gateway=subnet.gateway_ip,
            dns=tuple(subnet.dns_nameservers or ()),
            routes=tuple(StaticRoute(route["destination"], route["nexthop"]) for route in subnet.host_routes or ()),
            dhcp=dhcp,
            stateful=stateful,
        )

    def _entries(self, port: PortRow, handed_out: Collection[str]) -> Iterable[HostEntry]:
        addresses = tuple((each.address, each.subnet_id in handed_out) for each in self.addresses_of[port.id])
        found = (
            option_text(item["opt_name"], item["opt_value"], item.get("ip_version", 4))
            for item in port.extra_dhcp_opts or ()
            if item.get("opt_value") is not None
        )
        options = tuple(text for text in found if text is not None)
        return _host_entries(port.id, port.mac, port.device_id, port.dns_name, port.hostname, addresses, options)

    # -------------------------------------------------------------------------------------------- routers
    def _router(self, router: RouterRow) -> RouterPlan:
        ports = self.ports_of_device[router.id]
        interfaces = [self._interface(port) for port in ports if port.device_owner == INTERFACE_OWNER]
        gateway = next((port for port in ports if port.device_owner == GATEWAY_OWNER), None)
        inside = [
            IPv4Network(address, strict=False)
            for interface in interfaces
            for address in interface.addresses
            if ":" not in address
        ]
        inside6 = [
            IPv6Network(address, strict=False)
            for interface in interfaces
            for address in interface.addresses
            if ":" in address
        ]
        gateways: dict[int, str] = {}
        if gateway is not None:
            for address in self.addresses_of[gateway.id]:
                subnet = self.subnets[address.subnet_id]
                if subnet.gateway_ip:
                    gateways.setdefault(ip_network(subnet.cidr).version, subnet.gateway_ip)
        floating = sorted(
            (row.address, row.fixed_address)
            for row in self.rows.floating_ips
            if row.router_id == router.id and row.fixed_address
        )
        return RouterPlan(
            router_id=router.id,
            interfaces=tuple(interfaces),
            external=self._interface(gateway) if gateway else None,
            gateways=tuple(gateways[version] for version in sorted(gateways)),
            floating=tuple(floating) if gateway else (),
            inside=tuple(str(network) for network in collapse_addresses(inside)),
            inside6=tuple(str(network) for network in collapse_addresses(inside6)),
            snat=router.enable_snat,
            routes=tuple(
                StaticRoute(str(ip_network(route["destination"], strict=False)), route["nexthop"])
                for route in router.routes or ()
            ),
        )

    def _interface(self, port: PortRow) -> InterfacePlan:
        network = self.networks[port.network_id]
        addresses = [
            f"{address.address}/{ip_network(self.subnets[address.subnet_id].cidr).prefixlen}"
            for address in self.addresses_of[port.id]
        ]
        return InterfacePlan(
            port_id=port.id,
            network_id=network.id,
            bridge=self.bridge_name(network),
            mac=port.mac,
            mtu=network.mtu,
            addresses=tuple(addresses),
            advertisement=self._advertisement(port, network) if port.device_owner == INTERFACE_OWNER else None,
        )

    def _advertisement(self, port: PortRow, network: NetworkRow) -> Advertisement | None:
        """Of the leg's subnets whose router the cloud's is; none where an external router speaks for them."""
        rows = [self.subnets[address.subnet_id] for address in self.addresses_of[port.id]]
        announced = [row for row in dict.fromkeys(row.id for row in rows) if self.subnets[row].ipv6_ra_mode]
        if not announced:
            return None
        subnets = [self.subnets[subnet_id] for subnet_id in announced]
        modes = {subnet.ipv6_ra_mode for subnet in subnets}
        servers: list[str] = []
        for subnet in subnets:
            own = [subnet.service_address] if subnet.service_address else []
            servers += [server for server in subnet.dns_nameservers or own if ":" in server]
        return Advertisement(
            prefixes=tuple(
                Prefix(subnet.cidr, is_automatic(subnet.ipv6_address_mode, subnet.ipv6_ra_mode)) for subnet in subnets
            ),
            managed=STATEFUL in modes,
            other=bool(modes & {STATEFUL, STATELESS}),
            dns=tuple(dict.fromkeys(servers)),
            domain=domain_of(network.dns_domain),
        )


# What a port becomes is remembered: a pass plans a thousand of them anew, of which one has changed.
@lru_cache(maxsize=_REMEMBERED)
def _port_plan(
    port_id: str,
    network_id: str,
    vif: str,
    bridge: str,
    mac: str,
    mtu: int,
    up: bool,
    secured: bool,
    pairs: tuple[AddressPair, ...],
    filters: tuple[Filter, ...],
) -> PortPlan:
    return PortPlan(port_id, network_id, tap_name(port_id), vif, bridge, mac, mtu, up, secured, pairs, filters)


@lru_cache(maxsize=_REMEMBERED)
def _own_pairs(mac: str, addresses: tuple[str, ...]) -> tuple[AddressPair, ...]:
    pairs = [AddressPair(mac, address) for address in addresses]
    return tuple(dict.fromkeys([*pairs, AddressPair(mac, link_local(mac))]))


@lru_cache(maxsize=_REMEMBERED)
def _filter(address: str, groups: frozenset[str]) -> Filter:
    return Filter(address, tuple(sorted(groups)))


@lru_cache(maxsize=_REMEMBERED)
def _host_entries(
    port_id: str,
    mac: str,
    instance_id: str,
    dns_name: str,
    hostname: str | None,
    addresses: tuple[tuple[str, bool], ...],
    options: tuple[str, ...],
) -> tuple[HostEntry, ...]:
    """A port's addresses under its names. DHCP tells its server's, which is the last one."""
    names = names_of((address for address, _ in addresses), dns_name, hostname)
    return tuple(
        HostEntry(port_id, mac, address, names[address][-1], instance_id, names[address], dhcp, options)
        for address, dhcp in addresses
    )


def zones(networks: Iterable[NetworkRow]) -> dict[str, int]:
    """A connection-tracking zone per network: none twice, and an older network keeps its own when newer ones come."""
    taken: dict[int, str] = {}
    for network in networks:
        if network.external:
            continue
        zone = zlib.crc32(network.id.encode()) % (_LAST_ZONE - _FIRST_HASHED_ZONE) + _FIRST_HASHED_ZONE
        while zone in taken:
            zone = zone + 1 if zone < _LAST_ZONE else _FIRST_HASHED_ZONE
        taken[zone] = network.id
    return {network_id: zone for zone, network_id in taken.items()}


def routing_domains(routed: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """Network -> the networks whose packets routers can bring to it, itself included."""
    domains: dict[str, set[str]] = {}
    by_router: dict[str, set[str]] = defaultdict(set)
    for router_id, network_id in routed:
        by_router[router_id].add(network_id)
    for networks in by_router.values():
        joined = set(networks)
        for network_id in networks:
            joined |= domains.get(network_id, set())
        for network_id in joined:
            domains[network_id] = joined
    return domains


def _derived_mac(network_id: str) -> str:
    """A locally administered MAC for a network whose service has no port."""
    tail = zlib.crc32(network_id.encode()).to_bytes(4, "big")
    return "02:6b:" + tail.hex(":")


def _grouped(rows: Iterable[T], key: Callable[[T], str]) -> Mapping[str, list[T]]:
    found: dict[str, list[T]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return found
