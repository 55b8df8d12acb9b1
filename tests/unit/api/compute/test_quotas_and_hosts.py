"""Limits and quotas, services, hypervisors, zones, versions."""

from __future__ import annotations

from typing import Any

Client = Any
MakeClient = Any
StubHost = Any


async def test_usage_is_counted_and_limits_hold(member: Client, operator: Client) -> None:
    await operator.ask("PUT", "/os-quota-sets/p1", {"quota_set": {"instances": 1, "key_pairs": 0}})
    await member.server()
    assert "Quota exceeded for instances: Requested 1, but already used 1 of 1" in await member.server(status=403)
    await member.ask("POST", "/os-keypairs", {"keypair": {"name": "k"}}, status=403)
    absolute = (await member.ask("GET", "/limits"))["limits"]["absolute"]
    assert (absolute["maxTotalInstances"], absolute["totalInstancesUsed"], absolute["totalRAMUsed"]) == (1, 1, 128)
    detail = (await member.ask("GET", "/os-quota-sets/p1/detail"))["quota_set"]
    assert detail["instances"] == {"limit": 1, "in_use": 1, "reserved": 0}
    await operator.ask("PUT", "/os-quota-sets/p1", {"quota_set": {"instances": 0}}, status=400)
    forced = await operator.ask("PUT", "/os-quota-sets/p1", {"quota_set": {"instances": 0, "force": True}})
    assert forced["quota_set"]["instances"] == 0
    await operator.ask("DELETE", "/os-quota-sets/p1", status=202)
    assert (await member.ask("GET", "/os-quota-sets/p1"))["quota_set"]["instances"] == 10


async def test_as_many_servers_as_the_quota_allows(member: Client) -> None:
    await member.server(min_count=2, max_count=100)
    assert len((await member.ask("GET", "/servers"))["servers"]) == 10


async def test_quotas_of_others_are_for_administrators(member: Client, operator: Client) -> None:
    await member.ask("GET", "/os-quota-sets/p2", status=403)
    await member.ask("GET", "/limits?tenant_id=p2", status=403)
    await member.ask("PUT", "/os-quota-sets/p1", {"quota_set": {"instances": 99}}, status=403)
    await operator.ask("GET", "/limits?tenant_id=p2")
    for bad in ({"instances": -2}, {"instances": "many"}, {"surprise": 1}, {"floating_ips": 5}):
        await operator.ask("PUT", "/os-quota-sets/p1", {"quota_set": bad}, status=400)


async def test_quotas_shrink_with_the_versions(operator: Client) -> None:
    async def known(version: str) -> set[str]:
        return set((await operator.at(version).ask("GET", "/os-quota-sets/p1/defaults"))["quota_set"])

    assert await known("2.35") - await known("2.36") == {
        "fixed_ips",
        "floating_ips",
        "security_groups",
        "security_group_rules",
    }
    assert len(await known("2.56") - await known("2.57")) == 3
    classes = await operator.at("2.49").ask("GET", "/os-quota-class-sets/default")
    assert "server_groups" not in classes["quota_class_set"]
    assert "server_groups" in (await operator.ask("GET", "/os-quota-class-sets/default"))["quota_class_set"]
    old = (await operator.at("2.35").ask("GET", "/limits"))["limits"]["absolute"]
    new = (await operator.ask("GET", "/limits"))["limits"]["absolute"]
    assert len(set(old) - set(new)) == 8


async def test_a_network_quota_set_before_2_36_is_the_network_apis(operator: Client) -> None:
    body = {"quota_set": {"floating_ips": 7}}
    assert (await operator.at("2.35").ask("PUT", "/os-quota-sets/p1", body))["quota_set"]["floating_ips"] == 7


async def test_a_service_is_disabled_and_enabled(member: Client, operator: Client) -> None:
    await member.ask("GET", "/os-services", status=403)
    [service] = (await operator.ask("GET", "/os-services?binary=nova-compute"))["services"]
    assert (service["state"], service["status"], service["host"]) == ("up", "enabled", "host1")
    at = f"/os-services/{service['id']}"
    disabled = await operator.ask("PUT", at, {"status": "disabled", "disabled_reason": "repair"})
    assert disabled["service"]["disabled_reason"] == "repair"
    server = await member.wait(await member.server(), "ERROR")
    assert server["fault"]["message"] == "No valid host was found. host1: disabled (repair)"
    assert (await operator.ask("PUT", at, {"status": "enabled"}))["service"]["disabled_reason"] is None
    assert (await operator.ask("PUT", at, {"forced_down": True}))["service"]["state"] == "down"
    for bad in ({}, {"status": "x"}, {"disabled_reason": "x"}, {"host": "host1"}):
        await operator.ask("PUT", at, bad, status=400)
    await operator.ask("PUT", "/os-services/nonsense", {"status": "enabled"}, status=404)


async def test_services_by_name_before_2_53(member: Client, operator: Client) -> None:
    early = operator.at("2.52")
    who = {"host": "host1", "binary": "nova-compute"}
    assert (await early.ask("PUT", "/os-services/disable", who))["service"]["status"] == "disabled"
    logged = await early.ask("PUT", "/os-services/disable-log-reason", who | {"disabled_reason": "r"})
    assert logged["service"]["disabled_reason"] == "r"
    assert (await early.ask("PUT", "/os-services/enable", who))["service"]["status"] == "enabled"
    forced = await early.ask("PUT", "/os-services/force-down", who | {"forced_down": True})
    assert forced["service"]["forced_down"] is True
    await early.ask("PUT", "/os-services/disable-log-reason", who, status=400)
    await early.ask("PUT", "/os-services/force-down", who, status=400)
    await early.ask("PUT", "/os-services/enable", {}, status=400)
    await early.ask("PUT", "/os-services/dance", who, status=404)
    await early.ask("PUT", "/os-services/enable", who | {"host": "x"}, status=404)
    [service] = (await early.ask("GET", "/os-services"))["services"]
    assert isinstance(service["id"], int)
    await early.ask("DELETE", "/os-services/x", status=400)
    await early.ask("DELETE", f"/os-services/{service['id']}", status=204)
    assert (await early.ask("GET", "/os-services"))["services"] == []


async def test_a_host_with_servers_is_not_forgotten(member: Client, operator: Client) -> None:
    await member.wait(await member.server(), "ACTIVE")
    [service] = (await operator.ask("GET", "/os-services"))["services"]
    await operator.ask("DELETE", f"/os-services/{service['id']}", status=409)
    await operator.ask("DELETE", "/os-services/nonsense", status=404)


async def test_hypervisors_show_what_is_used(member: Client, operator: Client) -> None:
    await member.wait(await member.server(), "ACTIVE")
    [hypervisor] = (await operator.ask("GET", "/os-hypervisors/detail?with_servers=true"))["hypervisors"]
    assert (hypervisor["memory_mb_used"], hypervisor["running_vms"], hypervisor["vcpus_used"]) == (128, 1, 1)
    assert hypervisor["servers"][0]["name"] == "web"
    at = f"/os-hypervisors/{hypervisor['id']}"
    assert "servers" not in (await operator.ask("GET", at))["hypervisor"]
    assert len((await operator.ask("GET", f"{at}?with_servers=1"))["hypervisor"]["servers"]) == 1
    assert (await operator.ask("GET", f"{at}/uptime"))["hypervisor"]["uptime"].startswith("up ")
    assert (await operator.ask("GET", "/os-hypervisors/statistics"))["hypervisor_statistics"]["count"] == 1
    assert len((await operator.ask("GET", "/os-hypervisors?hypervisor_hostname_pattern=ost"))["hypervisors"]) == 1
    await operator.ask("GET", "/os-hypervisors?hypervisor_hostname_pattern=x", status=404)
    assert (await operator.ask("GET", f"/os-hypervisors?marker={hypervisor['id']}"))["hypervisors"] == []
    await operator.ask("GET", "/os-hypervisors?marker=x", status=400)
    await operator.ask("GET", "/os-hypervisors/nonsense", status=404)
    await member.ask("GET", "/os-hypervisors", status=403)
    assert (await operator.ask("GET", "/os-aggregates"))["aggregates"] == []


async def test_hypervisors_before_2_53(member: Client, operator: Client) -> None:
    await member.wait(await member.server(), "ACTIVE")
    early = operator.at("2.1")
    [hypervisor] = (await early.ask("GET", "/os-hypervisors/detail"))["hypervisors"]
    assert isinstance(hypervisor["id"], int)
    assert isinstance(hypervisor["cpu_info"], str)
    assert len((await early.ask("GET", "/os-hypervisors/host/search"))["hypervisors"]) == 1
    assert len((await early.ask("GET", "/os-hypervisors/host1/servers"))["hypervisors"][0]["servers"]) == 1
    for path in ("search", "servers"):
        await early.ask("GET", f"/os-hypervisors/nothing/{path}", status=404)
        await operator.ask("GET", f"/os-hypervisors/host1/{path}", status=404)


async def test_zones_are_those_of_the_hosts(member: Client, operator: Client) -> None:
    [zone] = (await member.ask("GET", "/os-availability-zone"))["availabilityZoneInfo"]
    assert zone == {"zoneName": "nova", "zoneState": {"available": True}, "hosts": None}
    [zone] = (await operator.ask("GET", "/os-availability-zone/detail"))["availabilityZoneInfo"]
    assert zone["hosts"]["host1"]["nova-compute"]["available"] is True
    await member.wait(await member.server(availability_zone="nova"), "ACTIVE")


async def test_versions_are_confirmed_or_refused(member: Client) -> None:
    async def get(path: str, headers: dict[str, str]) -> Any:
        return await member.http.get(path, headers={"X-Auth-Token": member.token, **headers})

    root = (await get("/compute", {})).json()["versions"]
    assert (root[0]["min_version"], root[0]["version"]) == ("2.1", "2.79")
    assert (await get("/compute/v2.1/", {})).json()["version"]["id"] == "v2.1"
    for headers, spoken in (
        ({}, "2.1"),
        ({"OpenStack-API-Version": "compute 2.50"}, "2.50"),
        ({"OpenStack-API-Version": "volume 3.1, compute 2.51"}, "2.51"),
        ({"OpenStack-API-Version": "volume 3.1"}, "2.1"),
        ({"X-OpenStack-Nova-API-Version": "2.52"}, "2.52"),
        ({"OpenStack-API-Version": "compute latest"}, "2.79"),
    ):
        answer = await get("/compute/v2.1/flavors", headers)
        assert answer.headers["OpenStack-API-Version"] == f"compute {spoken}"
        assert answer.headers["X-OpenStack-Nova-API-Version"] == spoken
        assert "OpenStack-API-Version" in answer.headers["Vary"]
    for version, status in (("2.80", 406), ("2.0", 406), ("3.1", 406), ("nonsense", 400), ("2", 400)):
        answer = await get("/compute/v2.1/flavors", {"OpenStack-API-Version": f"compute {version}"})
        assert answer.status_code == status
    assert (await member.ask("GET", "/extensions"))["extensions"] == []
    await member.ask("GET", "/extensions/os-flavor-rxtx", status=404)
