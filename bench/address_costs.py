"""What an address costs when many are taken, and whether it stays one project's when many ask at once."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import tenants
from report import Figure, latencies
from running import Cloud
from sqlalchemy import Connection, insert
from tenants import Tenant

from kilonova.errors import NoMoreAddresses
from kilonova.ids import new_id
from kilonova.network import quota
from kilonova.network.addresses import define_pools
from kilonova.network.ports import make_port
from kilonova.store import schema
from kilonova.store.database import Store

TOGETHER = 64
_CIDR = "10.0.0.0/16"
_OWN = 3
"""Offsets below it are the network's, the gateway's, the services'."""
_BATCH, _BATCHES = 32, 64
"""Ports that are timed together, and batches of a transaction: processor time, not what the disk takes."""


async def to_the_last(give_up: Callable[[], bool]) -> list[Figure]:
    """Ports until there is no address any more."""
    size = ip_network(_CIDR).num_addresses
    project, network, subnet = new_id(), new_id(), new_id()

    def rows(tx: Connection) -> None:
        tx.execute(insert(schema.quotas).values(project_id=project, resource="port", hard_limit=quota.UNLIMITED))
        values = {"id": network, "project_id": project, "manager": "vlan", "physical_network": "physnet1"}
        tx.execute(insert(schema.networks).values(**values, segmentation_id=5, bridge="br5"))
        values = {"id": subnet, "network_id": network, "project_id": project, "cidr": _CIDR}
        tx.execute(insert(schema.subnets).values(**values, gateway_ip="10.0.0.1", service_address="10.0.0.2"))
        define_pools(tx, subnet, [(_OWN, size - 2)])

    def some(tx: Connection) -> bool:
        for _ in range(_BATCHES):
            began = time.thread_time()
            for _ in range(_BATCH):
                try:
                    made = make_port(tx, network_id=network, project_id=project)
                except NoMoreAddresses:
                    return False
                taken.add(made.fixed_ips[0].address)
            spent.append((time.thread_time() - began) / _BATCH)
        return True

    taken: set[str | None] = set()
    spent: list[float] = []
    with tempfile.TemporaryDirectory(prefix="kilonova-bench-") as directory:
        store = Store(f"sqlite:///{Path(directory) / 'store.sqlite'}")
        await store.open()
        try:
            await store.write(rows)
            while await store.write(some) and not give_up():
                pass
        finally:
            await store.close()
    share = size // 100 // _BATCH
    ratio = round(statistics.median(spent[-share:]) / statistics.median(spent[1 : share + 1]), 2)
    wanted = size - 2 - _OWN + 1
    return [
        latencies("a port with an address of a /16, processor", spent),
        Figure(
            "addresses of a /16 taken", "", 1, float(len(taken)), float(len(taken)), float(wanted), more_is_better=True
        ),
        Figure("last 1 % : first 1 % of a /16", "x", share, ratio, ratio, 1.5),
    ]


def first_runs(cloud: Cloud) -> list[Figure]:
    """As many first servers at once, of as many projects, then of one project; what is there twice, and what failed."""
    admin = cloud.client()
    flavor, image = tenants.small_flavor(admin), tenants.small_image(admin)
    apart = tenants.tenants(cloud, admin, TOGETHER)
    (shared,) = tenants.tenants(cloud, admin, 1)
    limits = {"quota_set": {"instances": -1, "cores": -1}}
    admin.call("PUT", f"{tenants.COMPUTE}/os-quota-sets/{shared.project_id}", limits)
    same = [Tenant(shared.project_id, shared.client.again()) for _ in range(TOGETHER)]
    figures: list[Figure] = []
    for what, callers in (("projects", apart), ("servers of one project", same)):
        start = threading.Barrier(len(callers))
        spent: list[float] = []

        def run(tenant: Tenant, start: threading.Barrier = start, spent: list[float] = spent) -> None:
            start.wait()
            spent.append(tenants.seconds_of(lambda: tenants.make_server(tenant, flavor, image)))

        failed = tenants.at_once(run, callers, len(callers))
        ids = {tenant.project_id for tenant in callers}
        networks = [
            network
            for network in admin.call("GET", f"{tenants.NETWORK}/networks?limit=1000")["networks"]
            if network["project_id"] in ids
        ]
        ports = [port for port in tenants.ports_of(admin) if port["project_id"] in ids and port["fixed_ips"]]
        held = [(port["network_id"], port["fixed_ips"][0]["ip_address"]) for port in ports]
        segments = [network["provider:segmentation_id"] for network in networks]
        twice = len(held) - len(set(held)) + len(segments) - len(set(segments)) + abs(len(networks) - len(ids))
        figures += [
            latencies(f"{TOGETHER} first runs at once: {what}", spent),
            Figure(f"... failed: {what}", "", len(callers), float(len(failed)), float(len(failed)), 0.0),
            Figure(f"... there twice: {what}", "", len(held), float(twice), float(twice), 0.0),
        ]
    return figures
