#!/usr/bin/env python3
"""How long a server takes from the request to ACTIVE, and from the delete to gone, by driver: the median of twenty.

`fake` needs nothing (it runs in `--simulate`); `namespace` and `qemu` need root and run in a sandbox. With --http a
floating IP is given to one more server and the time until its guest answers HTTP from outside is measured.

Example: .venv/bin/python bench/boot.py --driver fake
         sudo .venv/bin/python bench/boot.py --driver qemu --image build/image/tiny.qcow2 --http
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import report
import running
from report import Figure, latencies, timed
from running import KILONOVA, Client, Cloud, Failed, until

BARS_MS = {"fake": 150.0, "namespace": None, "qemu": 1000.0}
BAR_HTTP_MS = 12_000.0
COMPUTE, NETWORK, IMAGE = "/compute/v2.1", "/network/v2.0", "/image/v2"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--driver", choices=tuple(BARS_MS), default="fake")
    parser.add_argument("--image", type=Path, help="qcow2 file of the guest; else 1 KiB of zeros")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--http", action="store_true", help="also until the guest answers on its floating IP")
    parser.add_argument("--time-limit", type=float, default=300.0, help="seconds")
    parser.add_argument("--out", help="JSON file; else stdout")
    options = parser.parse_args()
    before = report.machine()
    give_up = time.monotonic() + options.time_limit
    mode = "--simulate" if options.driver == "fake" else "--sandbox"
    with running.running(mode, "--driver", options.driver) as cloud:
        client = cloud.client()
        make = servers(client, options.image)
        figures = boots(client, make, options.driver, options.runs, give_up)
        if options.http:
            figures.append(until_http(cloud, client, make))
    return report.write(f"boot, driver {options.driver}", figures, options.out, before)


def servers(client: Client, image_file: Path | None) -> Callable[[str], str]:
    """What makes a server of a small flavor from the image; the project is given its network by the first one."""
    body = {"name": "bench", "ram": 128, "vcpus": 1, "disk": 1}
    flavor = client.call("POST", f"{COMPUTE}/flavors", {"flavor": body})["flavor"]["id"]
    disk_format = "raw" if image_file is None else "qcow2"
    attributes = {"name": "bench", "disk_format": disk_format, "container_format": "bare"}
    image = client.call("POST", f"{IMAGE}/images", attributes)["id"]
    content = bytes(1024) if image_file is None else image_file.read_bytes()
    client.call("PUT", f"{IMAGE}/images/{image}/file", content, Content_Type="application/octet-stream")

    def make(name: str) -> str:
        server = {"name": name, "flavorRef": flavor, "imageRef": image, "networks": "auto"}
        made = client.call("POST", f"{COMPUTE}/servers", {"server": server}, OpenStack_API_Version="compute 2.37")
        return str(made["server"]["id"])

    return make


def boots(client: Client, make: Callable[[str], str], driver: str, runs: int, give_up: float) -> list[Figure]:
    accepted, active, gone = list[float](), list[float](), list[float]()
    first: list[float] = []
    for number in range(runs + 1):
        if time.monotonic() > give_up:
            raise TimeoutError("the benchmark's own time limit is over: use fewer --runs")
        began = time.perf_counter()
        server = timed(accepted, partial(make, f"bench-{number}"))
        until(partial(_is, client, server, "ACTIVE"), timeout_s=60, every_s=0.003, what="ACTIVE")
        (active if number else first).append(time.perf_counter() - began)  # the first one also makes its network
        began = time.perf_counter()
        client.call("DELETE", f"{COMPUTE}/servers/{server}")
        until(partial(_is, client, server, None), timeout_s=60, every_s=0.003, what="gone")
        gone.append(time.perf_counter() - began)
    return [
        latencies(f"{driver}: first server of a project to ACTIVE", first),
        latencies(f"{driver}: server create accepted", accepted),
        latencies(f"{driver}: server create to ACTIVE", active, BARS_MS[driver]),
        latencies(f"{driver}: server delete to gone", gone),
    ]


def status(client: Client, server: str) -> str | None:
    code, document, _ = client.exchange("GET", f"{COMPUTE}/servers/{server}")
    if code == 404:
        return None
    if code != 200 or document["server"]["status"] == "ERROR":
        raise Failed(f"server {server}: {document}")
    return str(document["server"]["status"])


def _is(client: Client, server: str, wanted: str | None) -> bool:
    return status(client, server) == wanted


def until_http(cloud: Cloud, client: Client, make: Callable[[str], str]) -> Figure:
    """From the request to the first answer on port 80 of its floating IP, as seen from outside."""
    groups = client.call("GET", f"{NETWORK}/security-groups?name=default")["security_groups"]
    project = client.call("GET", "/identity/v3/auth/tokens", X_Subject_Token=client.token)["token"]["project"]["id"]
    group = next(each["id"] for each in groups if each["project_id"] == project)
    rule = {"security_group_id": group, "direction": "ingress", "protocol": "tcp"}
    rule |= {"port_range_min": 80, "port_range_max": 80}
    client.call("POST", f"{NETWORK}/security-group-rules", {"security_group_rule": rule})
    external = client.call("GET", f"{NETWORK}/networks?router:external=True")["networks"][0]["id"]
    began = time.perf_counter()
    server = make("bench-http")
    until(lambda: status(client, server) == "ACTIVE", timeout_s=60, every_s=0.01, what="ACTIVE")
    port = client.call("GET", f"{NETWORK}/ports?device_id={server}")["ports"][0]["id"]
    body = {"floatingip": {"floating_network_id": external, "port_id": port}}
    address = client.call("POST", f"{NETWORK}/floatingips", body)["floatingip"]["floating_ip_address"]
    look = [KILONOVA, "sandbox", "exec", "--state-dir", str(cloud.state_dir), "--"]
    look += ["curl", "--silent", "--fail", "--max-time", "1", "--output", "/dev/null", f"http://{address}/"]
    until(lambda: subprocess.run(look, check=False).returncode == 0, timeout_s=90, every_s=0.1, what="HTTP")
    return latencies("server create to HTTP on its floating IP", [time.perf_counter() - began], BAR_HTTP_MS)


if __name__ == "__main__":
    sys.exit(main())
