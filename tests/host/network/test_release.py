"""An address is free only after everything on the host has forgotten it; deleted things leave nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kilonova.errors import CommandFailed
from kilonova.network.host import namespaces
from kilonova.network.host.processes import processes_in
from kilonova.network.host.radvd import Radvd
from kilonova.network.host.removal import remove_everything
from kilonova.network.plan import tap_name
from kilonova.store import schema

from .world import World, inspect_namespace


async def test_address_is_not_reusable_before_it_is_forgotten(world: World) -> None:
    network = await world.network()
    guest = await world.port(network, 3, [await world.default_group(network.project_id)])
    await world.wire(guest)
    assert await world.dhcp(guest) == "10.0.0.3"
    await world.delete_port(guest.port_id)

    assert await world.rows(schema.reusable_addresses) == []
    await world.look()

    assert [row["address"] for row in await world.rows(schema.reusable_addresses)] == ["10.0.0.3"]
    assert tap_name(guest.port_id) not in inspect_namespace(world.switch).links
    assert "10.0.0.3" not in str(inspect_namespace(world.switch).elements)


async def test_released_address_is_leased_to_the_next_port_at_once(world: World) -> None:
    network = await world.network()
    first = await world.port(network, 3)
    await world.wire(first)
    assert await world.dhcp(first) == "10.0.0.3"
    await world.delete_port(first.port_id)
    await world.look()

    second = await world.port(network, 3)
    await world.wire(second)

    assert await world.dhcp(second) == "10.0.0.3"


async def test_address_held_by_two_hosts_is_handed_on_to_the_network_host(world: World) -> None:
    network = await world.network()
    guest = await world.port(network, 3)
    await world.wire(guest)
    await world.update(schema.networks, network.id, host="elsewhere")
    await world.delete_port(guest.port_id)

    await world.look()

    (released,) = [row for row in await world.rows(schema.addresses) if row["port_id"] is None]
    assert released["released_host"] == "elsewhere"
    assert await world.rows(schema.reusable_addresses) == []


async def test_released_pool_network_is_free_once_the_host_has_forgotten_it(world: World) -> None:
    network = await world.network()
    await world.call("realise", network_id=network.id)
    service = f"{world.config.host.prefix}-s-{network.id[:11]}"
    assert namespaces.exists(service)
    await world.delete_network(network, pool=True)

    await world.look()

    (pool,) = await world.rows(schema.pool_networks)
    assert pool["released_at"] is None
    assert pool["project_id"] is None
    assert not namespaces.exists(service)
    assert network.bridge not in inspect_namespace(world.switch).links
    assert not (world.config.state_dir / "network" / network.id).exists()


async def test_remove_everything_leaves_nothing(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    await world.guest(network, 3, [await world.default_group(network.project_id)])
    service = f"{world.config.host.prefix}-s-{network.id[:11]}"
    assert len(list(processes_in(service))) == 1
    await world.agent.stop()

    removed = remove_everything(world.config)

    prefix = world.config.host.prefix
    left = [name for name in namespaces.names(prefix) if not name.startswith(f"{prefix}-g-")]
    assert left == []
    assert any(prefix in name for name in removed)
    assert remove_everything(world.config) == []


async def test_other_clouds_of_the_machine_are_left_alone(world: World) -> None:
    stranger = replace(world.config, host=replace(world.config.host, prefix=world.config.host.prefix + "x"))
    namespaces.create(f"{stranger.host.prefix}-switch", lambda: None)
    try:
        remove_everything(world.config)
        await world.restart_agent()

        assert namespaces.exists(f"{stranger.host.prefix}-switch")
    finally:
        namespaces.delete(f"{stranger.host.prefix}-switch")


async def test_a_router_that_cannot_announce_keeps_no_address_from_becoming_free(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = await world.network()
    guest = await world.port(network, 3)
    public = await world.public_network()
    broken = await world.network("10.1.0.0/24", public=public)
    await world.wire(guest)

    def refuses(*_: object) -> list[str]:
        raise CommandFailed("radvd: no")

    monkeypatch.setattr(Radvd, "ensure", refuses)
    await world.delete_port(guest.port_id)
    world.agent._look = True
    assert (await world.call("look_again"))["failures"] == {broken.router_id: "radvd: no"}

    assert [row["address"] for row in await world.rows(schema.reusable_addresses)] == [guest.address]
