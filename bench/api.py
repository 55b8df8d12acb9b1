#!/usr/bin/env python3
"""What each operation of the API takes, through HTTP, with one client and with eight, on `kilonova up --simulate`.

Every request goes over a kept connection of its own thread; a figure is what the client sees. Nothing but public
interfaces is used, so what is measured is what a user gets.

Example: .venv/bin/python bench/api.py --out api.json
         .venv/bin/python bench/api.py --only identity,network --scale 0.2
"""

from __future__ import annotations

import argparse
import itertools
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import report
import running
from report import Figure, latencies, rate, timed
from running import Client, Cloud, Failed

CLIENTS = 8
NETWORK, COMPUTE, IMAGE, IDENTITY = "/network/v2.0", "/compute/v2.1", "/image/v2", "/identity/v3"


@dataclass
class Bench:
    cloud: Cloud
    client: Client
    scale: float
    deadline: float
    figures: list[Figure] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def n(self, count: int) -> int:
        return max(2, int(count * self.scale))

    def check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise TimeoutError("the benchmark's own time limit is over: use a smaller --scale")

    def each(self, name: str, count: int, work: Callable[[int], Any], bar_ms: float | None = None) -> list[Any]:
        """One client, one after another; a figure of the latencies and the server's processor time."""
        work(-1)  # warm
        used, times = self.cloud.cpu_s(), list[float]()
        answers = []
        for number in range(self.n(count)):
            self.check_time()
            answers.append(timed(times, partial(work, number)))
        cpu_ms = 1000 * (self.cloud.cpu_s() - used) / len(times)
        self.figures.append(latencies(name, times, bar_ms, cpu_ms=round(cpu_ms, 2)))
        return answers

    def together(
        self, name: str, count: int, work: Callable[[Client, int], Any], bar_per_s: float | None = None
    ) -> list[Any]:
        """Eight clients at once; figures of the rate and the latencies."""
        numbers, times, answers, errors = itertools.count(), list[float](), list[Any](), list[Exception]()
        total = self.n(count)

        def run() -> None:
            client = self.client.again()
            while (number := next(numbers)) < total and not errors:
                try:
                    self.check_time()
                    answers.append(timed(times, lambda: work(client, number)))
                except Exception as error:
                    errors.append(error)

        used, began = self.cloud.cpu_s(), time.perf_counter()
        threads = [threading.Thread(target=run) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall_s = time.perf_counter() - began
        if errors:
            raise errors[0]
        cpu_ms = 1000 * (self.cloud.cpu_s() - used) / total
        self.figures.append(rate(f"{name}, {CLIENTS} clients", total, wall_s, bar_per_s, cpu_ms=round(cpu_ms, 2)))
        self.figures.append(latencies(f"{name}, {CLIENTS} clients, each", times))
        return answers


# ------------------------------------------------------------------------------------------------ identity
def identity(bench: Bench) -> None:
    client = bench.client
    bench.each("GET / (no token)", 100, lambda _: client.exchange("GET", "/identity/v3"))
    bench.each("password token", 20, lambda _: client.log_in(), 80)
    subject = client.log_in()
    bench.each(
        "token validate",
        200,
        lambda _: client.call("GET", f"{IDENTITY}/auth/tokens", X_Subject_Token=subject),
        3,
    )


# ------------------------------------------------------------------------------------------------ network
def network(bench: Bench) -> None:
    client = bench.client

    def make_network(number: int) -> str:
        made = client.call("POST", f"{NETWORK}/networks", {"network": {"name": f"bench-{number}"}})
        return str(made["network"]["id"])

    def make_subnet(network_id: str, cidr: str) -> str:
        body = {"subnet": {"network_id": network_id, "ip_version": 4, "cidr": cidr}}
        return str(client.call("POST", f"{NETWORK}/subnets", body)["subnet"]["id"])

    networks = bench.each("network create", 60, make_network, 8)
    spare = make_network(-2)
    bench.each(
        "subnet create",
        60,
        lambda number: make_subnet(networks[number] if number >= 0 else spare, f"10.{number + 2}.0.0/24"),
        8,
    )
    big = make_network(-3)
    subnet = make_subnet(big, "10.200.0.0/16")

    def make_port(caller: Client, number: int) -> str:
        body = {"port": {"network_id": big, "name": f"bench-{number}"}}
        return str(caller.call("POST", f"{NETWORK}/ports", body)["port"]["id"])

    ports = bench.each("port create", 100, lambda number: make_port(client, number), 8)
    ports += bench.together("port create", 900, make_port, 200)
    bench.each("port show", 200, lambda _: client.call("GET", f"{NETWORK}/ports/{ports[0]}"))
    bench.each(f"port list, {len(ports)} ports", 15, lambda _: client.call("GET", f"{NETWORK}/ports"), 60)

    group = client.call("POST", f"{NETWORK}/security-groups", {"security_group": {"name": "bench"}})
    group_id = group["security_group"]["id"]

    def make_rule(number: int) -> Any:
        rule = {"security_group_id": group_id, "direction": "ingress", "protocol": "tcp"}
        rule |= {"port_range_min": 1000 + number, "port_range_max": 1000 + number}
        return client.call("POST", f"{NETWORK}/security-group-rules", {"security_group_rule": rule})

    bench.each("security-group rule create", 60, make_rule, 6)
    floating(bench, ports, subnet)
    bench.together(
        "port delete", 400, lambda caller, number: caller.call("DELETE", f"{NETWORK}/ports/{ports[-1 - number]}")
    )


def floating(bench: Bench, ports: list[str], subnet: str) -> None:
    client = bench.client
    external = client.call("GET", f"{NETWORK}/networks?router:external=True")["networks"]
    if not external:
        raise Failed("there is no external network to take floating addresses from")
    gateway = {"network_id": external[0]["id"]}
    made = client.call("POST", f"{NETWORK}/routers", {"router": {"name": "bench", "external_gateway_info": gateway}})
    router = made["router"]["id"]
    client.call("PUT", f"{NETWORK}/routers/{router}/add_router_interface", {"subnet_id": subnet})
    ids: list[str] = []

    def both(number: int) -> None:
        body = {"floatingip": {"floating_network_id": external[0]["id"]}}
        ids.append(client.call("POST", f"{NETWORK}/floatingips", body)["floatingip"]["id"])
        client.call("PUT", f"{NETWORK}/floatingips/{ids[-1]}", {"floatingip": {"port_id": ports[number + 1]}})

    bench.each("floating IP create + associate", 40, both, 15)
    bench.each("floating IP delete", 40, lambda _: client.call("DELETE", f"{NETWORK}/floatingips/{ids.pop()}"))


# ------------------------------------------------------------------------------------------------ compute
def compute(bench: Bench) -> None:
    client = bench.client
    flavor, image = small_flavor(client), small_image(client)
    made = client.call("POST", f"{NETWORK}/networks", {"network": {"name": "bench-servers"}})
    network_id = made["network"]["id"]
    body = {"subnet": {"network_id": network_id, "ip_version": 4, "cidr": "10.220.0.0/16"}}
    client.call("POST", f"{NETWORK}/subnets", body)

    def make(caller: Client, number: int) -> str:
        server = {"name": f"bench-{number}", "flavorRef": flavor, "imageRef": image, "networks": [{"uuid": network_id}]}
        return str(caller.call("POST", f"{COMPUTE}/servers", {"server": server})["server"]["id"])

    accepted: list[float] = []

    def boot(number: int) -> str:
        server: str = timed(accepted, lambda: make(client, number))
        wait_active(client, server)
        return server

    servers = bench.each("server create to ACTIVE", 40, boot, 60)
    bench.figures.append(latencies("server create accepted", accepted[1:], 15))
    bench.each("server show", 200, lambda _: client.call("GET", f"{COMPUTE}/servers/{servers[0]}"))

    began = time.perf_counter()
    many = bench.together("server create accepted", 960, make)
    while (active := count_active(client)) < len(many) + len(servers):
        bench.check_time()
        time.sleep(0.05)
    bench.figures.append(
        rate(f"server create to ACTIVE, {CLIENTS} clients", len(many), time.perf_counter() - began, 100)
    )
    servers += many
    bench.each(
        f"server list in detail, {active} servers", 15, lambda _: client.call("GET", f"{COMPUTE}/servers/detail"), 80
    )
    bench.each("server list", 15, lambda _: client.call("GET", f"{COMPUTE}/servers"))
    removed = list(servers)
    began = time.perf_counter()
    bench.together(
        "server delete accepted", 400, lambda caller, n: caller.call("DELETE", f"{COMPUTE}/servers/{removed[n]}")
    )


def small_flavor(client: Client) -> str:
    made = {"name": "bench", "ram": 64, "vcpus": 1, "disk": 1}
    return str(client.call("POST", f"{COMPUTE}/flavors", {"flavor": made})["flavor"]["id"])


def small_image(client: Client) -> str:
    attributes = {"name": "bench", "disk_format": "raw", "container_format": "bare"}
    image = str(client.call("POST", f"{IMAGE}/images", attributes)["id"])
    client.call("PUT", f"{IMAGE}/images/{image}/file", bytes(1024), Content_Type="application/octet-stream")
    return image


def wait_active(client: Client, server: str, *, timeout_s: float = 30.0, every_s: float = 0.002) -> None:
    give_up = time.perf_counter() + timeout_s
    while True:
        found = client.call("GET", f"{COMPUTE}/servers/{server}")["server"]
        if found["status"] == "ACTIVE":
            return
        if found["status"] == "ERROR" or time.perf_counter() > give_up:
            raise Failed(f"server {server} is {found['status']}: {found.get('fault')}")
        time.sleep(every_s)


def count_active(client: Client) -> int:
    """How many servers are ACTIVE. Raises `Failed` when one is in ERROR."""
    failed = client.call("GET", f"{COMPUTE}/servers?status=ERROR&limit=1")["servers"]
    if failed:
        raise Failed(f"server {failed[0]['id']} is in ERROR")
    count, marker = 0, ""
    while page := client.call("GET", f"{COMPUTE}/servers?status=ACTIVE&limit=1000{marker}")["servers"]:
        count += len(page)
        marker = f"&marker={page[-1]['id']}"
    return count


# ------------------------------------------------------------------------------------------------ images, objects
def image(bench: Bench) -> None:
    client = bench.client
    attributes = {"name": "bench", "disk_format": "raw", "container_format": "bare"}
    ids = bench.each("image create", 60, lambda _: client.call("POST", f"{IMAGE}/images", attributes)["id"])
    octets = "application/octet-stream"
    fresh = iter([*ids, client.call("POST", f"{IMAGE}/images", attributes)["id"]])
    bench.each(
        "image upload, 4 KiB",
        60,
        lambda _: client.call("PUT", f"{IMAGE}/images/{next(fresh)}/file", bytes(4096), Content_Type=octets),
    )
    bench.each("image list, 25 images", 60, lambda _: client.call("GET", f"{IMAGE}/images"))


AREAS: dict[str, Callable[[Bench], None]] = {
    "identity": identity,
    "network": network,
    "compute": compute,
    "image": image,
}


def lift_quotas(client: Client) -> None:
    """The measure is of speed, not of the default limits."""
    project = client.call("GET", f"{IDENTITY}/auth/tokens", X_Subject_Token=client.token)["token"]["project"]["id"]
    compute_limits = {"instances": -1, "cores": -1, "ram": -1}
    network_limits = dict.fromkeys(
        ("network", "subnet", "port", "router", "floatingip", "security_group", "security_group_rule"), -1
    )
    client.exchange("PUT", f"{COMPUTE}/os-quota-sets/{project}", {"quota_set": compute_limits})
    client.exchange("PUT", f"{NETWORK}/quotas/{project}", {"quota": network_limits})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(AREAS), help=f"areas of {', '.join(AREAS)}")
    parser.add_argument("--scale", type=float, default=1.0, help="times the number of operations")
    parser.add_argument("--time-limit", type=float, default=300.0, help="seconds")
    parser.add_argument("--out", help="JSON file; else stdout")
    options = parser.parse_args()
    before = report.machine()
    with running.running("--simulate") as cloud:
        bench = Bench(cloud, cloud.client(), options.scale, time.monotonic() + options.time_limit)
        lift_quotas(bench.client)
        for area in options.only.split(","):
            try:
                AREAS[area](bench)
            except (Failed, TimeoutError) as error:
                print(f"{area}: {error}", file=sys.stderr)
                bench.skipped.append(area)
        bench.figures.append(Figure("resident at the end", "MB", 1, cloud.memory_mb()["rss"], cloud.memory_mb()["rss"]))
    return report.write("api", bench.figures, options.out, before) or int(bool(bench.skipped))


if __name__ == "__main__":
    sys.exit(main())
