"""What cannot be done is refused with the right status and a message that names the thing; nothing is left behind."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any
from uuid import uuid4

import httpx
import pytest
from openstack.connection import Connection

from .conftest import MakeCloud
from .running import RunningCloud


class Api:
    """Plain HTTP as one user: refusals are about status codes and words, which clients hide."""

    def __init__(self, cloud: RunningCloud, connection: Connection) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{cloud.port}", timeout=30, trust_env=False)
        self._client.headers["X-Auth-Token"] = connection.auth_token

    def __call__(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        return self._client.request(method, path, **kwargs)


def counts(cloud: RunningCloud) -> dict[str, int]:
    """Rows of every table that a refused request could leave something in."""
    tables = ("instances", "ports", "addresses", "networks", "subnets", "routers", "operations", "floating_ips")
    with closing(sqlite3.connect(f"file:{cloud.state_dir}/kilonova.sqlite?mode=ro", uri=True)) as database:
        return {name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}


def server_body(cloud: RunningCloud, connection: Connection, **changes: Any) -> dict[str, Any]:
    image = next(iter(connection.image.images(name="tiny")), None) or cloud.upload_tiny()
    flavor = connection.compute.find_flavor("m1.nano", ignore_missing=False)
    return {"server": {"name": "s", "imageRef": image.id, "flavorRef": flavor.id, **changes}}


def refused(
    api: Api, cloud: RunningCloud, body: dict[str, Any], status: int, words: str, path: str = "/compute/v2.1/servers"
) -> None:
    before = counts(cloud)
    answer = api("POST", path, json=body)
    assert answer.status_code == status, answer.text
    assert words in answer.text, answer.text
    assert answer.headers["x-openstack-request-id"].startswith("req-")
    assert counts(cloud) == before


def test_unknown_image_and_flavor_are_named(simulated: RunningCloud) -> None:
    user = simulated.member("refusal-image")
    api = Api(simulated, user)
    missing = str(uuid4())
    refused(api, simulated, server_body(simulated, user, imageRef=missing), 400, missing)
    refused(api, simulated, server_body(simulated, user, flavorRef="no-such-flavor"), 400, "no-such-flavor")


def test_quota_is_named(simulated: RunningCloud) -> None:
    user = simulated.member("refusal-quota")
    admin = simulated.connect()
    admin.compute.update_quota_set(user.current_project_id, instances=0)
    refused(Api(simulated, user), simulated, server_body(simulated, user), 403, "instances")


def test_no_network_left_in_the_pool(make_cloud: MakeCloud) -> None:
    cloud = make_cloud("simulate", "fake")
    cloud.up()
    for item in Api(cloud, cloud.connect())("GET", "/network/kilonova/pool-networks").json()["pool_networks"]:
        assert Api(cloud, cloud.connect())("DELETE", f"/network/kilonova/pool-networks/{item['id']}").is_success
    user = cloud.member("poor")
    refused(Api(cloud, user), cloud, server_body(cloud, user), 409, "network")


def test_no_address_left_in_the_subnet(simulated: RunningCloud) -> None:
    user = simulated.member("refusal-address")
    network = user.network.create_network(name="tight")
    user.network.create_subnet(network_id=network.id, ip_version=4, cidr="192.0.2.0/30", enable_dhcp=False)
    user.network.create_port(network_id=network.id)
    body = {"port": {"network_id": network.id}}
    refused(Api(simulated, user), simulated, body, 409, "192.0.2.0/30", "/network/v2.0/ports")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "JSON"),
        (b"[]", "Invalid input"),
        (b'{"server": {}}', "name"),
        (b'{"server": {"name": 7, "flavorRef": "1"}}', "name"),
        (b'{"server": {"name": "s", "flavorRef": "1", "surprise": true}}', "surprise"),
        (b"\xff\xfe", "JSON"),
    ],
)
def test_malformed_bodies_name_the_field(simulated: RunningCloud, body: bytes, words: str) -> None:
    api = Api(simulated, simulated.connect())
    headers = {"Content-Type": "application/json"}
    answer = api("POST", "/compute/v2.1/servers", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["badRequest"]["message"]


@pytest.mark.parametrize("token", ["", "nonsense", "gAAAAABm", "a" * 5000, "k1.e30.AAAA"])
@pytest.mark.parametrize(
    "path", ["/compute/v2.1/servers", "/network/v2.0/ports", "/image/v2/images", "/identity/v3/projects"]
)
def test_wrong_tokens_are_refused(simulated: RunningCloud, path: str, token: str) -> None:
    url = f"http://127.0.0.1:{simulated.port}{path}"
    answer = httpx.get(url, headers={"X-Auth-Token": token}, trust_env=False)
    assert answer.status_code == 401
    assert "WWW-Authenticate" in answer.headers


def test_a_changed_token_is_refused(simulated: RunningCloud) -> None:
    token = simulated.connect().auth_token
    for position in range(0, len(token), max(1, len(token) // 40)):
        changed = token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1 :]
        url = f"http://127.0.0.1:{simulated.port}/compute/v2.1/servers"
        answer = httpx.get(url, headers={"X-Auth-Token": changed}, trust_env=False)
        assert answer.status_code == 401, f"changed at {position}"


def test_other_projects_ids_do_not_exist(simulated: RunningCloud) -> None:
    owner = simulated.member("refusal-owner")
    other = Api(simulated, simulated.member("refusal-other"))
    server = Api(simulated, owner)("POST", "/compute/v2.1/servers", json=server_body(simulated, owner)).json()["server"]
    port = next(owner.network.ports(device_id=server["id"]))
    group = next(owner.network.security_groups(name="default"))
    network = next(n for n in owner.network.networks() if n.project_id == owner.current_project_id)
    router = next(owner.network.routers())
    for path in (
        f"/compute/v2.1/servers/{server['id']}",
        f"/network/v2.0/ports/{port.id}",
        f"/network/v2.0/security-groups/{group.id}",
        f"/network/v2.0/networks/{network.id}",
        f"/network/v2.0/routers/{router.id}",
    ):
        assert other("GET", path).status_code == 404, path
        assert other("DELETE", path).status_code == 404, path
    action = other("POST", f"/compute/v2.1/servers/{server['id']}/action", json={"os-stop": None})
    assert action.status_code == 404
    steal = other("POST", "/network/v2.0/ports", json={"port": {"network_id": network.id}})
    assert steal.status_code == 404


def test_no_valid_host_names_the_need_of_each_host(simulated: RunningCloud) -> None:
    admin = simulated.connect()
    admin.compute.update_quota_set(admin.current_project_id, ram=-1)
    giant = admin.compute.create_flavor(name="giant", ram=10**8, vcpus=1, disk=1)
    image = next(iter(admin.image.images(name="tiny")), None) or simulated.upload_tiny()
    server = admin.compute.create_server(name="too-big", image_id=image.id, flavor_id=giant.id, networks="auto")
    failed = admin.compute.wait_for_server(server, status="ERROR", failures=[], wait=20, interval=0.05)
    assert "No valid host" in failed.fault["message"]
    assert "host1" in failed.fault["message"]
    assert "RAM" in failed.fault["message"]
    admin.compute.delete_server(server)
    admin.compute.wait_for_delete(server, wait=20, interval=0.05)
    admin.compute.delete_flavor(giant)
