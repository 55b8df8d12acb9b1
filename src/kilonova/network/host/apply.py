"""Makes a host as planned: the only code that changes the kernel's network state.

Usually the new plan is compared with the last applied one and only the fragments that differ are touched; at the start,
by timer and after a failure it is compared with what is there. Nothing that is right is ever flushed. The failure of
one network, router or port does not keep the others from being made.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from kilonova.config import Config
from kilonova.errors import CommandFailed
from kilonova.network import rules
from kilonova.network.flows import Cut, cuts, cuts_of_address, translations_gone
from kilonova.network.fragments import Fragment, Names, fragments, given_uplinks
from kilonova.network.host import arp, conntrack, namespaces, proxies, wireguard
from kilonova.network.host.comparison import by_namespace, by_owner, compare
from kilonova.network.host.dnsmasq import Dnsmasq
from kilonova.network.host.failures import HOST_ITSELF, Failures, catching
from kilonova.network.host.inspect import relevant, survey, without_peoples_routes
from kilonova.network.host.interface import Outcome, Wires
from kilonova.network.host.links import Links, write_sysctls
from kilonova.network.host.nftables import Nft
from kilonova.network.host.observe import audit, end_strangers, observe
from kilonova.network.host.processes import end_daemons
from kilonova.network.host.radvd import Radvd
from kilonova.network.host.routes import NO_DRIFT, Drift, drift
from kilonova.network.host.switch import Switch
from kilonova.network.host.sysctls import is_router, sysctls_of
from kilonova.network.host.wireguard import WireGuard
from kilonova.network.host.wires import find_wires
from kilonova.network.layout import (
    Changes,
    Layout,
    Link,
    LinkChange,
    difference,
    nft_commands,
    without_device,
)
from kilonova.network.lease import boot_time
from kilonova.network.observation import Audit, Concern, Observation
from kilonova.network.plan import HostPlan
from kilonova.network.rows import ReleasedRow

log = logging.getLogger(__name__)


class KernelHost:
    """See `kilonova.network.host.interface.Host`."""

    def __init__(self, config: Config) -> None:
        self._config = config.host
        self._names = Names(config.host.prefix)
        self._state_dir = config.state_dir
        self._dnsmasq = Dnsmasq(config.state_dir / "network")
        self._wireguard = WireGuard()
        self._radvd = Radvd(config.state_dir / "routers")
        self._switch: Switch | None = None
        self._believed: dict[str, Fragment] | None = None
        self._given: dict[str, tuple[str, ...]] = {}
        """An administrator's bridge -> the ports that he put on it, as last looked."""
        self._last_plan = HostPlan()
        self._lease_until = float("-inf")
        self._switching = threading.Lock()
        """Held while the switch's thread is replaced, and while heartbeats use it."""

    def open(self) -> None:
        self._open_switch()

    def close(self) -> None:
        with self._switching:
            if self._switch is not None:
                self._switch.close()
                self._switch = None

    def hold(self, seconds: float) -> None:
        self._lease_until = boot_time() + seconds
        with self._switching:
            if self._switch is not None:
                self._switch.run(Switch.filter, rules.lease_commands(seconds))

    def has_device(self, device: str) -> bool:
        return self._open_switch().run(Switch.has_link, device)

    def service_namespaces(self, plan: HostPlan) -> dict[str, str]:
        return {network_id: self._names.service(network_id) for network_id in plan.services}

    def wires(self) -> Wires:
        return find_wires(self._names.switch, self._config)

    def handshakes(self, plan: HostPlan) -> Mapping[str, Mapping[str, int]]:
        found: dict[str, Mapping[str, int]] = {}
        for vpn in plan.vpns.values():
            if vpn.clients:
                found[vpn.vpn_id] = self._wireguard.handshakes(vpn, self._names.router(vpn.router_id))
        return found

    def observe(self, plan: HostPlan, concern: Concern) -> Observation:
        return observe(plan, concern, self._names, self._state_dir)

    def audit(self, plan: HostPlan, *, mend: bool) -> Audit:
        if mend:
            end_strangers(plan, self._names)
        return audit(plan, self._names, self._state_dir)

    def apply(self, plan: HostPlan, *, look: bool) -> Outcome:
        failures: Failures = {}
        done: list[str] = []
        switch = self._open_switch()
        look = look or self._believed is None
        wanted = fragments(plan, self._names)
        wanted.update(self._given_uplinks(switch, plan, look))
        if look or self._believed is None:
            changes, drifts, stale = self._look(switch, wanted, failures, done)
        else:
            drifts = {}
            changes, stale = compare(self._believed, wanted)
        self._believed = None  # until all of it is done
        owners = {item.namespace: item.owner for item in wanted.values()}
        for name in sorted({item.namespace for item in wanted.values()}):
            if look or not namespaces.exists(name):
                self._create(name, owners[name], failures, done)
        for uplink in plan.uplinks:
            with catching(failures, uplink.device):
                self._fetch(switch, uplink.device)
        self._make_vpns(plan, changes, look, failures, done)
        flows = self._apply_switch(switch, plan, wanted, changes.get(self._names.switch), failures, done)
        for name, change in changes.items():
            drift = drifts.get(name, NO_DRIFT)
            if name == self._names.switch or not (change or drift):
                continue
            with catching(failures, owners.get(name, HOST_ITSELF)):
                namespaces.run_inside(name, _apply_inside, name, change, drift)
                done.append(f"{name}: {', '.join(str(what) for what in (change, drift) if what)}")
        held = self._configure_vpns(plan, look, failures, done)
        self._services(plan, look, failures, done)
        forgotten = self._forget(switch, plan, flows, held, failures)
        # Afterwards: no address is held by what is announced.
        self._announcements(plan, look, failures, done)
        for name in stale:
            with catching(failures, HOST_ITSELF):
                end_daemons(name)
                wireguard.end_processes(name)
                namespaces.delete(name)
                done.append(f"deleted {name}")
        if not failures:
            self._believed, self._last_plan = wanted, plan
        return Outcome(failures, forgotten, tuple(done))

    def _given_uplinks(self, switch: Switch, plan: HostPlan, look: bool) -> dict[str, Fragment]:
        """Fragments that trust what the administrator has put on his bridges; looked up for a new one, and by timer."""
        bridges = [bridge for bridge in plan.bridges.values() if bridge.given]
        names = [bridge.name for bridge in bridges if look or bridge.name not in self._given]
        known = {bridge.name: self._given[bridge.name] for bridge in bridges if bridge.name not in names}
        self._given = known | (switch.run(Switch.foreign_ports, names) if names else {})
        return given_uplinks(plan, self._given, self._names.switch)

    # -------------------------------------------------------------------------------------------- what differs
    def _look(
        self, switch: Switch, wanted: Mapping[str, Fragment], failures: Failures, done: list[str]
    ) -> tuple[dict[str, Changes], dict[str, Drift], list[str]]:
        """The changes by comparison with the kernel, strange routes, and the namespaces that are not wanted."""
        layouts = by_namespace(wanted.values())
        found: dict[str, Layout] = {}
        drifts: dict[str, Drift] = {}
        for name in layouts:
            if name != self._names.switch and namespaces.exists(name):
                with catching(failures, HOST_ITSELF):
                    surveyed = survey(name)
                    if name == self._names.outside:
                        surveyed = without_peoples_routes(surveyed, layouts[name])
                    found[name] = relevant(surveyed.layout, layouts[name], self._names.prefix)
                    drifts[name] = drift(surveyed.routes, found[name], layouts[name])
        there = relevant(switch.run(Switch.inspect), layouts[self._names.switch], self._names.prefix)
        renamed = there.renamed(layouts[self._names.switch])
        if renamed:
            for old, new in renamed.items():
                switch.run(Switch.rename_link, old, new)
                done.append(f"{self._names.switch}: {old} is called {new} again")
            there = relevant(switch.run(Switch.inspect), layouts[self._names.switch], self._names.prefix)
        for device, link in layouts[self._names.switch].links.items():
            peer = link.peer
            if peer is None or not peer.namespace or device not in there.links:
                continue
            if peer.namespace not in found or peer.device not in found[peer.namespace].links:
                switch.run(Switch.remove_link, device)  # its other end is lost
                there = replace(there, links={name: item for name, item in there.links.items() if name != device})
        found[self._names.switch] = there
        changes = {name: difference(found.get(name, Layout()), layout) for name, layout in layouts.items()}
        stale = [
            name for name in namespaces.names(self._names.prefix) if self._names.owns(name) and name not in layouts
        ]
        return changes, drifts, stale

    # -------------------------------------------------------------------------------------------- the switch
    def _open_switch(self) -> Switch:
        """The thread in the switch namespace; another one if somebody replaced the namespace."""
        name = self._names.switch
        with self._switching:
            if self._switch is not None:
                if namespaces.exists(name) and namespaces.identity(name) == self._switch.identity:
                    return self._switch
                self._switch.close()
                self._switch = self._believed = None
            namespaces.create(name, lambda: _set_up(name))
            self._switch = Switch(name, self._config.vlan_backend)
            return self._switch

    def _fetch(self, switch: Switch, device: str) -> None:
        """Move a NIC of the machine into the switch namespace; with the namespace's end the kernel gives it back."""
        if switch.run(Switch.has_link, device):
            return
        with Links() as links:
            links.move(device, self._names.switch)
        log.info("moved %s into %s", device, self._names.switch)

    def _create(self, name: str, owner: str, failures: Failures, done: list[str]) -> None:
        was_there = namespaces.exists(name)
        with catching(failures, owner):
            changed = namespaces.create(name, lambda: _set_up(name))
            if changed and was_there:
                done.append(f"{name}: settings {', '.join(changed)}")

    def _apply_switch(
        self,
        switch: Switch,
        plan: HostPlan,
        wanted: Mapping[str, Fragment],
        changes: Changes | None,
        failures: Failures,
        done: list[str],
    ) -> set[Cut]:
        """Links and filters; the flows that have to be cut."""
        if not changes:
            return set()
        failures.update(switch.run(Switch.change_links, changes, _tunnel_owners(plan)))
        commands = nft_commands(changes)
        if any(key == rules.LEASE for key, _ in changes.added_sets):
            commands += rules.lease_commands(self._lease_until - boot_time())
        if commands:
            try:
                switch.run(Switch.filter, commands)
            except CommandFailed as error:
                log.warning("the filters were refused as a whole, trying one owner after the other: %s", error)
                for owner, part in by_owner(changes, wanted, self._names.switch):
                    with catching(failures, owner):
                        switch.run(Switch.filter, nft_commands(part))
        done.append(f"{self._names.switch}: {changes}")
        return cuts(plan, changes)

    # -------------------------------------------------------------------------------------------- VPNs
    def _make_vpns(
        self, plan: HostPlan, changes: dict[str, Changes], look: bool, failures: Failures, done: list[str]
    ) -> None:
        """Devices that are missing. A router does without one that cannot be made."""
        self._wireguard.forget(plan.vpns)
        for vpn in plan.vpns.values():
            namespace = self._names.router(vpn.router_id)
            with catching(failures, vpn.vpn_id):
                done += [f"{namespace}: {word}" for word in self._wireguard.make(vpn, namespace, look=look)]
            if vpn.vpn_id in failures and namespace in changes:
                changes[namespace] = without_device(changes[namespace], vpn.device)

    def _configure_vpns(self, plan: HostPlan, look: bool, failures: Failures, done: list[str]) -> set[str]:
        """Keys and peers; the networks of which a device may still know an address that it should have forgotten."""
        held: set[str] = set()
        for vpn in plan.vpns.values():
            if not failures.keys() & {vpn.router_id, vpn.vpn_id}:
                with catching(failures, vpn.vpn_id):
                    words = self._wireguard.configure(vpn, self._names.router(vpn.router_id), look=look)
                    done += [f"VPN {vpn.vpn_id}: {word}" for word in words]
            if vpn.vpn_id in failures:
                held |= {leg.network_id for leg in plan.routers[vpn.router_id].interfaces}
        return held

    # -------------------------------------------------------------------------------------------- services
    def _services(self, plan: HostPlan, look: bool, failures: Failures, done: list[str]) -> None:
        before = self._last_plan.services
        for network_id, service in plan.services.items():
            if not look and before.get(network_id) == service:
                continue
            with catching(failures, network_id):
                words = self._dnsmasq.ensure(service, self._names.service(network_id), look=look)
                done += [f"network {network_id}: {word}" for word in words]
        gone = self._dnsmasq.networks() if look else before
        for network_id in [item for item in gone if item not in plan.services]:
            with catching(failures, network_id):
                self._dnsmasq.remove(network_id)
                done.append(f"network {network_id}: removed dnsmasq")

    def _announcements(self, plan: HostPlan, look: bool, failures: Failures, done: list[str]) -> None:
        before = self._last_plan.routers
        for router_id, router in plan.routers.items():
            if look or before.get(router_id) != router:
                with catching(failures, router_id):
                    words = self._radvd.ensure(router, self._names.router(router_id))
                    done += [f"router {router_id}: {word}" for word in words]
        gone = self._radvd.routers() if look else before
        for router_id in [item for item in gone if item not in plan.routers]:
            with catching(failures, router_id):
                done += [f"router {router_id}: {word}" for word in self._radvd.remove(router_id)]

    def _forget(
        self, switch: Switch, plan: HostPlan, flows: set[Cut], held: set[str], failures: Failures
    ) -> tuple[ReleasedRow, ...]:
        """Cut flows and end leases; the released addresses that nothing holds any longer, of networks not `held`."""
        zones = {bridge.network_id: bridge.zone for bridge in plan.bridges.values() if bridge.filtered}
        for row in plan.forget:
            if row.network_id in zones:
                flows |= cuts_of_address(zones[row.network_id], row.address)
        if flows:
            with catching(failures, HOST_ITSELF):
                switch.run(Switch.cut, plan, flows)
        forgotten: list[ReleasedRow] = []
        for network_id in dict.fromkeys(row.network_id for row in plan.forget):
            if HOST_ITSELF in failures or network_id in failures or failures.keys() & plan.routers.keys():
                continue
            if network_id in held:
                continue
            rows = [row for row in plan.forget if row.network_id == network_id]
            with catching(failures, network_id):
                if network_id in plan.services:
                    macs = {row.address: row.mac for row in rows}
                    self._dnsmasq.release(network_id, self._names.service(network_id), macs)
                forgotten += rows
        return tuple(forgotten)


def _tunnel_owners(plan: HostPlan) -> dict[str, str]:
    return {tunnel.device: tunnel.network_id for tunnel in plan.tunnels.values()}


def _apply_inside(namespace: str, changes: Changes, drift: Drift) -> None:
    """In the namespace of a router, a service or the outside. Its links were made with their other ends."""
    with Links() as links:
        links.mend_routes(Drift(strays=drift.strays))
        links.remove_all(changes.removed_links)
        moved = [LinkChange(name, Link(link.kind, 0, up=False), link) for name, link in changes.added_links]
        moved += changes.changed_links
        for change in moved:
            links.change(change)
        for route in changes.removed_routes:
            links.remove_route(route)
        links.mend_routes(Drift(lost=drift.lost))
        for route in changes.added_routes:
            links.add_route(route)
    for proxy in changes.removed_proxies:
        proxies.remove(proxy)
    for proxy in changes.added_proxies:
        proxies.add(proxy)
    commands = nft_commands(changes)
    if commands:
        with Nft() as nft:
            nft.run(commands)
    gone = translations_gone(changes) | {proxy.address for proxy in changes.removed_proxies}
    if gone:
        conntrack.cut_translated(gone)
    come = [
        arp.Announcement(change.name, change.after.mac, tuple(sorted(item.partition("/")[0] for item in new)))
        for change in moved
        if change.after.mac and (new := change.after.addresses - change.before.addresses)
    ]
    if come:
        namespaces.run_later(namespace, partial(arp.announce_again, come, router=is_router(namespace)))


def _set_up(name: str) -> list[str]:
    """Of a namespace, new or not; the settings that were otherwise."""
    changed = write_sysctls(sysctls_of(name))
    with Links() as links:
        links.up("lo")
    return changed
