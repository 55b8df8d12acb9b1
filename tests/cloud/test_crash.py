"""kill -9 at random moments of users' work: after the next start nothing is lost, leaked or stuck."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest
from keystoneauth1.exceptions import ClientException
from openstack.connection import Connection
from openstack.exceptions import SDKException

from .conftest import MakeCloud
from .running import RunningCloud, until

ROUNDS = 20
GUESTS_PER_ROUND = 4


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("mode", "driver"), [("simulate", "fake"), ("sandbox", "namespace")])
def test_kill_at_random_moments_leaves_nothing_without_an_owner(make_cloud: MakeCloud, mode: str, driver: str) -> None:
    """Servers and floating addresses come and go while the process is killed; then every invariant is looked at."""
    cloud = make_cloud(mode, driver)
    cloud.up()
    image = cloud.upload_tiny()
    admin = cloud.connect()
    flavor = admin.compute.find_flavor("m1.nano", ignore_missing=False)
    public = next(admin.network.networks(is_router_external=True))
    admin.compute.update_quota_set(admin.current_project_id, instances=-1, cores=-1, ram=-1)
    admin.network.update_quota(admin.current_project_id, floatingip=-1, port=-1)
    chance = random.Random(20101110)
    interrupted: Counter[str] = Counter()
    rounds = 0
    while rounds < ROUNDS or interrupted["server.create"] < 3 or interrupted["server.delete"] < 1:
        rounds += 1
        assert rounds <= 3 * ROUNDS, f"the crashes hit too little work to prove anything: {interrupted}"
        begun = threading.Event()
        worker = threading.Thread(target=_work, args=(cloud, image.id, flavor.id, public.id, chance.random(), begun))
        worker.start()
        assert begun.wait(20)
        time.sleep(chance.uniform(0.0, 0.5))  # the moment of the crash is the test's input, not a wait
        cloud.kill()
        interrupted.update(row["kind"] for row in _rows(cloud, "SELECT kind FROM operations WHERE state = 'running'"))
        worker.join(60)
        cloud.up()
        _settled(cloud)
        _nothing_without_owner(cloud)
    _delete_everything(cloud)
    _settled(cloud)
    _nothing_without_owner(cloud)
    assert _rows(cloud, "SELECT count(*) AS n FROM instances")[0]["n"] == 0
    assert _rows(cloud, "SELECT count(*) AS n FROM addresses WHERE released_at IS NOT NULL")[0]["n"] == 0


def _work(cloud: RunningCloud, image: str, flavor: str, public: str, seed: float, begun: threading.Event) -> None:
    """What users do; ends when the cloud is killed under it."""
    chance = random.Random(seed)
    with suppress(SDKException, ClientException):
        user = cloud.connect()
        user.authorize()
        begun.set()
        for server in list(user.compute.servers())[: chance.randint(0, GUESTS_PER_ROUND)]:
            user.compute.delete_server(server)
        for address in list(user.network.ips())[: chance.randint(0, 2)]:
            user.network.delete_ip(address)
        for number in range(GUESTS_PER_ROUND):
            server = user.compute.create_server(name=f"s{number}", image_id=image, flavor_id=flavor, networks="auto")
            ports = list(user.network.ports(device_id=server.id))
            floating = user.network.create_ip(floating_network_id=public)
            user.network.update_ip(floating, port_id=ports[0].id)
            if chance.random() < 0.4:
                user.compute.delete_server(server)


def _rows(cloud: RunningCloud, query: str) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(f"file:{cloud.state_dir}/kilonova.sqlite?mode=ro", uri=True)) as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute(query)]


def _settled(cloud: RunningCloud) -> None:
    """No operation runs any more, nothing released is unforgotten; by itself, within the operations' deadlines."""
    pending = "SELECT id, kind, step FROM operations WHERE state = 'running'"
    held = "SELECT * FROM addresses WHERE released_at IS NOT NULL"
    _until_no(cloud, "operations running", pending)
    _until_no(cloud, "released addresses", held)


def _until_no(cloud: RunningCloud, what: str, query: str) -> None:
    """Wait until a query finds nothing; else say what it finds and what the log says last."""
    give_up = time.monotonic() + 60
    while left := _rows(cloud, query):
        log = (cloud.state_dir / "logs" / "kilonova.log").read_text()
        assert time.monotonic() < give_up, f"still {what} after 60 s: {left}\n{log[-6000:]}"
        time.sleep(0.05)


def _nothing_without_owner(cloud: RunningCloud) -> None:
    instances = {row["id"]: row for row in _rows(cloud, "SELECT * FROM instances")}
    faults = {row["instance_id"] for row in _rows(cloud, "SELECT instance_id FROM instance_faults")}
    for instance in instances.values():
        assert instance["task_state"] is None, instance
        assert instance["vm_state"] in {"active", "error"}, instance
        assert instance["vm_state"] != "error" or instance["id"] in faults, (
            f"{instance['id']} is in ERROR without a fault"
        )
    ports = {row["id"]: row for row in _rows(cloud, "SELECT * FROM ports")}
    for port in ports.values():
        if port["device_owner"].startswith("compute:"):
            assert port["device_id"] in instances, f"port {port['id']} has no server"
    for address in _rows(cloud, "SELECT * FROM addresses"):
        assert address["port_id"] in ports, f"address {address['address']} has no port"
    for floating in _rows(cloud, "SELECT * FROM floating_ips"):
        assert floating["floating_port_id"] in ports
        assert floating["fixed_port_id"] is None or floating["fixed_port_id"] in ports
    if cloud.mode == "sandbox":
        until("the kernel agrees with the rows", lambda: _kernel_agrees(cloud, instances, ports), 30)


def _kernel_agrees(cloud: RunningCloud, instances: dict[str, Any], ports: dict[str, Any]) -> bool:
    """Taps, guests' namespaces, routers' and services' namespaces: each has a row, each row has its own."""
    prefix = cloud.prefix
    namespaces = {line.split()[0] for line in _lines("ip", "netns", "list") if line.startswith(f"{prefix}-")}
    running = {i for i, row in instances.items() if row["vm_state"] == "active" and row["power_state"] == 1}
    guests = {name.removeprefix(f"{prefix}-g-") for name in namespaces if name.startswith(f"{prefix}-g-")}
    wired = {port["id"][:11] for port in ports.values() if port["device_id"] in instances and port["host"]}
    links = {line.split(": ")[1].split("@")[0] for line in _lines("ip", "-n", f"{prefix}-switch", "-o", "link")}
    taps = {name.removeprefix("tap") for name in links if name.startswith("tap")}
    routers = {row["id"][:11] for row in _rows(cloud, "SELECT id FROM routers WHERE host IS NOT NULL")}
    found_routers = {name.removeprefix(f"{prefix}-r-") for name in namespaces if name.startswith(f"{prefix}-r-")}
    return (
        guests == {instance_id[:11] for instance_id in running}
        and taps <= wired
        and {port["id"][:11] for port in ports.values() if port["device_id"] in running} <= taps
        and found_routers == routers
    )


def _lines(*argv: str) -> list[str]:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()


def _delete_everything(cloud: RunningCloud) -> None:
    user: Connection = cloud.connect()
    steps: list[tuple[Callable[[], Any], Callable[[Any], Any]]] = [
        (user.network.ips, user.network.delete_ip),
        (user.compute.servers, user.compute.delete_server),
    ]
    for find, delete in steps:
        for item in find():
            delete(item)
    until("servers gone", lambda: not list(user.compute.servers()), 60)
