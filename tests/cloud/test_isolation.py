"""One project against another over HTTP: whatever it names of the other's, it learns and changes nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from .running import RunningCloud, until

COMPUTE, NETWORK, IMAGES = "/compute/v2.1", "/network/v2.0", "/image/v2/images"
PLURALS = {
    "network": "networks",
    "subnet": "subnets",
    "port": "ports",
    "router": "routers",
    "security_group": "security-groups",
    "security_group_rule": "security-group-rules",
    "floatingip": "floatingips",
}


@dataclass
class Caller:
    """A token on a project, and the ids of what was made with it."""

    http: httpx.Client
    token: str
    project_id: str
    user_id: str
    owned: dict[str, str] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: object = None, **options: Any) -> httpx.Response:
        headers = {"X-Auth-Token": self.token, "OpenStack-API-Version": "compute 2.79", **options.pop("headers", {})}
        if body is not None:
            options["json"] = body
        return self.http.request(method, path, headers=headers, **options)

    def make(self, kind: str, **fields: Any) -> str:
        answer = self.ask("POST", f"{NETWORK}/{PLURALS[kind]}", {kind: fields})
        assert answer.status_code == 201, answer.text
        self.owned[kind] = answer.json()[kind]["id"]
        return self.owned[kind]

    def server(self, image_id: str, **fields: Any) -> httpx.Response:
        body = {"name": "s", "imageRef": image_id, "flavorRef": "42", "networks": "auto", **fields}
        return self.ask("POST", f"{COMPUTE}/servers", {"server": body})


@dataclass
class World:
    image_id: str
    external_id: str
    victim: Caller
    attacker: Caller
    reader: Caller
    """Of the victim's project."""


@pytest.fixture(scope="module")
def world(simulated: RunningCloud) -> Iterator[World]:
    image_id = simulated.upload_tiny("isolation").id
    admin = simulated.connect()
    external_id = next(iter(admin.network.networks(is_router_external=True))).id
    with httpx.Client(base_url=simulated.credentials()["OS_AUTH_URL"].removesuffix("/identity/v3"), timeout=30) as http:
        name = f"victim{uuid.uuid4().hex[:6]}"
        victim = caller(http, simulated, name)
        attacker = caller(http, simulated, f"attacker-of-{name}")
        user = admin.identity.create_user(name=f"reader-of-{name}", password="secret", domain_id="default")
        role = admin.identity.find_role("reader", ignore_missing=False)
        admin.identity.assign_project_role_to_user(victim.project_id, user, role)
        reader = simulated.connect(user.name, "secret", name)
        world = World(
            image_id,
            external_id,
            victim,
            attacker,
            Caller(http, reader.session.get_token(), victim.project_id, user.id),
        )
        for each in (victim, attacker):
            own_everything(each, world)
        yield world


def caller(http: httpx.Client, cloud: RunningCloud, name: str) -> Caller:
    connection = cloud.member(name)
    token = connection.session.get_token()
    return Caller(http, token, connection.current_project_id, connection.current_user_id)


def own_everything(who: Caller, world: World) -> None:
    who.owned["server"] = who.server(world.image_id, metadata={"k": "v"}, tags=["t"]).json()["server"]["id"]
    network = who.make("network", name="n")
    who.make("subnet", network_id=network, cidr="10.77.0.0/24")
    who.make("port", network_id=network)
    who.make("router", name="r")
    group = who.make("security_group", name=f"g{uuid.uuid4().hex[:6]}")
    who.make("security_group_rule", security_group_id=group, direction="ingress", protocol="tcp")
    who.make("floatingip", floating_network_id=world.external_id)
    body = {"name": "private", "disk_format": "raw", "container_format": "bare"}
    who.owned["image"] = who.ask("POST", IMAGES, body).json()["id"]
    key = {"keypair": {"name": f"key-of-{who.project_id}"}}
    assert who.ask("POST", f"{COMPUTE}/os-keypairs", key).status_code == 201


def attacks_on(victim: Caller, attacker: Caller) -> list[tuple[str, str, object]]:
    """Requests that name something of the victim in the path."""
    own = victim.owned
    server, image = f"{COMPUTE}/servers/{own['server']}", f"{IMAGES}/{own['image']}"
    reads = ["", "/metadata", "/metadata/k", "/tags", "/tags/t", "/ips", "/os-security-groups", "/os-instance-actions"]
    reads += ["/os-interface", f"/os-interface/{own['port']}", "/topology", "/os-volume_attachments"]
    actions: dict[str, object] = dict.fromkeys(("os-start", "os-stop", "pause", "unpause", "lock", "unlock"))
    actions |= {"reboot": {"type": "HARD"}, "os-getConsoleOutput": {}, "os-resetState": {"state": "error"}}
    actions |= {"addSecurityGroup": {"name": "default"}, "removeSecurityGroup": {"name": "default"}}
    found: list[tuple[str, str, object]] = [("GET", server + read, None) for read in reads]
    found += [("POST", f"{server}/action", {action: value}) for action, value in actions.items()]
    found += [
        ("PUT", server, {"server": {"name": "mine"}}),
        ("DELETE", server, None),
        ("POST", f"{server}/metadata", {"metadata": {"a": "b"}}),
        ("PUT", f"{server}/metadata", {"metadata": {}}),
        ("PUT", f"{server}/metadata/k", {"meta": {"k": "mine"}}),
        ("DELETE", f"{server}/metadata/k", None),
        ("PUT", f"{server}/tags", {"tags": []}),
        ("PUT", f"{server}/tags/mine", None),
        ("DELETE", f"{server}/tags", None),
        ("GET", f"{COMPUTE}/os-keypairs/key-of-{victim.project_id}?user_id={victim.user_id}", None),
        ("DELETE", f"{COMPUTE}/os-keypairs/key-of-{victim.project_id}?user_id={victim.user_id}", None),
        ("POST", f"{COMPUTE}/os-keypairs", {"keypair": {"name": "k", "user_id": victim.user_id}}),
        ("GET", f"{COMPUTE}/os-quota-sets/{victim.project_id}", None),
        ("PUT", f"{COMPUTE}/os-quota-sets/{attacker.project_id}", {"quota_set": {"cores": -1}}),
        ("GET", f"{COMPUTE}/limits?tenant_id={victim.project_id}", None),
        ("GET", f"{COMPUTE}/servers?all_tenants=1", None),
        ("GET", f"{NETWORK}/quotas/{victim.project_id}", None),
        ("PUT", f"{NETWORK}/quotas/{attacker.project_id}", {"quota": {"port": -1}}),
        ("GET", f"{NETWORK}/auto-allocated-topology/{victim.project_id}", None),
        ("DELETE", f"{NETWORK}/auto-allocated-topology/{victim.project_id}", None),
        ("GET", "/network/kilonova/pool-networks", None),
        ("POST", "/network/kilonova/audits", {"audit": {}}),
        (
            "POST",
            "/network/kilonova/explanations",
            {"explanation": {"source": own["server"], "destination": "outside"}},
        ),
        ("POST", "/network/kilonova/explanations", {"explanation": {"source": "outside", "destination": own["port"]}}),
        ("GET", f"/identity/v3/users/{victim.user_id}", None),
        ("GET", f"/identity/v3/projects/{victim.project_id}", None),
        ("GET", f"/identity/v3/role_assignments?user.id={victim.user_id}", None),
        ("GET", f"/object-store/v1/AUTH_{victim.project_id}", None),
        ("PUT", f"/object-store/v1/AUTH_{victim.project_id}/c", None),
        ("GET", "/object-store/v1/.kilonova", None),
        ("PUT", f"{image}/members/{attacker.project_id}", {"status": "accepted"}),
        ("POST", f"{image}/members", {"member": attacker.project_id}),
        ("GET", f"{image}/file", None),
        ("PUT", f"{image}/tags/mine", None),
        ("GET", image, None),
        ("DELETE", image, None),
    ]
    for kind, plural in PLURALS.items():
        path = f"{NETWORK}/{plural}/{own[kind]}"
        found += [("GET", path, None), ("DELETE", path, None), ("PUT", f"{path}/tags", {"tags": ["mine"]})]
        if kind != "security_group_rule":
            found.append(("PUT", path, {kind: {"description": "mine"}}))
    for verb in ("add", "remove"):
        path = f"{NETWORK}/routers/{own['router']}/{verb}_router_interface"
        found.append(("PUT", path, {"subnet_id": attacker.owned["subnet"]}))
    return found


def test_what_is_anothers_is_not_there(world: World) -> None:
    for method, path, body in attacks_on(world.victim, world.attacker):
        answer = world.attacker.ask(method, path, body)
        assert answer.status_code in (403, 404), f"{method} {path} {body}: {answer.status_code} {answer.text}"
    for plural in PLURALS.values():
        listed = world.attacker.ask("GET", f"{NETWORK}/{plural}?project_id={world.victim.project_id}").json()
        assert not listed[plural.replace("-", "_")]


def test_bodies_cannot_name_what_is_anothers(world: World) -> None:
    victim, attacker = world.victim.owned, world.attacker
    own, project_id = attacker.owned, world.victim.project_id
    on_own = {"network_id": own["network"]}
    outside = {"floating_network_id": world.external_id}
    rule = {"security_group_id": own["security_group"], "direction": "ingress"}
    created: list[tuple[str, dict[str, Any]]] = [
        ("port", {"network_id": victim["network"]}),
        ("port", {"network_id": world.external_id}),
        ("port", on_own | {"security_groups": [victim["security_group"]]}),
        ("port", on_own | {"fixed_ips": [{"subnet_id": victim["subnet"]}]}),
        ("port", on_own | {"device_id": victim["server"]}),
        ("port", on_own | {"device_id": victim["router"]}),
        ("port", on_own | {"device_owner": "network:dhcp"}),
        ("port", on_own | {"binding:host_id": "host1"}),
        ("port", on_own | {"status": "ACTIVE"}),
        ("port", on_own | {"project_id": project_id}),
        ("subnet", {"network_id": victim["network"], "cidr": "10.1.0.0/24"}),
        ("subnet", {"network_id": world.external_id, "cidr": "10.1.0.0/24"}),
        ("network", {"tenant_id": project_id}),
        ("network", {"shared": True}),
        ("network", {"router:external": True}),
        ("network", {"provider:segmentation_id": 7}),
        ("router", {"external_gateway_info": {"network_id": victim["network"]}}),
        ("router", {"external_gateway_info": {"network_id": world.external_id, "enable_snat": False}}),
        ("security_group_rule", rule | {"remote_group_id": victim["security_group"]}),
        ("security_group_rule", rule | {"security_group_id": victim["security_group"]}),
        ("floatingip", outside | {"port_id": victim["port"]}),
        ("floatingip", outside | {"floating_ip_address": "203.0.113.99"}),
        ("floatingip", outside | {"project_id": project_id}),
        ("floatingip", {"floating_network_id": victim["network"]}),
    ]
    for kind, fields in created:
        answer = attacker.ask("POST", f"{NETWORK}/{PLURALS[kind]}", {kind: fields})
        assert answer.status_code in (400, 403, 404), f"{kind} {fields}: {answer.status_code} {answer.text}"
    changed: list[tuple[str, str, object]] = [
        ("ports", own["port"], {"port": {"security_groups": [victim["security_group"]]}}),
        ("ports", own["port"], {"port": {"device_id": victim["server"]}}),
        ("ports", own["port"], {"port": {"project_id": project_id}}),
        ("floatingips", own["floatingip"], {"floatingip": {"port_id": victim["port"]}}),
        ("routers", f"{own['router']}/add_router_interface", {"subnet_id": victim["subnet"]}),
        ("routers", f"{own['router']}/add_router_interface", {"port_id": victim["port"]}),
    ]
    for plural, path, body in changed:
        answer = attacker.ask("PUT", f"{NETWORK}/{plural}/{path}", body)
        assert answer.status_code in (400, 403, 404), f"{plural} {body}: {answer.status_code} {answer.text}"
    for fields in (
        {"imageRef": victim["image"]},
        {"networks": [{"uuid": victim["network"]}]},
        {"networks": [{"port": victim["port"]}]},
        {"security_groups": [{"name": victim["security_group"]}]},
        {"key_name": f"key-of-{project_id}"},
        {"availability_zone": "nova:host1"},
    ):
        answer = attacker.server(world.image_id, **fields)
        assert answer.status_code in (400, 403, 404), f"{fields}: {answer.status_code} {answer.text}"
    attributes: list[dict[str, object]] = [{"owner": project_id}, {"visibility": "public"}, {"locations": []}]
    for attribute in attributes:
        assert attacker.ask("POST", IMAGES, attribute).status_code in (400, 403)


def test_a_reader_changes_nothing(world: World) -> None:
    own = world.victim.owned
    assert world.reader.ask("GET", f"{COMPUTE}/servers/{own['server']}").status_code == 200
    for method, path, body in attacks_on(world.victim, world.attacker):
        if method != "GET" and world.victim.project_id not in path:
            assert world.reader.ask(method, path, body).status_code == 403, f"{method} {path}"
    assert world.reader.server(world.image_id).status_code == 403


def test_a_token_is_not_made_up(world: World) -> None:
    own, other = world.attacker.token.split("."), world.victim.token.split(".")
    forged = [
        ".".join([*own[:2], other[2], own[3]]),
        world.attacker.token[:-2],
        "kn1.x.y.z",
        "kn1...",
        "é",
        "a" * 20000,
    ]
    for token in forged:
        answer = world.attacker.http.get(f"{COMPUTE}/servers", headers=[(b"X-Auth-Token", token.encode())])
        assert answer.status_code == 401, token[:40]


@pytest.mark.parametrize(
    "body",
    [b'{"server":' * 50_000, b"[" * 100_000, b"\xff\xfe", b"", b'{"server":{"name":"\\ud800"}}', b"1e999999", b"NaN"],
)
def test_bodies_that_are_no_requests(world: World, body: bytes) -> None:
    for path in (f"{COMPUTE}/servers", f"{NETWORK}/ports", IMAGES, "/identity/v3/auth/tokens"):
        answer = world.attacker.ask("POST", path, content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code == 400, f"{path}: {answer.status_code} {answer.text}"


def test_names_of_objects_are_no_paths(world: World, simulated: RunningCloud) -> None:
    account = f"/object-store/v1/AUTH_{world.attacker.project_id}"
    assert world.attacker.ask("PUT", f"{account}/c").status_code in (201, 202)
    for name in ("%2e%2e%2f%2e%2e%2fescaped", "a%2f..%2f..%2fescaped", "%2fescaped", "a%0aescaped"):
        assert world.attacker.ask("PUT", f"{account}/c/{name}", content=b"x").status_code == 201
        assert world.attacker.ask("GET", f"{account}/c/{name}").content == b"x"
    assert not list(simulated.state_dir.rglob("*escaped*"))


def test_storms_of_requests_keep_quotas_and_leave_nothing(world: World, simulated: RunningCloud) -> None:
    who = caller(world.attacker.http, simulated, f"storm{uuid.uuid4().hex[:6]}")

    async def storm() -> None:
        headers = {"X-Auth-Token": who.token, "OpenStack-API-Version": "compute 2.79"}
        async with httpx.AsyncClient(base_url=who.http.base_url, headers=headers, timeout=30) as http:
            body = {"name": "s", "imageRef": world.image_id, "flavorRef": "42", "networks": "auto"}
            made = await asyncio.gather(*(http.post(f"{COMPUTE}/servers", json={"server": body}) for _ in range(15)))
            assert Counter(answer.status_code for answer in made) == {202: 10, 403: 5}
            paths = [
                f"{COMPUTE}/servers/{answer.json()['server']['id']}" for answer in made if answer.status_code == 202
            ]
            actions: list[dict[str, object]] = [{"os-stop": None}, {"reboot": {"type": "HARD"}}, {"pause": None}]
            work = [http.post(f"{path}/action", json=action) for path in paths for action in actions]
            work += [http.delete(path) for path in paths for _ in range(2)]
            ended = await asyncio.gather(*work)
            assert {answer.status_code for answer in ended} <= {202, 204, 404, 409}

    asyncio.run(storm())
    until("no server left", lambda: not who.ask("GET", f"{COMPUTE}/servers").json()["servers"])
    answer = who.ask("DELETE", f"{NETWORK}/auto-allocated-topology/{who.project_id}")
    assert answer.status_code == 204, answer.text
    for plural in ("ports", "routers"):
        assert who.ask("GET", f"{NETWORK}/{plural}").json()[plural] == []
