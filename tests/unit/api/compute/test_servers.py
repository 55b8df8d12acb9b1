"""Servers through the API: their life, what is refused, what a list shows."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Connection, func, select

from kilonova.store import schema
from kilonova.store.database import Store

Client = Any
MakeClient = Any
StubHost = Any
IMAGE = "11111111-1111-4111-8111-111111111111"


def rows_left(tx: Connection) -> dict[str, int]:
    tables = (
        schema.instances,
        schema.ports,
        schema.networks,
        schema.operations,
        schema.routers,
        schema.security_groups,
    )
    return {table.name: tx.execute(select(func.count()).select_from(table)).scalar_one() for table in tables}


async def test_a_server_without_networks_gets_the_projects_own_and_becomes_active(member: Client) -> None:
    server_id = await member.server()
    server = await member.wait(server_id, "ACTIVE")
    [(network, [address])] = server["addresses"].items()
    assert network == "auto_allocated_network"
    assert address["OS-EXT-IPS:type"] == "fixed"
    assert server["security_groups"] == [{"name": "default"}]
    assert server["flavor"]["original_name"] == "m1.nano"
    assert server["OS-EXT-AZ:availability_zone"] == "nova"
    assert server["progress"] == 100


async def test_a_second_server_shares_the_network(member: Client) -> None:
    first = await member.wait(await member.server(), "ACTIVE")
    second = await member.wait(await member.at("2.1").server(networks=[]), "ACTIVE")
    addresses = [server["addresses"]["auto_allocated_network"][0]["addr"] for server in (first, second)]
    assert len(set(addresses)) == 2


async def test_a_server_with_networks_none_has_no_port(member: Client) -> None:
    server = await member.wait(await member.server(networks="none"), "ACTIVE")
    assert server["addresses"] == {}


async def test_deleting_leaves_nothing_of_the_server(member: Client, store: Store) -> None:
    server_id = await member.server()
    await member.wait(server_id, "ACTIVE")
    await member.ask("DELETE", f"/servers/{server_id}", status=204)
    await member.wait_gone(server_id)
    await member.ask("GET", f"/servers/{server_id}", status=404)

    def ports_of(tx: Connection) -> list[str]:
        return list(tx.execute(select(schema.ports.c.id).where(schema.ports.c.device_id == server_id)).scalars())

    assert await store.read(ports_of) == []


async def test_a_server_is_deleted_while_it_is_built(member: Client, host: StubHost) -> None:
    host.held.clear()
    server_id = await member.server()
    await member.ask("DELETE", f"/servers/{server_id}", status=204)
    host.held.set()
    await member.wait_gone(server_id)


async def test_power_actions_end_in_their_states(member: Client) -> None:
    server_id = await member.server()
    await member.wait(server_id, "ACTIVE")
    for action, status in (
        ({"os-stop": None}, "SHUTOFF"),
        ({"os-start": None}, "ACTIVE"),
        ({"pause": None}, "PAUSED"),
        ({"unpause": None}, "ACTIVE"),
        ({"reboot": {"type": "SOFT"}}, "ACTIVE"),
        ({"reboot": {"type": "HARD"}}, "ACTIVE"),
    ):
        await member.ask("POST", f"/servers/{server_id}/action", action, status=202)
        await member.wait(server_id, status)


async def test_an_action_that_makes_no_sense_is_refused_in_novas_words(member: Client, host: StubHost) -> None:
    server_id = await member.server()
    await member.wait(server_id, "ACTIVE")
    action = f"/servers/{server_id}/action"
    refused = await member.ask("POST", action, {"os-start": None}, status=409)
    assert (
        refused["conflictingRequest"]["message"]
        == f"Cannot 'start' instance {server_id} while it is in vm_state active"
    )
    host.held.clear()
    await member.ask("POST", action, {"reboot": {"type": "HARD"}}, status=202)
    assert (await member.ask("GET", f"/servers/{server_id}"))["server"]["status"] == "HARD_REBOOT"
    assert [s["id"] for s in (await member.ask("GET", "/servers?status=HARD_REBOOT"))["servers"]] == [server_id]
    assert (await member.ask("GET", "/servers?status=ACTIVE"))["servers"] == []
    refused = await member.ask("POST", action, {"os-stop": None}, status=409)
    assert "while it is in task_state rebooting_hard" in refused["conflictingRequest"]["message"]
    host.held.set()
    await member.wait(server_id, "ACTIVE")


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"imageRef": str(uuid4())}, 400, "Can not find requested image"),
        ({"imageRef": "tiny"}, 400, "not a 'uuid'"),
        ({"imageRef": ""}, 400, "imageRef"),
        ({"flavorRef": "nonsense"}, 400, "Flavor nonsense could not be found"),
        ({"key_name": "nobodys"}, 400, "Invalid key_name"),
        ({"security_groups": [{"name": "nobodys"}]}, 400, "Security group nobodys not found"),
        ({"networks": [{"uuid": str(uuid4())}]}, 400, "could not be found"),
        ({"networks": [{"port": str(uuid4())}]}, 400, "could not be found"),
        ({"user_data": "not base64!"}, 400, "base64"),
        ({"availability_zone": "moon"}, 400, "availability zone"),
        ({"availability_zone": "nova:host1"}, 403, "administrator"),
        ({"host": "host1"}, 403, "administrator"),
        ({"min_count": 3, "max_count": 2}, 400, "min_count must be <= max_count"),
        ({"min_count": 0}, 400, "min_count"),
        ({"max_count": 11, "min_count": 11}, 403, "Quota exceeded for instances"),
        ({"flavorRef": "4", "min_count": 7}, 403, "Quota exceeded for cores, ram"),
        ({"metadata": {f"k{i}": "v" for i in range(129)}}, 403, "metadata"),
        ({"metadata": {"bad/key": "v"}}, 400, "metadata"),
        ({"tags": ["a,b"]}, 400, "tags"),
        ({"name": ""}, 400, "name"),
        ({"name": " padded"}, 400, "name"),
        ({"surprise": 1}, 400, "surprise"),
        ({"personality": []}, 400, "personality"),
        ({"config_drive": "perhaps"}, 400, "config_drive"),
        ({"accessIPv4": "fe80::1"}, 400, "accessIPv4"),
        ({"block_device_mapping_v2": [{"boot_index": 0, "source_type": "volume", "uuid": "x"}]}, 400, "volume"),
    ],
)
async def test_a_refused_create_says_why_and_leaves_nothing(
    member: Client, store: Store, fields: dict[str, Any], status: int, words: str
) -> None:
    before = await store.read(rows_left)
    assert words in await member.server(status=status, **fields)
    assert await store.read(rows_left) == before


async def test_a_field_of_a_later_version_is_unknown_to_an_earlier_one(member: Client) -> None:
    assert "description" in await member.at("2.18").server(status=400, networks=[], description="x")
    assert "networks" in await member.at("2.36").server(status=400, networks="auto")
    body = {"server": {"name": "web", "imageRef": IMAGE, "flavorRef": "42"}}
    refused = await member.at("2.37").ask("POST", "/servers", body, status=400)
    assert "'networks' is a required property" in refused["badRequest"]["message"]


async def test_several_servers_are_numbered_and_share_a_reservation(member: Client, operator: Client) -> None:
    body = {"name": "web", "imageRef": IMAGE, "flavorRef": "42", "networks": "auto", "min_count": 3}
    made = await member.ask("POST", "/servers", {"server": body | {"return_reservation_id": True}}, status=202)
    servers = (await member.ask("GET", "/servers?sort_key=display_name&sort_dir=asc"))["servers"]
    assert [server["name"] for server in servers] == ["web-1", "web-2", "web-3"]
    found = await operator.ask("GET", f"/servers/detail?all_tenants=1&reservation_id={made['reservation_id']}")
    assert len(found["servers"]) == 3
    assert found["servers"][0]["OS-EXT-SRV-ATTR:reservation_id"] == made["reservation_id"]


async def test_no_valid_host_is_a_fault_that_names_the_need(client_of: MakeClient, scheduler: Any) -> None:
    member = client_of("member")
    server_id = await member.server()
    server = await member.wait(server_id, "ERROR")
    assert server["fault"]["code"] == 500
    assert "There is no compute host" in server["fault"]["message"]
    await member.ask("DELETE", f"/servers/{server_id}", status=204)
    await member.ask("GET", f"/servers/{server_id}", status=404)


async def test_a_full_cloud_names_what_each_host_lacks(member: Client, host: StubHost) -> None:
    host.capacity["ram_mb"] = 100
    await host.beat()
    server = await member.wait(await member.server(), "ERROR")
    assert server["fault"]["message"] == "No valid host was found. host1: RAM 128 MB needed, 100 MB free"


async def test_another_project_sees_nothing(member: Client, client_of: MakeClient, operator: Client) -> None:
    server_id = await member.server()
    stranger = client_of("member", user_id="u2", project_id="p2")
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/metadata"), ("GET", "/os-interface"), ("GET", "/tags")):
        await stranger.ask(method, f"/servers/{server_id}{path}", status=404)
    await stranger.ask("POST", f"/servers/{server_id}/action", {"os-stop": None}, status=404)
    assert (await stranger.ask("GET", "/servers"))["servers"] == []
    await stranger.ask("GET", "/servers?all_tenants=1", status=403)
    assert len((await operator.ask("GET", "/servers?all_tenants=1"))["servers"]) == 1


async def test_a_reader_looks_and_changes_nothing(member: Client, client_of: MakeClient) -> None:
    server_id = await member.server()
    reader = client_of("reader")
    assert (await reader.ask("GET", f"/servers/{server_id}"))["server"]["id"] == server_id
    await reader.ask("DELETE", f"/servers/{server_id}", status=403)
    await reader.server(status=403)


async def test_filters_choose_servers(member: Client) -> None:
    web = await member.server(name="web.one", tags=["a", "b"], metadata={"k": "v"})
    mail = await member.server(name="mail", tags=["b"])
    await member.wait(web, "ACTIVE")
    address = next(iter((await member.wait(mail, "ACTIVE"))["addresses"].values()))[0]["addr"]

    async def found(query: str) -> set[str]:
        return {server["id"] for server in (await member.ask("GET", f"/servers/detail?{query}"))["servers"]}

    assert await found("name=web") == {web}
    assert await found("name=^mail$") == {mail}
    assert await found("name=b.o") == {web}
    assert await found("name=b%25") == set()
    assert await found("tags=a,b") == {web}
    assert await found("tags-any=a,b") == {web, mail}
    assert await found("not-tags-any=a") == {mail}
    assert await found("not-tags=a,b") == {mail}
    assert await found(f"ip={address}") == {mail}
    assert await found("status=ACTIVE") == {web, mail}
    assert await found("status=SHUTOFF") == set()
    assert await found("flavor=42") == {web, mail}
    assert await found("flavor=1") == set()
    assert await found(f"image={IMAGE}") == {web, mail}
    assert await found("changes-since=2999-01-01T00:00:00Z") == set()
    assert await found("changes-before=2999-01-01T00:00:00Z") == {web, mail}
    assert await found("locked=true") == set()
    for query in ("status=nonsense", "changes-since=never", "name=(", "surprise=1", "sort_key=nonsense", "limit=-1"):
        await member.ask("GET", f"/servers?{query}", status=400)
    await member.ask("GET", "/servers?status=DELETED", status=403)
    assert (await member.at("2.37").ask("GET", "/servers?status=nonsense"))["servers"] == []


async def test_pages_follow_each_other(member: Client) -> None:
    ids = [await member.server(name=f"s{n}", networks="none") for n in range(5)]
    seen: list[str] = []
    path = "/servers?limit=2"
    while True:
        page = await member.ask("GET", path)
        seen += [server["id"] for server in page["servers"]]
        if "servers_links" not in page:
            break
        path = page["servers_links"][0]["href"].removeprefix("http://cloud/compute/v2.1")
    assert seen == list(reversed(ids))
    await member.ask("GET", f"/servers?marker={uuid4()}", status=400)


async def test_an_update_changes_what_it_names(member: Client) -> None:
    server_id = await member.server()
    await member.wait(server_id, "ACTIVE")
    new = {"name": "renamed", "description": "more", "accessIPv4": "192.0.2.1"}
    server = (await member.ask("PUT", f"/servers/{server_id}", {"server": new}))["server"]
    assert {name: server[name] for name in new} == new
    assert "OS-EXT-STS:vm_state" in server
    old = (await member.at("2.74").ask("PUT", f"/servers/{server_id}", {"server": {"name": "again"}}))["server"]
    assert "OS-EXT-STS:vm_state" not in old
    await member.ask("PUT", f"/servers/{server_id}", {"server": {}}, status=400)
    await member.ask("PUT", f"/servers/{server_id}", {"server": {"id": "x"}}, status=400)


async def test_a_locked_server_obeys_only_administrators(member: Client, operator: Client) -> None:
    server_id = await member.server()
    await member.wait(server_id, "ACTIVE")
    action = f"/servers/{server_id}/action"
    await member.ask("POST", action, {"lock": {"locked_reason": "mine"}}, status=202)
    server = (await member.ask("GET", f"/servers/{server_id}"))["server"]
    assert (server["locked"], server["locked_reason"]) == (True, "mine")
    await member.ask("POST", action, {"os-stop": None}, status=409)
    await member.ask("DELETE", f"/servers/{server_id}", status=409)
    await operator.ask("POST", action, {"os-stop": None}, status=202)
    await member.wait(server_id, "SHUTOFF")
    await member.ask("POST", action, {"unlock": None}, status=202)
    await member.ask("DELETE", f"/servers/{server_id}", status=204)


async def test_metadata_and_tags_are_kept(member: Client) -> None:
    server_id = await member.server(metadata={"a": "1"}, tags=["x"])
    at = f"/servers/{server_id}"
    assert (await member.ask("POST", f"{at}/metadata", {"metadata": {"b": "2"}}))["metadata"] == {"a": "1", "b": "2"}
    assert (await member.ask("PUT", f"{at}/metadata", {"metadata": {"c": "3"}}))["metadata"] == {"c": "3"}
    assert (await member.ask("PUT", f"{at}/metadata/c", {"meta": {"c": "4"}}))["meta"] == {"c": "4"}
    assert (await member.ask("GET", f"{at}/metadata/c"))["meta"] == {"c": "4"}
    await member.ask("PUT", f"{at}/metadata/c", {"meta": {"d": "4"}}, status=400)
    await member.ask("DELETE", f"{at}/metadata/c", status=204)
    await member.ask("DELETE", f"{at}/metadata/c", status=404)
    assert (await member.ask("GET", f"{at}/metadata"))["metadata"] == {}
    await member.ask("PUT", f"{at}/tags/y", status=201)
    await member.ask("PUT", f"{at}/tags/y", status=204)
    assert (await member.ask("GET", f"{at}/tags"))["tags"] == ["x", "y"]
    await member.ask("GET", f"{at}/tags/x", status=204)
    await member.ask("DELETE", f"{at}/tags/x", status=204)
    await member.ask("GET", f"{at}/tags/x", status=404)
    assert (await member.ask("PUT", f"{at}/tags", {"tags": ["z"]}))["tags"] == ["z"]
    await member.ask("DELETE", f"{at}/tags", status=204)
    await member.at("2.25").ask("GET", f"{at}/tags", status=404)


async def test_parts_of_a_server_are_shown(member: Client, operator: Client) -> None:
    server_id = await member.server()
    await member.wait(server_id, "ACTIVE")
    at = f"/servers/{server_id}"
    addresses = (await member.ask("GET", f"{at}/ips"))["addresses"]
    assert await member.ask("GET", f"{at}/ips/auto_allocated_network") == addresses
    await member.ask("GET", f"{at}/ips/elsewhere", status=404)
    [interface] = (await member.ask("GET", f"{at}/os-interface"))["interfaceAttachments"]
    assert interface["fixed_ips"][0]["ip_address"] == addresses["auto_allocated_network"][0]["addr"]
    shown = (await member.ask("GET", f"{at}/os-interface/{interface['port_id']}"))["interfaceAttachment"]
    assert shown == interface
    await member.ask("GET", f"{at}/os-interface/{uuid4()}", status=404)
    await member.ask("POST", f"{at}/os-interface", status=501)
    await member.ask("DELETE", f"{at}/os-interface/{interface['port_id']}", status=501)
    [group] = (await member.ask("GET", f"{at}/os-security-groups"))["security_groups"]
    assert group["name"] == "default"
    assert (await member.ask("GET", f"{at}/topology"))["nodes"] == []
    assert (await member.ask("GET", f"{at}/os-volume_attachments"))["volumeAttachments"] == []
    await operator.ask("GET", f"{at}/diagnostics", status=501)
    output = await member.ask("POST", f"{at}/action", {"os-getConsoleOutput": {"length": 5}})
    assert output == {"output": "5 lines of host1"}
    output = await member.ask("POST", f"{at}/action", {"os-getConsoleOutput": {}})
    assert output == {"output": "None lines of host1"}
    await member.ask("POST", f"{at}/action", {"os-getConsoleOutput": {"length": -2}}, status=400)


async def test_actions_are_logged_and_outlive_the_server(member: Client, operator: Client) -> None:
    server_id = await member.server()
    await member.wait(server_id, "ACTIVE")
    await member.ask("POST", f"/servers/{server_id}/action", {"os-stop": None}, status=202)
    await member.wait(server_id, "SHUTOFF")
    log = f"/servers/{server_id}/os-instance-actions"
    actions = (await member.ask("GET", log))["instanceActions"]
    assert [action["action"] for action in actions] == ["stop", "create"]
    assert (await member.ask("GET", f"{log}?limit=1"))["links"][0]["rel"] == "next"
    rest = await member.ask("GET", f"{log}?marker={actions[0]['request_id']}")
    assert [action["action"] for action in rest["instanceActions"]] == ["create"]
    await member.ask("GET", f"{log}?marker=nonsense", status=400)
    action = (await member.ask("GET", f"{log}/{actions[0]['request_id']}"))["instanceAction"]
    assert [(event["event"], event["result"]) for event in action["events"]] == [("compute_server.stop", "Success")]
    assert "host" not in action["events"][0]
    seen = (await operator.ask("GET", f"{log}/{actions[0]['request_id']}"))["instanceAction"]
    assert seen["events"][0]["host"] == "host1"
    assert "events" not in (await member.at("2.50").ask("GET", f"{log}/{actions[0]['request_id']}"))["instanceAction"]
    await member.ask("GET", f"{log}/req-nonsense", status=404)
    await member.ask("DELETE", f"/servers/{server_id}", status=204)
    await member.wait_gone(server_id)
    assert len((await member.ask("GET", log))["instanceActions"]) == 3
    await member.at("2.20").ask("GET", log, status=404)


async def test_what_an_administrator_did_shows_the_log_to_nobody_else(
    member: Client, operator: Client, client_of: MakeClient
) -> None:
    colleague = client_of("member", user_id="u2", project_id="admin")
    server_id = await member.server()
    await member.wait(server_id, "ACTIVE")
    await operator.ask("POST", f"/servers/{server_id}/action", {"os-stop": None}, status=202)
    await member.wait(server_id, "SHUTOFF")
    log = f"/servers/{server_id}/os-instance-actions"
    await colleague.ask("GET", log, status=404)
    await operator.ask("DELETE", f"/servers/{server_id}", status=204)
    await member.wait_gone(server_id)
    await colleague.ask("GET", log, status=404)
    assert len((await member.ask("GET", log))["instanceActions"]) == 3


async def test_groups_are_added_and_removed(member: Client, store: Store) -> None:
    from kilonova.network.groups import insert_group

    group_id = await store.write(insert_group, "p1", "web")
    server_id = await member.server()
    await member.wait(server_id, "ACTIVE")
    action = f"/servers/{server_id}/action"
    await member.ask("POST", action, {"addSecurityGroup": {"name": "web"}}, status=202)
    await member.ask("POST", action, {"addSecurityGroup": {"name": str(group_id)}}, status=202)
    server = (await member.ask("GET", f"/servers/{server_id}"))["server"]
    assert server["security_groups"] == [{"name": "default"}, {"name": "web"}]
    await member.ask("POST", action, {"removeSecurityGroup": {"name": "default"}}, status=202)
    await member.ask("POST", action, {"removeSecurityGroup": {"name": "default"}}, status=404)
    await member.ask("POST", action, {"addSecurityGroup": {"name": "nobodys"}}, status=404)


async def test_state_is_reset_by_administrators_only(member: Client, operator: Client) -> None:
    server_id = await member.server()
    await member.wait(server_id, "ACTIVE")
    action = f"/servers/{server_id}/action"
    await member.ask("POST", action, {"os-resetState": {"state": "error"}}, status=403)
    await operator.ask("POST", action, {"os-resetState": {"state": "error"}}, status=202)
    await member.wait(server_id, "ERROR")
    await operator.ask("POST", action, {"os-resetState": {"state": "active"}}, status=202)
    await member.wait(server_id, "ACTIVE")


async def test_actions_that_are_not_there_say_so(member: Client) -> None:
    server_id = await member.server()
    action = f"/servers/{server_id}/action"
    refused = await member.ask("POST", action, {"createImage": {"name": "x"}}, status=501)
    assert "createImage" in refused["notImplemented"]["message"]
    await member.ask("POST", action, {"dance": None}, status=400)
    await member.ask("POST", action, {"os-start": None, "os-stop": None}, status=400)
    await member.ask("POST", action, {}, status=400)
    await member.ask("POST", action, {"reboot": {"type": "NEVER"}}, status=400)


async def test_documents_grow_with_the_version(member: Client, operator: Client) -> None:
    server_id = await member.server()
    await member.wait(server_id, "ACTIVE")
    added = {
        "2.9": {"locked"},
        "2.19": {"description"},
        "2.26": {"tags"},
        "2.63": {"trusted_image_certificates"},
        "2.71": {"server_groups"},
        "2.73": {"locked_reason"},
    }
    before = set((await member.at("2.1").ask("GET", f"/servers/{server_id}"))["server"])
    for version, fields in added.items():
        now = set((await member.at(version).ask("GET", f"/servers/{server_id}"))["server"])
        assert now - before == fields
        before = now
    assert not any(name.startswith("OS-EXT-SRV-ATTR") for name in before)
    seen = (await operator.ask("GET", f"/servers/{server_id}"))["server"]
    assert seen["OS-EXT-SRV-ATTR:host"] == "host1"
    assert seen["host_status"] == "UP"
    listed = (await member.ask("GET", "/servers/detail"))["servers"][0]
    assert "server_groups" not in listed
