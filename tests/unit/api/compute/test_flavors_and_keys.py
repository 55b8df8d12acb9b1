"""Flavors, their extra specs and access; key pairs."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_ssh_private_key

from kilonova.store.schema import now

Client = Any
MakeClient = Any

SMALL = {"name": "small", "ram": 64, "vcpus": 1, "disk": 1}


async def names(client: Client, query: str = "") -> list[str]:
    return [flavor["name"] for flavor in (await client.ask("GET", f"/flavors{query}"))["flavors"]]


async def test_a_new_cloud_has_flavors(member: Client) -> None:
    assert set(await names(member)) == {"m1.nano", "m1.tiny", "m1.small", "m1.medium", "m1.large"}
    assert await names(member, "?minRam=4096&sort_key=memory_mb&sort_dir=desc") == ["m1.large", "m1.medium"]
    assert await names(member, "?minDisk=80") == ["m1.large"]
    page = await member.ask("GET", "/flavors/detail?limit=1&sort_key=name")
    assert "marker=4" in page["flavors_links"][0]["href"]
    for query in ("minRam=much", "limit=-1", "marker=nonsense", "sort_key=nonsense", "surprise=1"):
        await member.ask("GET", f"/flavors?{query}", status=400)


async def test_a_flavor_is_made_shown_and_deleted(member: Client, operator: Client) -> None:
    await member.ask("POST", "/flavors", {"flavor": SMALL}, status=403)
    made = (await operator.ask("POST", "/flavors", {"flavor": SMALL | {"id": "s", "description": "d"}}))["flavor"]
    assert (made["swap"], made["extra_specs"], made["description"]) == (0, {}, "d")
    await operator.ask("POST", "/flavors", {"flavor": SMALL}, status=409)
    await operator.ask("POST", "/flavors", {"flavor": SMALL | {"name": "other", "id": "s"}}, status=409)
    old = (await member.at("2.54").ask("GET", "/flavors/s"))["flavor"]
    assert old["swap"] == ""
    assert not {"description", "extra_specs"} & set(old)
    changed = await operator.ask("PUT", "/flavors/s", {"flavor": {"description": None}})
    assert changed["flavor"]["description"] is None
    await operator.at("2.54").ask("PUT", "/flavors/s", {"flavor": {"description": "x"}}, status=404)
    await operator.ask("DELETE", "/flavors/s", status=202)
    await operator.ask("DELETE", "/flavors/s", status=404)
    await member.ask("GET", "/flavors/s", status=404)


@pytest.mark.parametrize(
    "fields",
    [
        {"ram": 0},
        {"vcpus": -1},
        {"disk": "much"},
        {"id": "bad/id"},
        {"id": " s"},
        {"name": " "},
        {"rxtx_factor": 0},
        {"rxtx_factor": "fast"},
        {"os-flavor-access:is_public": "perhaps"},
        {"surprise": 1},
    ],
)
async def test_a_malformed_flavor_is_refused(operator: Client, fields: dict[str, Any]) -> None:
    await operator.ask("POST", "/flavors", {"flavor": SMALL | fields}, status=400)


async def test_extra_specs_are_kept(member: Client, operator: Client) -> None:
    specs = "/flavors/42/os-extra_specs"
    await operator.ask("POST", specs, {"extra_specs": {"a": "1", "hw:b": "2"}})
    assert (await member.ask("GET", specs))["extra_specs"] == {"a": "1", "hw:b": "2"}
    assert await operator.ask("PUT", f"{specs}/a", {"a": "3"}) == {"a": "3"}
    await operator.ask("PUT", f"{specs}/a", {"b": "3"}, status=400)
    await operator.ask("PUT", f"{specs}/a", {"a": {}}, status=400)
    assert await member.ask("GET", f"{specs}/a") == {"a": "3"}
    await operator.ask("DELETE", f"{specs}/a")
    await operator.ask("DELETE", f"{specs}/a", status=404)
    await member.ask("GET", f"{specs}/a", status=404)
    await member.ask("DELETE", f"{specs}/hw:b", status=403)


async def test_a_private_flavor_is_for_those_it_is_given_to(member: Client, operator: Client) -> None:
    private = SMALL | {"id": "s", "os-flavor-access:is_public": False}
    await operator.ask("POST", "/flavors", {"flavor": private})
    await member.ask("GET", "/flavors/s", status=404)
    assert "Flavor s could not be found" in await member.server(status=400, flavorRef="s")
    access = "/flavors/s/os-flavor-access"
    assert (await operator.ask("GET", access))["flavor_access"] == []
    grant = {"addTenantAccess": {"tenant": "p1"}}
    given = await operator.ask("POST", "/flavors/s/action", grant)
    assert given["flavor_access"] == [{"flavor_id": "s", "tenant_id": "p1"}]
    await operator.ask("POST", "/flavors/s/action", grant, status=409)
    assert "small" in await names(member)
    assert "small" in await names(operator, "?is_public=none")
    assert await names(operator, "?is_public=false") == ["small"]
    await operator.ask("POST", "/flavors/s/action", {"removeTenantAccess": {"tenant": "p1"}})
    await operator.ask("POST", "/flavors/s/action", {"removeTenantAccess": {"tenant": "p1"}}, status=404)
    await operator.ask("POST", "/flavors/s/action", {}, status=400)
    await operator.ask("GET", "/flavors/42/os-flavor-access", status=404)
    await operator.ask("POST", "/flavors/42/action", grant, status=409)


async def test_a_generated_key_fits_its_fingerprint(member: Client) -> None:
    made = (await member.ask("POST", "/os-keypairs", {"keypair": {"name": "mine"}}, status=201))["keypair"]
    load_ssh_private_key(made["private_key"].encode(), None)
    digest = hashlib.md5(base64.b64decode(made["public_key"].split()[1])).hexdigest()
    assert made["fingerprint"].replace(":", "") == digest
    shown = (await member.ask("GET", "/os-keypairs/mine"))["keypair"]
    assert "private_key" not in shown
    assert shown["type"] == "ssh"
    server_id = await member.server(key_name="mine")
    assert (await member.ask("GET", f"/servers/{server_id}"))["server"]["key_name"] == "mine"
    await member.ask("POST", "/os-keypairs", {"keypair": {"name": "mine"}}, status=409)
    await member.ask("DELETE", "/os-keypairs/mine", status=204)
    await member.ask("DELETE", "/os-keypairs/mine", status=404)


async def test_a_key_is_imported_or_refused(member: Client) -> None:
    generated = (await member.ask("POST", "/os-keypairs", {"keypair": {"name": "a"}}, status=201))["keypair"]
    body = {"name": "b", "public_key": generated["public_key"]}
    imported = (await member.ask("POST", "/os-keypairs", {"keypair": body}, status=201))["keypair"]
    assert imported["fingerprint"] == generated["fingerprint"]
    assert "private_key" not in imported
    for bad in ("", "nonsense", "ssh-rsa nonsense", "ssh-rsa AAAA", f"{body['public_key']}\n{body['public_key']}"):
        await member.ask("POST", "/os-keypairs", {"keypair": {"name": "c", "public_key": bad}}, status=400)
    for name in ("", "bad/name", " padded", "x" * 256):
        await member.ask("POST", "/os-keypairs", {"keypair": {"name": name}}, status=400)


async def test_a_certificate_is_a_key_too(member: Client) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now()).not_valid_after(now())
    pem = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    body = {"name": "c", "type": "x509", "public_key": pem}
    made = (await member.ask("POST", "/os-keypairs", {"keypair": body}, status=201))["keypair"]
    assert (made["type"], len(made["fingerprint"])) == ("x509", 59)
    await member.ask("POST", "/os-keypairs", {"keypair": body | {"public_key": "x"}}, status=400)
    await member.ask("POST", "/os-keypairs", {"keypair": {"name": "d", "type": "x509"}}, status=400)


async def test_keys_belong_to_users_and_come_in_pages(member: Client, operator: Client) -> None:
    for name in ("a", "b", "c"):
        await member.ask("POST", "/os-keypairs", {"keypair": {"name": name}}, status=201)
    page = await member.ask("GET", "/os-keypairs?limit=2")
    assert [entry["keypair"]["name"] for entry in page["keypairs"]] == ["a", "b"]
    assert page["keypairs_links"][0]["rel"] == "next"
    rest = await member.ask("GET", "/os-keypairs?marker=b")
    assert [entry["keypair"]["name"] for entry in rest["keypairs"]] == ["c"]
    await member.ask("GET", "/os-keypairs?marker=nonsense", status=400)
    assert len((await member.at("2.34").ask("GET", "/os-keypairs?limit=2"))["keypairs"]) == 3
    assert (await operator.ask("GET", "/os-keypairs"))["keypairs"] == []
    assert len((await operator.ask("GET", "/os-keypairs?user_id=u1"))["keypairs"]) == 3
    await member.ask("GET", "/os-keypairs?user_id=root", status=403)
    await operator.ask("DELETE", "/os-keypairs/a?user_id=u1", status=204)
    await operator.ask("POST", "/os-keypairs", {"keypair": {"name": "x", "user_id": "nobody"}}, status=404)


async def test_early_versions_of_keys(member: Client) -> None:
    early = member.at("2.1")
    made = (await early.ask("POST", "/os-keypairs", {"keypair": {"name": "a"}}, status=200))["keypair"]
    assert "type" not in made
    await early.ask("POST", "/os-keypairs", {"keypair": {"name": "b", "type": "ssh"}}, status=400)
    await early.ask("DELETE", "/os-keypairs/a", status=202)
