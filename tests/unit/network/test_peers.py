"""Which hosts have to look again after a change on one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlalchemy import insert

from kilonova.ids import new_id
from kilonova.network.peers import changed_groups, hosts_naming
from kilonova.network.plan import HostPlan
from kilonova.network.planner import plan
from kilonova.store import schema
from kilonova.store.database import Store

from .host_rows import Rows, config, mac, uid

GROUP, OTHER = uid(7, 1), uid(7, 2)


def test_groups_of_a_port_that_comes_goes_or_changes_are_told() -> None:
    rows = Rows()
    rows.network(1)
    rows.port(1, 1, "10.0.0.3", (GROUP,))
    one = plan(rows.host_rows(), config())
    rows.port(2, 1, "10.0.0.4", (OTHER,))
    two = plan(rows.host_rows(), config())
    (first, *_) = one.ports.values()
    renamed = replace(one, ports={first.port_id: replace(first, up=False)})

    assert changed_groups(HostPlan(), one) == {GROUP}
    assert changed_groups(one, two) == {OTHER}
    assert changed_groups(two, one) == {OTHER}
    assert changed_groups(two, two) == set()
    assert changed_groups(one, renamed) == set()


async def test_hosts_are_those_whose_groups_name_the_changed_one(store: Store) -> None:
    named, naming, apart = new_id(), new_id(), new_id()

    def write(tx: Any) -> None:
        network = new_id()
        values = {"id": network, "project_id": "p", "manager": "vlan", "physical_network": "physnet1", "bridge": "br1"}
        tx.execute(insert(schema.networks).values(values))
        for group in (named, naming, apart):
            tx.execute(insert(schema.security_groups).values(id=group, project_id="p", name=group[:8]))
        rule = {"id": new_id(), "security_group_id": naming, "project_id": "p", "direction": "ingress"}
        tx.execute(insert(schema.security_group_rules).values(**rule, ethertype="IPv4", remote_group_id=named))
        for number, (host, group) in enumerate(
            [("a", naming), ("b", naming), ("b", named), ("c", apart), ("", naming)]
        ):
            port = {"id": new_id(), "network_id": network, "project_id": "p", "mac": mac(number), "host": host}
            tx.execute(insert(schema.ports).values(port))
            link = {"port_id": port["id"], "security_group_id": group}
            tx.execute(insert(schema.port_security_groups).values(link))

    await store.write(write)

    assert await store.read(lambda tx: hosts_naming(tx, {named}, but="a")) == {"b"}
    assert await store.read(lambda tx: hosts_naming(tx, {apart}, but="a")) == set()
