"""`audit` names whatever a hand changed or a crash left on a host, and what it names is gone after it was mended."""

from __future__ import annotations

import asyncio
from typing import Any

from kilonova.network.host import namespaces
from kilonova.network.host.processes import processes_in
from kilonova.network.plan import tap_name
from kilonova.store import schema

from .sixth import subnet6
from .world import Guest, World, until


class Audited:
    """A host with a network, a router, a guest and a floating IP."""

    def __init__(self, world: World, guest: Guest, floating: str) -> None:
        self.world = world
        self.guest = guest
        self.floating = floating

    async def audit(self, *, mend: bool = False) -> Any:
        args: dict[str, Any] = {"mend": mend}
        return await self.world.call("audit", **args)

    async def names(self, kind: str, *words: str) -> None:
        """It tells one such difference or leak, and after mending nothing at all."""
        found = await self.audit()
        told = [*found["drift"], *found["leaks"]]
        assert any(item["kind"] == kind and all(word in str(item) for word in words) for item in told), told
        after = await self.audit(mend=True)
        assert (after["drift"], after["leaks"], after["failures"]) == ([], [], {})


async def make(world: World) -> Audited:
    public = await world.public_network()
    network = await world.network(public=public)
    guest = await world.guest(network, 3, [await world.default_group(network.project_id)])
    floating = await world.floating_ip(public, 50, guest)
    await world.look()
    audited = Audited(world, guest, floating)
    found = await audited.audit()
    assert (found["drift"], found["leaks"], found["host"]) == ([], [], "host1")
    return audited


async def test_drift_of_the_switch(world: World) -> None:
    audited = await make(world)
    guest, network = audited.guest, audited.guest.network
    tap = tap_name(guest.port_id)

    world.inside(world.switch, "ip", "link", "set", tap, "down")
    await audited.names("link", tap, "down")
    world.inside(world.switch, "ip", "link", "set", tap, "nomaster")
    await audited.names("link", tap, "on no bridge")
    world.inside(world.switch, "ip", "link", "set", network.bridge, "mtu", "1400")
    await audited.names("link", network.bridge, "mtu 1400")
    world.inside(world.switch, "ip", "link", "add", "stray", "type", "bridge")
    world.inside(world.switch, "ip", "link", "set", "stray", "alias", "kilonova:nobody")
    await audited.names("link", "stray")
    world.inside(
        world.switch, "nft", "delete", "element", "bridge", "kn_l2", "dst_ok", f'{{ "{tap}" . {guest.address} }}'
    )
    await audited.names("element", "kn_l2 dst_ok", guest.address)
    world.inside(world.switch, "nft", "add", "element", "bridge", "kn_l2", "dst_ok", f'{{ "{tap}" . 10.9.9.9 }}')
    await audited.names("element", "kn_l2 dst_ok", "10.9.9.9")
    world.inside(world.switch, "nft", "insert", "rule", "inet", "kn_sg", "sg_ingress", "drop")
    await audited.names("chain", "kn_sg sg_ingress", "foreign")
    world.inside(world.switch, "nft", "flush", "chain", "bridge", "kn_l2", "pre")
    await audited.names("chain", "kn_l2 pre", "missing")


async def test_drift_of_routers_and_services(world: World) -> None:
    audited = await make(world)
    network = audited.guest.network
    prefix, directory = world.config.host.prefix, world.config.state_dir / "network" / network.id
    router, service = f"{prefix}-r-{network.router_id[:11]}", f"{prefix}-s-{network.id[:11]}"

    world.inside(router, "ip", "route", "add", "192.0.2.0/24", "via", "203.0.113.9")
    await audited.names("route", "192.0.2.0/24")
    world.inside(router, "ip", "addr", "del", f"{audited.floating}/32", "dev", "pub0")
    await audited.names("link", "pub0", f"without {audited.floating}/32")
    world.inside(router, "nft", "delete", "element", "ip", "kn_nat", "fip", f"{{ {audited.floating} }}")
    await audited.names("element", "kn_nat fip", audited.floating)
    namespaces.delete(router)
    await audited.names("chain", router, "kn_nat pre")
    (directory / "hosts" / f"{audited.guest.port_id}-{audited.guest.address}").unlink()
    await audited.names("file", audited.guest.address)
    process = int((directory / "pid").read_text())
    world.inside(service, "kill", str(process))
    until(lambda: process not in processes_in(service), "end of dnsmasq")
    await audited.names("process", "dnsmasq")


async def test_leaks(world: World) -> None:
    audited = await make(world)
    stray = f"{world.config.host.prefix}-r-00000000-00"
    namespaces.create(stray, lambda: None)
    await audited.names("namespace", stray)
    assert not namespaces.exists(stray)

    gone = world.config.state_dir / "network" / "11111111-0000-4000-8000-000000000000"
    (gone / "hosts").mkdir(parents=True)
    await audited.names("file", gone.name)
    assert not gone.exists()


async def test_announcements_and_strange_daemons(world: World) -> None:
    public = await world.public_network()
    network = await world.network(public=public)
    await subnet6(world, network, "fd00:5::/64", "slaac", router_id=network.router_id)
    guest = await world.guest(network, 3, [await world.default_group(network.project_id)])
    audited = Audited(world, guest, "")
    assert (await audited.audit())["drift"] == []
    prefix, directory = world.config.host.prefix, world.config.state_dir / "routers" / network.router_id
    router, service = f"{prefix}-r-{network.router_id[:11]}", f"{prefix}-s-{network.id[:11]}"

    world.inside(router, "kill", (directory / "pid").read_text().strip())
    until(lambda: not list(processes_in(router)), "end of radvd", 20)
    await audited.names("process", "radvd")

    (announced,) = directory.glob("radvd-*.conf")
    (served,) = (world.config.state_dir / "network" / network.id).glob("dnsmasq-*.conf")
    for file, program in ((announced, "radvd"), (served, "dnsmasq")):
        text = file.read_text()
        file.write_text(f"# by hand\n{text}")
        await audited.names("file", f"{program}.conf", "edited")
        assert file.read_text() == text

    stranger = world.background(service, "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0")
    until(lambda: len(list(processes_in(service))) == 2, "the second dnsmasq")
    await audited.names("process", str(stranger.pid))
    assert stranger.wait(5) is not None


async def test_what_is_pending_is_no_drift(world: World) -> None:
    """The rows changed a moment ago and nobody told the agent: it does that first."""
    audited = await make(world)
    await world.update(schema.ports, audited.guest.port_id, admin_state_up=False)
    found = await audited.audit()
    assert found["drift"] == []
    assert "DOWN" in world.inside(world.switch, "ip", "-br", "link", "show", tap_name(audited.guest.port_id))


async def test_a_dry_run_changes_nothing(world: World) -> None:
    audited = await make(world)
    tap = tap_name(audited.guest.port_id)
    world.inside(world.switch, "ip", "link", "set", tap, "down")
    first, second = await asyncio.gather(audited.audit(), audited.audit())
    assert first["drift"] == second["drift"] != []
