"""After a change exactly the hosts that it concerns are told to look again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from kilonova.cloud.controller import Cloud

if TYPE_CHECKING:
    from .conftest import Caller, Woken
else:
    Caller = Woken = Any


async def told(woken: Woken) -> set[str]:
    """The casts of the in-process bus are delivered by tasks that are ready by now."""
    for _ in range(20):
        await asyncio.sleep(0)
    return woken.take()


async def test_hosts_are_woken(operator: Caller, world: Cloud, woken: Woken) -> None:
    assert await told(woken) == {"host1"}, "the floating range of the fixture"
    network = await operator.make("network")
    assert await told(woken) == set()
    await operator.make("subnet", network_id=network["id"], cidr="10.9.0.0/24")
    assert await told(woken) == {"host1"}
    a = await operator.make("security_group", name="a")
    b = await operator.make("security_group", name="b")
    assert await told(woken) == set()
    at = {"network_id": network["id"]}
    first = await operator.make("port", **at, security_groups=[a["id"]], **{"binding:host_id": "compute1"})
    assert await told(woken) == {"host1", "compute1"}
    await operator.make("port", **at, security_groups=[b["id"]], **{"binding:host_id": "compute2"})
    assert await told(woken) == {"host1", "compute2"}
    rule = {"security_group_id": b["id"], "direction": "ingress", "remote_group_id": a["id"]}
    await operator.make("security_group_rule", **rule)
    assert await told(woken) == {"compute2"}
    # compute2 knows the members of group a by a rule of its own group.
    await operator.ask("DELETE", f"/ports/{first['id']}", status=204)
    assert await told(woken) == {"host1", "compute1", "compute2"}
    router = await operator.make("router")
    assert await told(woken) == {"host1"}
    await operator.ask("PUT", f"/routers/{router['id']}", {"router": {"admin_state_up": False}})
    assert await told(woken) == {"host1"}
