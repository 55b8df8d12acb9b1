"""`POST /kilonova/explanations` and `/kilonova/audits`: who may ask what, and what a bad question is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Connection, insert

from kilonova.bus.local import LocalBus
from kilonova.cloud.controller import Cloud
from kilonova.config import Config, HostConfig
from kilonova.network.agent import NetworkAgent
from kilonova.store.schema import domains, projects

if TYPE_CHECKING:
    from .conftest import Caller
else:
    Caller = Any

PATH = "/kilonova/explanations"


@pytest.fixture
async def agent(world: Cloud, bus: LocalBus, tmp_path: Path) -> AsyncIterator[NetworkAgent]:
    """The simulated network agent of host1."""
    agent = NetworkAgent(world.store, bus, Config(state_dir=tmp_path, host=HostConfig(name="host1", simulate=True)))
    await agent.start()
    yield agent
    await agent.stop()


@pytest.fixture
async def ends(member: Caller, agent: NetworkAgent) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two bound ports of the member's network."""
    network = (await member.ask("GET", "/auto-allocated-topology/p1"))["auto_allocated_topology"]["id"]
    made = [await member.make("port", network_id=network) for _ in range(2)]
    return made[0], made[1]


async def bind(operator: Caller, port: dict[str, Any]) -> None:
    await operator.ask("PUT", f"/ports/{port['id']}", {"port": {"binding:host_id": "host1"}})


async def explained(caller: Caller, source: str, destination: str, **more: Any) -> Any:
    body = {"explanation": {"source": source, "destination": destination, **more}}
    return (await caller.ask("POST", PATH, body))["explanation"]


async def test_a_member_is_told_about_its_own_ports(
    member: Caller, operator: Caller, ends: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    one, other = ends
    found = await explained(member, one["id"], other["id"])
    assert (found["verdict"], found["hop"]) == ("dropped", "source port")
    assert found["command"] == f"openstack server add port SERVER {one['id']}"
    for port in ends:
        await bind(operator, port)
    address = other["fixed_ips"][0]["ip_address"]
    for destination in (other["id"], address):
        found = await explained(member, one["id"], destination, traffic="80/tcp")
        assert found["verdict"] == "arrives", found["conclusion"]
    assert found["conclusion"].endswith("should arrive")
    hop = next(item for item in found["hops"] if item["name"] == "ingress group")
    assert set(hop) == {"name", "where", "direction", "intent", "actual", "verdict", "why", "command"}
    assert "host1" not in str(found)
    assert "host1" in str(await explained(operator, one["id"], other["id"]))
    found = await explained(member, "outside", other["id"], traffic="22/tcp")
    assert (found["verdict"], found["hop"]) == ("dropped", "floating IP")


async def test_what_is_anothers_is_not_there(
    member: Caller, other: Caller, reader: Caller, ends: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    one, two = ends
    address = one["fixed_ips"][0]["ip_address"]
    for source, destination in ((one["id"], two["id"]), (address, "outside"), ("outside", address)):
        body = {"explanation": {"source": source, "destination": destination}}
        said = await other.refused("POST", PATH, body, status=404)
        assert "network" not in said
    body = {"explanation": {"source": one["id"], "destination": two["id"], "project": "p2"}}
    await member.refused("POST", PATH, body, status=404)
    await reader.refused("POST", PATH, {"explanation": {"source": one["id"], "destination": "outside"}}, status=403)


async def test_an_administrator_names_the_project(
    world: Cloud, operator: Caller, ends: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    def rows(tx: Connection) -> None:
        tx.execute(insert(domains).values(id="d", name="d"))
        tx.execute(insert(projects).values(id="p1", domain_id="d", parent_id="d", name="first"))

    await world.store.write(rows)
    one, two = ends
    for name in ("p1", "first"):
        assert (await explained(operator, one["id"], two["id"], project=name))["hops"]
    body = {"explanation": {"source": one["id"], "destination": two["id"], "project": "nothing"}}
    assert "project" in await operator.refused("POST", PATH, body, status=404)


@pytest.mark.parametrize(
    ("fields", "status", "word"),
    [
        ({"traffic": "80/carrier-pigeon"}, 400, "traffic"),
        ({"traffic": "tcp"}, 400, "80/tcp"),
        ({"destination": ""}, 400, "destination"),
        ({"source": "x" * 300}, 400, "source"),
        ({"source_address": "nowhere"}, 400, "source_address"),
        ({"source_address": "fe80::1%eth0"}, 400, "source_address"),
        ({"colour": "red"}, 400, "colour"),
        ({"destination": "nobody"}, 404, "destination"),
        ({"source": "outside"}, 404, "neither"),
        ({"source": "169.254.169.254"}, 400, "only answers"),
    ],
)
async def test_a_bad_question_is_told_what_is_wrong(
    operator: Caller,
    ends: tuple[dict[str, Any], dict[str, Any]],
    fields: dict[str, Any],
    status: int,
    word: str,
) -> None:
    body = {"explanation": {"source": ends[0]["id"], "destination": "outside", **fields}}
    assert word in await operator.refused("POST", PATH, body, status=status)


async def test_a_name_or_an_address_that_several_have(operator: Caller, world: Cloud, agent: NetworkAgent) -> None:
    for _ in range(2):
        network = await operator.make("network", name="n")
        await operator.make("subnet", network_id=network["id"], cidr="192.168.7.0/24", ip_version=4)
        last = await operator.make("port", network_id=network["id"], fixed_ips=[{"ip_address": "192.168.7.9"}])
    body = {"explanation": {"source": "192.168.7.9", "destination": "outside"}}
    assert last["id"] in await operator.refused("POST", PATH, body, status=409)


async def test_only_administrators_audit(operator: Caller, member: Caller, agent: NetworkAgent) -> None:
    await member.refused("POST", "/kilonova/audits", {"audit": {}}, status=403)
    for mend in (False, True):
        found = (await operator.ask("POST", "/kilonova/audits", {"audit": {"mend": mend}}))["audit"]
        (host,) = found["hosts"]
        assert (found["rows"], host["host"], host["drift"], host["leaks"], host["error"]) == ([], "host1", [], [], None)
