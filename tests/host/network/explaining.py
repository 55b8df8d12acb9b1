"""A cloud for `kilonova explain` on a real kernel: the use case itself, asked as the administrator or as a member."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kilonova.cloud.controller import Cloud
from kilonova.cloud.explain import explain
from kilonova.cloud.explain.question import Question, parse_traffic
from kilonova.context import Context, system_context
from kilonova.ids import ProjectId, new_request_id
from kilonova.network.plan import tap_name
from kilonova.store import schema

from .world import Guest, Network, World


@dataclass
class Scene:
    """Two guests of one network, one of another network of the same router, one of another project."""

    world: World
    public: Network
    network: Network
    web: Guest
    client: Guest
    far: Guest
    stranger: Guest
    floating: str
    group: str
    tcp_rule: str

    async def ask(
        self, source: str | Guest, destination: str | Guest, traffic: str = "icmp", *, member: str = "", **more: Any
    ) -> dict[str, Any]:
        cloud = Cloud(self.world.store, self.world.bus, self.world.config)
        context = system_context()
        if member:
            roles = frozenset({"member"})
            context = Context(request_id=new_request_id(), project_id=ProjectId(member), roles=roles)
        start, end = (each.instance_id if isinstance(each, Guest) else each for each in (source, destination))
        return await explain(cloud, context, Question(start, end, parse_traffic(traffic), **more))

    async def arrives(self, source: str | Guest, destination: str | Guest, traffic: str = "icmp") -> dict[str, Any]:
        found = await self.ask(source, destination, traffic)
        assert found["verdict"] == "arrives", words(found)
        return found

    async def dropped(
        self, hop: str, why: str, source: str | Guest, destination: str | Guest, traffic: str = "icmp", **more: Any
    ) -> dict[str, Any]:
        """It is dropped at this hop, and this is in the conclusion."""
        found = await self.ask(source, destination, traffic, **more)
        assert (found["verdict"], found["hop"]) == ("dropped", hop), words(found)
        assert why in found["conclusion"], words(found)
        return found

    def switch(self, *argv: str) -> str:
        return self.world.inside(self.world.switch, *argv)

    def nft(self, verb: str, what: str) -> None:
        """In the switch namespace."""
        self.switch("nft", verb, "element", *what.split())

    def router(self, *argv: str) -> str:
        return self.world.inside(self.router_namespace, *argv)

    @property
    def router_namespace(self) -> str:
        return f"{self.world.config.host.prefix}-r-{self.network.router_id[:11]}"

    async def mend(self) -> None:
        """What the timer would do; the packets arrive again."""
        await self.world.look_at_host()
        await self.arrives(self.client, self.web, "80/tcp")


def words(found: dict[str, Any]) -> str:
    """An explanation, for who reads a failed test."""
    lines = [
        f"{hop['verdict']:8} {hop['direction']:8} {hop['name']} [{hop['where']}] {hop['intent']} | {hop['actual']} | "
        f"{hop['why']}"
        for hop in found["hops"]
    ]
    return "\n".join([*lines, found["conclusion"]])


def tap(guest: Guest) -> str:
    return tap_name(guest.port_id)


async def leased(world: World, network: Network, offset: int, group: str) -> Guest:
    """A guest that has its address by DHCP, as guests have."""
    guest = await world.port(network, offset, [group])
    await world.wire(guest)
    assert await world.dhcp(guest) == guest.address
    return guest


async def make_scene(world: World) -> Scene:
    public = await world.public_network()
    network = await world.network("10.0.0.0/24", public=public)
    group = await world.default_group(network.project_id)
    await world.rule(group, protocol="icmp")
    tcp_rule = await world.rule(group, protocol="tcp", port_range_min=80, port_range_max=80)
    web, client = await leased(world, network, 3, group), await leased(world, network, 4, group)
    near = await world.network("10.0.1.0/24", project=network.project_id)
    await world.attach(near, network.router_id)
    far = await leased(world, near, 3, group)
    others = await world.network("10.0.2.0/24", public=public)
    stranger = await leased(world, others, 3, await world.default_group(others.project_id))
    floating = await world.floating_ip(public, 50, web)
    for guest in (web, client, far, stranger):
        await world.update(schema.instances, guest.instance_id, vm_state="active", power_state=1)
    await world.look()
    return Scene(world, public, network, web, client, far, stranger, floating, group, tcp_rule)
