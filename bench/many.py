"""Many guests and many projects on one host: leases, who reaches whom, what an idle cloud costs, and what is left."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import tenants
from report import Figure
from running import KILONOVA, Client, Cloud, until
from tenants import Tenant

from kilonova.network.host import namespaces

PER_PROJECT = 10
_IDLE_S = 20.0
_FORGOTTEN_WITHIN_S = 60.0


def guests(cloud: Cloud, number: int, give_up: Callable[[], bool]) -> list[Figure]:
    """Guests in projects of ten: every lease, a sample of who reaches whom, the agent at rest."""
    admin = cloud.client()
    flavor, image = tenants.small_flavor(admin), tenants.small_image(admin)
    projects = tenants.tenants(cloud, admin, max(2, number // PER_PROJECT))
    began = time.perf_counter()
    made = 0
    for turn in range(PER_PROJECT):
        for tenant in projects:
            if made < number and not give_up():
                tenants.make_server(tenant, flavor, image, f"g{turn}")
                made += 1
    for tenant in projects:
        tenants.wait_active(tenant, timeout_s=600)
    active_s = time.perf_counter() - began
    prefix = _prefix(cloud)
    addresses = {
        port["device_id"]: (port["fixed_ips"][0]["ip_address"], port["project_id"])
        for port in tenants.ports_of(admin, "device_owner=compute:nova")
    }
    leased: set[str] = set()

    def all_leased() -> bool:
        for server, (address, _) in addresses.items():
            if server not in leased and address in _addresses(f"{prefix}-g-{server[:11]}"):
                leased.add(server)
        return len(leased) == len(addresses)

    until(all_leased, timeout_s=120, every_s=0.5, what="a lease for every guest")
    wrong, asked = _reachability(prefix, addresses)
    used = cloud.cpu_s()
    time.sleep(_IDLE_S)
    idle = 100 * (cloud.cpu_s() - used) / _IDLE_S
    return [
        Figure(
            "guests with a lease", "", made, float(len(leased)), float(len(leased)), float(made), more_is_better=True
        ),
        Figure("guests, seconds until all are ACTIVE", "s", made, round(active_s, 1), round(active_s, 1)),
        Figure("reachability, pairs that disagree with the rules", "", asked, float(wrong), float(wrong), 0.0),
        Figure("idle, processor of the whole cloud", "%", made, round(idle, 2), round(idle, 2), 2.0),
    ]


def projects(cloud: Cloud, number: int, give_up: Callable[[], bool]) -> list[Figure]:
    """Projects with network, server, floating address and VPN, made and deleted: what there is more than before."""
    admin = cloud.client()
    flavor, image = tenants.small_flavor(admin), tenants.small_image(admin)
    external = tenants.external_network(admin)
    _cycle(cloud, admin, 2, flavor, image, external, give_up)  # what the first use leaves for good
    before = census(cloud)
    began = time.perf_counter()
    made = 0
    while made < number and not give_up():
        made += _cycle(cloud, admin, min(20, number - made), flavor, image, external, give_up)
    took = (time.perf_counter() - began) / max(1, made)
    left = _more(before, census(cloud))
    wait_until = time.monotonic() + _FORGOTTEN_WITHIN_S
    while left and time.monotonic() < wait_until:  # agents forget by and by
        time.sleep(0.5)
        left = _more(before, census(cloud))
    for name, number_left in left.items():
        print(f"left: {number_left} {name}", file=sys.stderr)
    return [
        Figure("projects made and deleted: what is left", "", made, float(len(left)), float(len(left)), 0.0),
        Figure("a project made and deleted", "s", made, round(took, 2), round(took, 2)),
    ]


def _cycle(
    cloud: Cloud, admin: Client, number: int, flavor: str, image: str, external: str, give_up: Callable[[], bool]
) -> int:
    made = tenants.tenants(cloud, admin, number)
    for tenant in made:
        tenants.make_server(tenant, flavor, image)
    for tenant in made:
        tenants.wait_active(tenant, timeout_s=120)
        tenants.give_floating(tenant, external)
        tenants.run_vpn(tenant)
    for tenant in made:
        remove(admin, tenant)
    return number


def remove(admin: Client, tenant: Tenant) -> None:
    """All that a project has, then the project."""
    for floating in tenant.floating:
        tenant.client.call("DELETE", f"{tenants.NETWORK}/floatingips/{floating}")
    tenant.client.call("DELETE", f"/network/kilonova/vpns/{tenant.project_id}")
    tenants.delete_servers(tenant)
    tenant.client.call("DELETE", f"{tenants.NETWORK}/auto-allocated-topology/{tenant.project_id}")
    groups = admin.call("GET", f"{tenants.NETWORK}/security-groups?project_id={tenant.project_id}")["security_groups"]
    for group in groups:
        admin.call("DELETE", f"{tenants.NETWORK}/security-groups/{group['id']}")
    admin.call("DELETE", f"{tenants.IDENTITY}/projects/{tenant.project_id}")


def census(cloud: Cloud) -> Counter[str]:
    """What there is of the cloud: namespaces, links, nft objects, processes, files, rows of every table."""
    prefix = _prefix(cloud)
    found: Counter[str] = Counter()
    for name in namespaces.names(prefix):
        found[f"namespace {name.split('-')[1]}"] += 1
    switch = f"{prefix}-switch"
    links = namespaces.run_inside(switch, _run, ["ip", "-o", "link"])
    found["links of the switch"] = len(links.splitlines())
    listing = namespaces.run_inside(switch, _run, ["nft", "list", "ruleset"])
    found["lines of the filters"] = sum(len(line.split(",")) for line in listing.splitlines() if "expires" not in line)
    state = str(cloud.state_dir)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                command = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if any(state.encode() in word for word in command):
                found[f"process {Path(os.fsdecode(command[0])).name}"] += 1
    for kind in ("network", "instances"):
        directory = cloud.state_dir / kind
        found[f"directories of {kind}"] = len(list(directory.iterdir())) if directory.is_dir() else 0
    with sqlite3.connect(f"file:{cloud.state_dir / 'kilonova.sqlite'}?mode=ro", uri=True) as store:
        tables = [name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            found[f"rows of {table}"] = store.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]
    return found


_HISTORY = ("operations", "instance_actions", "instance_action_events", "revocations", "reusable_addresses")
KEPT = frozenset(f"rows of {table}" for table in _HISTORY)
"""Tables that remember what was: history, tokens that end by themselves, addresses that are free again."""


def _more(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after if after[name] > before[name] and name not in KEPT}


def _reachability(prefix: str, addresses: dict[str, tuple[str, str]], sample: int = 150) -> tuple[int, int]:
    """Pings between pairs of guests: those of one project answer (its default group), others do not."""
    dice = random.Random(7)
    servers = sorted(addresses)
    wrong = asked = 0
    for _ in range(sample):
        source, target = dice.sample(servers, 2)
        if asked % 2:  # pairs of one project are few among all
            mine = addresses[source][1]
            target = dice.choice([each for each in servers if addresses[each][1] == mine and each != source])
        command = ["ping", "-c", "1", "-W", "1", addresses[target][0]]
        answered = " 0% packet loss" in namespaces.run_inside(f"{prefix}-g-{source[:11]}", _run, command)
        asked += 1
        wrong += answered is not (addresses[source][1] == addresses[target][1])
    return wrong, asked


def _addresses(namespace: str) -> str:
    return namespaces.run_inside(namespace, _run, ["ip", "-4", "-o", "addr"]) if namespaces.exists(namespace) else ""


def _prefix(cloud: Cloud) -> str:
    command = [KILONOVA, "status", "--json", "--state-dir", str(cloud.state_dir)]
    return str(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["prefix"])


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL).stdout
