"""The hops at a guest: its port, its power, its address, its device, its filters and its groups. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from kilonova.cloud.explain import groups
from kilonova.cloud.explain.actual import (
    Sight,
    Wrong,
    anything,
    chain,
    chain_without,
    element,
    link,
    namespace,
)
from kilonova.cloud.explain.routing import holds, networks_joined, subnet_with
from kilonova.cloud.explain.rows import Instance, Port, Router, Subnet
from kilonova.cloud.explain.trail import MEND, Trail
from kilonova.network.group_rules import chain_name, combination_name, members_name
from kilonova.network.observation import Neighbour
from kilonova.network.plan import tap_name

_RUNNING, _PAUSED = 1, 3
_ANSWERS = frozenset({"REACHABLE", "STALE", "DELAY", "PROBE", "PERMANENT"})
_SILENT = frozenset({"FAILED", "INCOMPLETE"})
_L2_PRE = tuple(f"kn_l2 {name}" for name in ("pre", "v4ok", "v4", "arp4", "v6"))
_L2_POST = tuple(f"kn_l2 {name}" for name in ("forwarded", "sent", "to_tap"))


def port_hops(trail: Trail, role: str, port: Port) -> None:
    """Is the port bound, up and its guest running?"""
    _port(trail, role, port)
    instance = trail.snapshot.instances.get(port.device_id)
    if instance is not None:
        _guest(trail, role, instance)


def _port(trail: Trail, role: str, port: Port) -> None:
    network = trail.snapshot.networks[port.network_id]
    up = "up" if port.admin_state_up else "down"
    where = trail.port(port)
    intent = f"{port.status}, administratively {up}, on {trail.host(port.host) if port.host else 'no host'}"
    if not port.host:
        command = f"openstack server add port SERVER {port.id}"
        trail.drop(f"{role} port", where, intent, "the port is bound to no host: no server uses it", command)
    elif not port.admin_state_up:
        trail.drop(f"{role} port", where, intent, "it is set down", f"openstack port set --enable {port.id}")
    elif not network.admin_state_up:
        command = f"openstack network set --enable {network.id}"
        trail.drop(f"{role} port", where, intent, f"its {trail.network(network)} is set down", command)
    else:
        sight = trail.hosts.see(port.host, ports=[port.id], networks=[port.network_id])
        missing: Wrong = lambda item: False  # noqa: E731
        trail.check(f"{role} port", where, intent, sight, missing, planned=[f"port {port.id}"], owners=[port.id, ""])


def _guest(trail: Trail, role: str, instance: Instance) -> None:
    name, where = f"{role} guest", f"{trail.host(instance.host or '')}: server {instance.name}"
    intent = f"{instance.vm_state}, power state {instance.power_state}"
    if instance.power_state == _PAUSED:
        trail.drop(name, where, intent, "the guest is paused", f"openstack server unpause {instance.id}")
        return
    if instance.power_state != _RUNNING:
        start = f"openstack server start {instance.id}"
        command = start if instance.vm_state == "stopped" else f"openstack server show {instance.id}"
        trail.drop(name, where, intent, f"the guest does not run ({instance.vm_state})", command)
        return
    service = trail.snapshot.services.get(("compute", instance.host or ""))
    if service is not None and not service.alive:
        why = (
            f"the compute agent of {trail.host(service.host)} is dead: its last heartbeat was {service.age_s:.0f} s ago"
        )
        trail.note(name, where, intent, "unknown", why=why, command="kilonova up")
        return
    trail.note(name, where, intent, actual="as the compute agent last saw it")


def address_hop(trail: Trail, role: str, port: Port, address: str, routers: Iterable[Router]) -> None:
    """Has the guest got its address? Its lease says so, or that it answers for it."""
    snapshot, name, subnet = trail.snapshot, f"{role} address", subnet_with(trail.snapshot, port.network_id, address)
    if subnet is None:
        return
    network = snapshot.networks[port.network_id]
    host = subnet.host or network.host or ""
    seen = [trail.hosts.see(host, networks=[network.id], addresses=[address])] if host else []
    near = {item.id: item.host for item in (*routers, *interfaces_of(snapshot.routers, network.id)) if item.host}
    seen += [trail.hosts.see(there, routers=[router_id], addresses=[address]) for router_id, there in near.items()]
    by_dhcp = subnet.enable_dhcp and bool(host) and not subnet.makes_addresses
    where = f"{trail.host(host)}: DHCP server of {trail.network(network)}" if by_dhcp else trail.port(port)
    intent = f"{address} ({port.mac})"
    intent += " by DHCP" if by_dhcp else " by SLAAC" if subnet.makes_addresses else ", set in the guest"
    speakers = {network.id, *near}
    told = [item for sight in seen if sight.told for item in sight.told.neighbours]
    heard = [item for item in dict.fromkeys(told) if item.address == address and item.owner in speakers]
    other = next((item for item in heard if item.state in _ANSWERS and not _is_of(item, port)), None)
    if other is not None:
        why = f"{other.mac} answers for {address}, not the guest's {port.mac}"
        trail.note(name, where, intent, "dropped", why=why, actual=_heard(heard), command=MEND)
    elif any(item.state in _ANSWERS for item in heard):
        trail.note(name, where, intent, actual=_heard(heard))
    elif by_dhcp:
        _lease(trail, name, where, intent, seen[0], subnet, port, address, heard)
    elif any(item.state in _SILENT for item in heard):
        why = f"the guest did not answer for {address} when it was last asked"
        trail.note(name, where, intent, "unknown", why=why, actual=_heard(heard))
    else:
        why = "only the guest knows whether it has the address"
        trail.note(name, where, intent, "unknown", why=why, decides=False)


def _lease(
    trail: Trail,
    name: str,
    where: str,
    intent: str,
    sight: Sight,
    subnet: Subnet,
    port: Port,
    address: str,
    heard: list[Neighbour],
) -> None:
    if sight.told is None:
        why, command = trail.silence(sight)
        trail.note(name, where, intent, "unknown", why=why, command=command)
        return
    if sight.told.simulated:
        trail.note(name, where, intent, actual="simulated: no guest")
        return
    network = port.network_id
    service = sight.told.services.get(network)
    instance = trail.snapshot.instances.get(port.device_id)
    reboot = f"openstack server reboot {port.device_id}" if instance else ""
    broken = sight.wrong(
        anything(
            namespace(f"service {network}"),
            lambda item: item.owner == network and item.kind == "link" and item.name.startswith("svc"),
            element("kn_l2 trusted", has=[f"svc{network[:11]}"]),
        )
    )
    if service is not None and address in service.leases:
        silent = next((item for item in heard if item.state in _SILENT), None)
        if silent is None:
            trail.note(name, where, intent, actual=f"leased to {service.leases[address]}")
            return
        why = f"it was leased {address}, but did not answer for it when it was last asked ({silent.state})"
        trail.note(name, where, intent, "unknown", why=why, actual=_heard(heard), command=reboot)
        return
    if service is None or not service.running:
        why, command = "the guest has no lease and the DHCP server does not run", MEND
    elif broken:
        why, command = f"the guest has no lease and its DHCP server is cut off: {broken[0]}", MEND
    elif address not in service.entries:
        why, command = f"the guest has no lease: the DHCP server does not know {address}", MEND
    else:
        why, command = f"the guest has no lease of {address}: it never asked for one", reboot
    if not holds(subnet.cidr, address) or ip_address(address).version == 6:
        trail.note(name, where, intent, "unknown", why=why, command=command, decides=False)
        return
    trail.note(name, where, intent, "dropped", why=why, actual="no lease", command=command)


def _is_of(item: Neighbour, port: Port) -> bool:
    return item.mac.lower() == port.mac.lower() or bool(port.pairs) or not port.secured


def _heard(heard: Iterable[Neighbour]) -> str:
    return "; ".join(f"{item.address} is at {item.mac or 'nobody'} ({item.state})" for item in heard)


def device_hop(trail: Trail, role: str, port: Port, address: str) -> None:
    """The port's device in the switch namespace; at the destination also what may be sent to it."""
    sight = trail.hosts.see(port.host, ports=[port.id], networks=[port.network_id])
    device = tap_name(port.id)
    fragment = f"port {port.id}"
    tests = [link(device), namespace(fragment)]
    if role == "destination":
        allowed = "kn_l2 dst6_ok" if ":" in address else "kn_l2 dst_ok"
        tests += [element(allowed, has=[device, address]), chain(*_L2_POST)]
    if not port.secured:
        tests.append(element("kn_l2 trusted", has=[device]))
    where = f"{trail.host(port.host)}: {device}"
    intent = f"on the bridge {trail.snapshot.networks[port.network_id].bridge}"
    facts = sight.told.ports.get(port.id) if sight.told else None
    instance = trail.snapshot.instances.get(port.device_id)
    is_off = not port.admin_state_up or (instance is not None and instance.power_state != _RUNNING)
    if facts is not None and not facts.carrier and not is_off and not sight.wrong(anything(*tests)):
        why = f"nobody is at the other end of {device}: the guest's device is down or gone"
        command = f"openstack server reboot --hard {port.device_id}"
        trail.note(f"{role} device", where, intent, "dropped", why=why, actual="no carrier", command=command)
        return
    trail.check(f"{role} device", where, intent, sight, anything(*tests), planned=[fragment], owners=[port.id, ""])


def spoofing_hop(trail: Trail, port: Port, address: str) -> None:
    """May the port send from this address?"""
    where = f"{trail.host(port.host)}: anti-spoofing of {tap_name(port.id)}"
    if not port.secured:
        trail.note("anti-spoofing", where, "port security is off: it may send from any address")
        return
    own = any(item.address == address for item in port.addresses)
    intent = f"it may send from {', '.join(item.address for item in port.addresses)}"
    if not own and not any(holds(pair, address) for pair in port.pairs):
        command = f"openstack port set --allowed-address ip-address={address} {port.id}"
        why = f"{address} is not an address of the port"
        trail.drop("anti-spoofing", where, intent, why, command)
        return
    sight = trail.hosts.see(port.host, ports=[port.id], networks=[port.network_id])
    trail.check("anti-spoofing", where, intent, sight, _spoofing(port, address), planned=[f"port {port.id}"])


def _spoofing(port: Port, address: str) -> Wrong:
    device = tap_name(port.id)
    own = any(item.address == address for item in port.addresses)
    mac = [port.mac] if own else []
    advertised = [device, hex(int(ip_address(address)))]
    return anything(
        element("kn_l2 ip_ok", "kn_l2 arp_ok", "kn_l2 ip6_ok", has=[device, address, *mac]),
        element("kn_l2 mac_ok", has=[device, *mac]),
        element("kn_l2 na_ok", has=advertised) if ":" in address else lambda item: False,
        chain(*_L2_PRE),
    )


def group_hop(
    trail: Trail,
    way: groups.Way,
    port: Port,
    address: str,
    remote: str,
    *,
    anybody: bool,
    router: Router | None = None,
) -> None:
    """Which rule lets it out of (into) the port? `remote` is the other end as this port's host sees it.

    `anybody`: the other end is no particular one. `router`: the one that filters for a VPN's client.
    """
    snapshot, name, domain = trail.snapshot, f"{way} group", networks_joined(trail.snapshot, port.network_id)
    host = port.host if router is None else router.host or ""
    where = f"{trail.host(host)}: groups of {trail.port(port)}"
    if not port.secured:
        trail.note(name, where, "port security is off: no group guards it")
        return
    match = groups.find_rule(snapshot, port, way, trail.traffic, remote, domain)
    names = ", ".join(snapshot.groups[item].name for item in port.groups if item in snapshot.groups)
    if match is None:
        said = f"no rule of its groups ({names}) allows {trail.traffic} {'to' if way == 'egress' else 'from'} {remote}"
        why = said if port.groups else "the port has no security group, so nothing passes"
        command = groups.command_for(port, way, trail.traffic, None if anybody else remote, snapshot)
        trail.drop(name, where, f"groups: {names or 'none'}", why, command)
        return
    bridge = snapshot.networks[port.network_id].bridge
    if router is None:
        sight = trail.hosts.see(host, ports=[port.id], networks=[port.network_id])
    else:
        sight = trail.hosts.see(host, routers=[router.id], networks=[port.network_id])
    wrong = _group(port, match, way, bridge, address, remote)
    trail.check(name, where, f"allowed by {match}", sight, wrong, owners=[port.id, ""])


def _group(port: Port, match: groups.Match, way: groups.Way, bridge: str, address: str, remote: str) -> Wrong:
    version = ip_address(address).version
    suffix = "" if version == 4 else "6"
    side = "in" if way == "ingress" else "out"
    combination = f"kn_sg {combination_name(port.groups)}_{side}"
    base = ["kn_sg sg_ingress"] if way == "ingress" else ["kn_sg forwarded", "kn_sg raw_pre"]
    tests = [
        element(f"kn_sg {way}{suffix}", has=[bridge, address]),
        chain_without(combination, f"jump {chain_name(match.group.id, way)}"),
        chain_without(f"kn_sg {chain_name(match.group.id, way)}", match.text),
        chain(*base),
    ]
    if match.rule.remote_group_id:
        members = members_name(match.rule.remote_group_id, version)
        tests += [element(f"kn_sg {members}", has=[bridge, remote]), chain(f"kn_sg {members}")]
    return anything(*tests)


def interfaces_of(routers: Mapping[str, Router], network_id: str) -> list[Router]:
    """The routers with a leg on a network."""
    return [item for item in routers.values() if any(leg.network_id == network_id for leg in item.legs)]
