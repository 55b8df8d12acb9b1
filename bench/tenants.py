"""Projects with a client each, and what they make by the public APIs: many of them beside one another."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from running import Client, Cloud, Failed, until

COMPUTE, NETWORK, IMAGE, IDENTITY = "/compute/v2.1", "/network/v2.0", "/image/v2", "/identity/v3"
T = TypeVar("T")


@dataclass
class Tenant:
    """A project and the administrator's token for it."""

    project_id: str
    client: Client
    servers: list[str] = field(default_factory=list)
    floating: list[str] = field(default_factory=list)


def tenants(cloud: Cloud, admin: Client, number: int) -> list[Tenant]:
    """New projects in which the administrator is a member too."""
    user = admin.call("GET", f"{IDENTITY}/auth/tokens", X_Subject_Token=admin.token)["token"]["user"]["id"]
    role = admin.call("GET", f"{IDENTITY}/roles?name=member")["roles"][0]["id"]
    made: list[Tenant] = []
    for _ in range(number):
        name = f"bench-{secrets.token_hex(4)}"
        project = admin.call("POST", f"{IDENTITY}/projects", {"project": {"name": name}})["project"]["id"]
        admin.call("PUT", f"{IDENTITY}/projects/{project}/users/{user}/roles/{role}")
        client = admin.again()
        client.token = client.log_in(name)
        made.append(Tenant(project, client))
    return made


def small_flavor(admin: Client) -> str:
    body = {"name": f"small-{secrets.token_hex(3)}", "ram": 16, "vcpus": 1, "disk": 0}
    return str(admin.call("POST", f"{COMPUTE}/flavors", {"flavor": body})["flavor"]["id"])


def small_image(admin: Client) -> str:
    attributes = {"name": "small", "disk_format": "raw", "container_format": "bare", "visibility": "public"}
    image = str(admin.call("POST", f"{IMAGE}/images", attributes)["id"])
    admin.call("PUT", f"{IMAGE}/images/{image}/file", bytes(1024), Content_Type="application/octet-stream")
    return image


def make_server(tenant: Tenant, flavor: str, image: str, name: str = "bench") -> str:
    """Asked for; the first one of a project makes its network on the way."""
    server = {"name": name, "flavorRef": flavor, "imageRef": image, "networks": "auto"}
    made = tenant.client.call("POST", f"{COMPUTE}/servers", {"server": server}, OpenStack_API_Version="compute 2.37")
    tenant.servers.append(made["server"]["id"])
    return tenant.servers[-1]


def wait_active(tenant: Tenant, *, timeout_s: float) -> None:
    """Until every server of the project is. Raises `Failed` for one that is in error."""

    def look() -> bool:
        servers = tenant.client.call("GET", f"{COMPUTE}/servers/detail")["servers"]
        bad = [server for server in servers if server["status"] == "ERROR"]
        if bad:
            raise Failed(f"server {bad[0]['id']}: {bad[0].get('fault')}")
        return {server["id"] for server in servers if server["status"] == "ACTIVE"} >= set(tenant.servers)

    until(look, timeout_s=timeout_s, every_s=0.2, what=f"servers of {tenant.project_id} ACTIVE")


def delete_servers(tenant: Tenant) -> None:
    for server in tenant.servers:
        tenant.client.call("DELETE", f"{COMPUTE}/servers/{server}")
    look = f"{COMPUTE}/servers"
    until(lambda: not tenant.client.call("GET", look)["servers"], timeout_s=120, every_s=0.1, what="servers gone")
    tenant.servers.clear()


def give_floating(tenant: Tenant, external: str) -> str:
    """A floating address for the project's first server."""
    port = ports_of(tenant.client, f"device_id={tenant.servers[0]}")[0]["id"]
    body = {"floatingip": {"floating_network_id": external, "port_id": port}}
    made = tenant.client.call("POST", f"{NETWORK}/floatingips", body)["floatingip"]
    tenant.floating.append(made["id"])
    return str(made["floating_ip_address"])


def run_vpn(tenant: Tenant) -> None:
    """A VPN with one client."""
    tenant.client.call("POST", "/network/kilonova/vpns", {"vpn": {}})
    client = {"client": {"user_name": "ann"}}
    tenant.client.call("POST", f"/network/kilonova/vpns/{tenant.project_id}/clients", client)


def external_network(admin: Client) -> str:
    return str(admin.call("GET", f"{NETWORK}/networks?router:external=True")["networks"][0]["id"])


def ports_of(client: Client, query: str = "") -> list[dict[str, Any]]:
    """Every port that fits, page by page."""
    found: list[dict[str, Any]] = []
    marker = ""
    while True:
        path = f"{NETWORK}/ports?limit=500&{query}{marker}"
        page: list[dict[str, Any]] = client.call("GET", path)["ports"]
        found += page
        if len(page) < 500:
            return found
        marker = f"&marker={page[-1]['id']}"


def at_once(work: Callable[[T], Any], items: Sequence[T], threads: int = 64) -> list[BaseException]:
    """Do it for all, so many at a time; what was raised."""
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(work, item) for item in items]
        return [error for future in futures if (error := future.exception()) is not None]


def seconds_of(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
