"""VXLAN of a host: which networks, which peers, and whom a change concerns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import insert

from kilonova.config import HostConfig
from kilonova.ids import new_id
from kilonova.network.layout import FLOOD, Forward, Tunnel
from kilonova.network.planner import plan
from kilonova.network.rows import HostRows, TunnelPortRow, UnderlayRow, load
from kilonova.network.tunnels import TunnelPlan, hosts_to_tell, tunnels
from kilonova.store import schema
from kilonova.store.database import Store

from .host_rows import HOST, Rows, config, mac, uid

TUNNEL = {"tunnel_interface": "eth2", "tunnel_address": "192.0.2.1/24"}
HERE, B, C = (
    UnderlayRow(HOST, "192.0.2.1", 1500),
    UnderlayRow("b", "192.0.2.2", 1500),
    UnderlayRow("c", "192.0.2.3", 1500),
)


def rows(*ports: tuple[int, str], underlays: tuple[UnderlayRow, ...] = (HERE, B, C), **network: Any) -> HostRows:
    """One VXLAN network whose MACs 1, 2, ... are on these hosts."""
    made = Rows()
    made.network(7, manager="vxlan", physical_network="vxlan", bridge="bv7", mtu=1450, **network)
    told = [TunnelPortRow(uid(1, 7), mac(number), host) for number, host in ports]
    return made.host_rows()._replace(tunnel_ports=told, underlays=underlays)


def only(found: HostRows, **host: Any) -> TunnelPlan:
    (made,) = tunnels(found, HostConfig(name=HOST, **{**TUNNEL, **host}))
    return made


def test_peers_are_the_other_hosts_that_have_the_network() -> None:
    made = only(rows((1, HOST), (2, "b"), (3, "b")))

    assert made.tunnel == Tunnel(7, "192.0.2.1")
    assert made.peers == (("b", "192.0.2.2"),)
    assert made.forwarding == {
        Forward("vx7", FLOOD, "192.0.2.2"),
        Forward("vx7", mac(2), "192.0.2.2"),
        Forward("vx7", mac(3), "192.0.2.2"),
    }


def test_network_host_is_a_peer_without_a_port() -> None:
    assert only(rows((1, HOST), host="c")).forwarding == {Forward("vx7", FLOOD, "192.0.2.3")}


def test_host_that_told_no_address_is_left_out() -> None:
    assert only(rows((1, HOST), (2, "b"), underlays=(HERE,))).forwarding == frozenset()


def test_without_a_tunnel_the_network_is_this_hosts_alone() -> None:
    wanted = plan(rows((1, HOST), (2, "b")), config())

    assert wanted.tunnels == {}
    assert wanted.bridges["bv7"].vlan is None


def test_underlay_that_is_too_small_is_said() -> None:
    small = rows((1, HOST), underlays=(HERE._replace(mtu=1499),))

    assert "do not fit the MTU of the tunnel's NIC, 1499" in plan(small, config(**TUNNEL)).warnings[0]
    assert plan(rows((1, HOST)), config(**TUNNEL)).warnings == ()


def test_peers_are_told_of_what_is_new_or_gone_here_and_of_nothing_else() -> None:
    made = only(rows((1, HOST), (2, "b")))
    joined = only(rows((1, HOST), (2, "b"), (3, "c")))

    assert hosts_to_tell({}, {"n": made}) == {"b"}
    assert hosts_to_tell({"n": made}, {}) == {"b"}
    assert hosts_to_tell({"n": made}, {"n": replace(made, local=(mac(1), mac(9)))}) == {"b"}
    assert hosts_to_tell({"n": made}, {"n": replace(made, tunnel=Tunnel(7, "192.0.2.9"))}) == {"b"}
    assert hosts_to_tell({"n": made}, {"n": joined}) == set()


async def test_rows_tell_where_ports_routers_and_services_of_a_network_are(store: Store) -> None:
    network, other, router = new_id(), new_id(), new_id()

    def write(tx: Any) -> None:
        for network_id, number in ((network, 7), (other, 8)):
            values: dict[str, Any] = {
                "id": network_id,
                "project_id": "p",
                "manager": "vxlan",
                "physical_network": "vxlan",
            }
            values |= {"segmentation_id": number, "bridge": f"bv{number}", "host": "a"}
            tx.execute(insert(schema.networks).values(values))
        tx.execute(insert(schema.routers).values(id=router, project_id="p", host="a"))
        for number, (network_id, owner, device, host, vif) in enumerate(
            [
                (network, "compute:nova", "i1", "b", "tap"),
                (network, "compute:nova", "i2", "c", "tap"),
                (network, "compute:nova", "i3", "", "tap"),
                (network, "network:dhcp", "", "", "none"),
                (network, "network:router_interface", router, "", "none"),
                (network, "network:floatingip", "", "c", "none"),
                (other, "compute:nova", "i4", "c", "tap"),
            ],
            start=1,
        ):
            values = {"id": new_id(), "network_id": network_id, "project_id": "p", "mac": mac(number), "vif": vif}
            tx.execute(insert(schema.ports).values(**values, device_owner=owner, device_id=device, host=host))
        for host, tunnel in (("a", {"address": "192.0.2.1", "mtu": 1500}), ("b", None)):
            values = {"id": new_id(), "kind": "network", "host": host, "capacity": {"tunnel": tunnel}}
            tx.execute(insert(schema.services).values(values))

    await store.write(write)

    found = await store.read(load, "b")

    assert {(row.mac, row.host) for row in found.tunnel_ports} == {
        (mac(1), "b"),
        (mac(2), "c"),
        (mac(4), "a"),
        (mac(5), "a"),
    }
    assert list(found.underlays) == [UnderlayRow("a", "192.0.2.1", 1500)]
