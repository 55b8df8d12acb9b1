"""Lists: filters, fields, order, pages with links; and queries that do not grow with the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from sqlalchemy import event

from kilonova.cloud.controller import Cloud

if TYPE_CHECKING:
    from .conftest import Caller
else:
    Caller = Any


async def names(caller: Caller, path: str = "/networks", key: str = "networks", **query: Any) -> list[str]:
    return [item["name"] for item in (await caller.ask("GET", path, **query))[key]]


async def make_networks(caller: Caller, *wanted: str) -> list[Any]:
    body = {"networks": [{"name": name} for name in wanted]}
    made: list[Any] = (await caller.ask("POST", "/networks", body, status=201))["networks"]
    return made


async def test_values_of_one_filter_are_alternatives_and_filters_add_up(member: Caller) -> None:
    made = await make_networks(member, "a", "b", "c")
    assert set(await names(member, name=["a", "c", "x"])) == {"a", "c"}
    assert await names(member, name=["a", "b"], id=made[1]["id"]) == ["b"]
    assert await names(member, admin_state_up="False") == []
    assert len(await names(member, tenant_id="p1")) == 3


async def test_an_unknown_filter_sort_key_or_marker_is_named(member: Caller) -> None:
    for query, word in (
        ({"colour": "red"}, "colour"),
        ({"sort_key": "colour"}, "colour"),
        ({"sort_key": "name", "sort_dir": "up"}, "up"),
        ({"marker": "nothing"}, "nothing"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"shared": "maybe"}, "shared"),
        ({"mtu": "large"}, "mtu"),
    ):
        answer = await member.ask("GET", "/networks", status=400, **query)
        assert word in answer["NeutronError"]["message"]


async def test_only_the_fields_asked_for_are_there(member: Caller) -> None:
    (made,) = await make_networks(member, "a")
    listed = await member.ask("GET", "/networks", fields=["id", "name"])
    assert listed["networks"] == [{"id": made["id"], "name": "a"}]
    shown = await member.ask("GET", f"/networks/{made['id']}", fields="mtu")
    assert shown["network"] == {"mtu": 1500}


async def test_ports_are_found_by_address_part_subnet_group_and_mac(member: Caller) -> None:
    network = await member.make("network")
    subnet = await member.make("subnet", network_id=network["id"], cidr="10.9.0.0/24", enable_dhcp=False)
    group = await member.make("security_group", name="g")
    one = await member.make("port", network_id=network["id"], name="one", security_groups=[group["id"]])
    await member.make("port", network_id=network["id"], name="two", fixed_ips=[{"ip_address": "10.9.0.77"}])

    async def found(**query: Any) -> list[str]:
        return await names(member, "/ports", "ports", **query)

    assert await found(fixed_ips="ip_address=10.9.0.77") == ["two"]
    assert await found(fixed_ips=["ip_address=10.9.0.77", f"subnet_id={subnet['id']}"]) == ["two"]
    assert await found(fixed_ips="ip_address_substr=.7") == ["two"]
    assert await found(security_groups=group["id"]) == ["one"]
    assert await found(mac_address=one["mac_address"].upper()) == ["one"]
    assert await found(device_id="", sort_key="name", sort_dir="desc") == ["two", "one"]


async def test_tags_are_listed_by(member: Caller) -> None:
    a, b, _ = await make_networks(member, "a", "b", "c")
    await member.ask("PUT", f"/networks/{a['id']}/tags", {"tags": ["red", "x%y"]})
    await member.ask("PUT", f"/networks/{b['id']}/tags/blue", status=201)
    assert await names(member, tags="red,x%y") == ["a"]
    assert await names(member, **{"tags-any": "red,blue"}) == ["a", "b"]
    assert await names(member, **{"not-tags-any": "red,blue"}) == ["c"]
    await member.refused("DELETE", f"/networks/{b['id']}/tags/green", status=404, kind="TagNotFound")
    await member.ask("DELETE", f"/networks/{a['id']}/tags", status=204)
    assert (await member.ask("GET", f"/networks/{a['id']}/tags"))["tags"] == []


@pytest.mark.parametrize(("limit", "descending"), [(1, False), (2, True), (3, False), (7, True)])
async def test_following_the_links_gives_every_row_once_and_back_again(
    member: Caller, limit: int, descending: bool
) -> None:
    wanted = ["a", "a", "b", "c", "c", "c", "d"]
    await make_networks(member, *wanted)
    query: dict[str, Any] = {"limit": limit, "sort_key": "name", "sort_dir": "desc" if descending else "asc"}
    pages: list[list[str]] = []
    previous: dict[str, Any] = {}
    while True:
        answer = await member.ask("GET", "/networks", **query)
        if not answer["networks"]:
            break
        pages.append([item["id"] for item in answer["networks"]])
        links = {link["rel"]: dict(parse_qsl(urlsplit(link["href"]).query)) for link in answer["networks_links"]}
        previous = links.get("previous", previous)
        if "next" not in links:
            break
        query = links["next"]
    seen = [item for page in pages for item in page]
    assert len(seen) == len(set(seen)) == len(wanted)
    order = await names(member, sort_key="name", sort_dir="desc" if descending else "asc")
    assert order == sorted(wanted, reverse=descending)
    if len(pages) > 1:
        answer = await member.ask("GET", "/networks", **previous)
        assert [item["id"] for item in answer["networks"]] == pages[-2]


async def test_the_number_of_queries_does_not_grow_with_the_rows(operator: Caller, world: Cloud) -> None:
    network = await operator.make("network")
    await operator.make("subnet", network_id=network["id"], cidr="10.9.0.0/24")
    public = (await operator.ask("GET", "/networks", **{"router:external": True}))["networks"][0]
    lists = (
        "/networks",
        "/subnets",
        "/ports",
        "/routers",
        "/security-groups",
        "/security-group-rules",
        "/floatingips",
        "/kilonova/pool-networks",
        "/kilonova/floating-ranges",
        "/network-ip-availabilities",
    )

    async def more(start: int, count: int) -> None:
        for i in range(start, start + count):
            await operator.make("port", network_id=network["id"])
            made = await operator.make("network")
            await operator.make("subnet", network_id=made["id"], cidr="10.8.0.0/24")
            await operator.make("router", external_gateway_info={"network_id": public["id"]})
            await operator.make("security_group", name=f"g{i}")
            await operator.make("floatingip", floating_network_id=public["id"])

    counted: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        counted.append(statement)

    async def queries() -> dict[str, int]:
        numbers = {}
        for path in lists:
            counted.clear()
            await operator.ask("GET", path)
            numbers[path] = len(counted)
        return numbers

    await more(0, 1)
    event.listen(world.store._reader, "before_cursor_execute", count)
    event.listen(world.store._writer, "before_cursor_execute", count)
    few = await queries()
    await more(1, 6)
    assert await queries() == few
    assert max(few.values()) <= 5
