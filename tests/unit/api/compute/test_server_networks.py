"""Which networks, ports, addresses and images a new server may have."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection, insert, select, update

from kilonova.ids import new_id
from kilonova.network.groups import insert_group
from kilonova.network.ports import make_port
from kilonova.network.subnets import insert_subnet, network_row
from kilonova.store import schema
from kilonova.store.database import Store

Client = Any
MakeClient = Any
IMAGE = "11111111-1111-4111-8111-111111111111"


def add_network(
    tx: Connection, name: str, project_id: str = "p1", *, cidr: str = "", dhcp: bool = True, **values: Any
) -> str:
    network_id = new_id()
    row = {"id": network_id, "project_id": project_id, "name": name, "manager": "vlan", "physical_network": name}
    tx.execute(insert(schema.networks).values(**row | {"bridge": f"br{name}"} | values))
    if cidr:
        network = ip_network(cidr)
        insert_subnet(
            tx,
            network=network_row(tx, network_id),
            project_id=project_id,
            cidr=network,
            gateway=network[1],
            enable_dhcp=dhcp,
        )
    return network_id


def add_port(tx: Connection, network_id: str, project_id: str = "p1") -> str:
    return str(make_port(tx, network_id=network_id, project_id=project_id).id)


async def test_the_only_network_is_meant_and_several_are_not(member: Client, store: Store) -> None:
    first = await store.write(lambda tx: add_network(tx, "one", cidr="192.168.1.0/24"))
    assert list((await member.wait(await member.server(), "ACTIVE"))["addresses"]) == ["one"]
    second = await store.write(lambda tx: add_network(tx, "two", cidr="192.168.2.0/24"))
    message = await member.server(status=409)
    assert first in message
    assert second in message
    server = await member.wait(await member.server(networks=[{"uuid": second}, {"uuid": first}]), "ACTIVE")
    assert list(server["addresses"]) == ["two", "one"]


async def test_an_address_may_be_asked_for_once(member: Client, store: Store) -> None:
    network = await store.write(lambda tx: add_network(tx, "one", cidr="192.168.1.0/24"))
    wanted = [{"uuid": network, "fixed_ip": "192.168.1.77"}]
    server = await member.wait(await member.server(networks=wanted), "ACTIVE")
    assert server["addresses"]["one"][0]["addr"] == "192.168.1.77"
    assert "already in use" in await member.server(status=400, networks=wanted)
    assert "one server only" in await member.server(status=400, networks=wanted, min_count=2)
    for address in ("10.1.1.1", "nonsense"):
        await member.server(status=400, networks=[{"uuid": network, "fixed_ip": address}])


async def test_a_port_is_taken_and_given_back(member: Client, store: Store) -> None:
    network = await store.write(lambda tx: add_network(tx, "one", cidr="192.168.1.0/24"))
    port = await store.write(add_port, network)
    server_id = await member.server(networks=[{"port": port}])
    await member.wait(server_id, "ACTIVE")
    assert "still in use" in await member.server(status=409, networks=[{"port": port}])
    assert "Duplicate" in await member.server(status=400, networks=[{"port": port}, {"port": port}])
    await member.server(status=400, networks=[{"port": port, "fixed_ip": "192.168.1.9"}])
    await member.server(status=400, networks=[{}])
    await member.ask("DELETE", f"/servers/{server_id}", status=204)
    await member.wait_gone(server_id)

    def holder(tx: Connection) -> Any:
        query = select(schema.ports.c.device_id, schema.ports.c.host).where(schema.ports.c.id == port)
        return tuple(tx.execute(query).one())

    assert await store.read(holder) == ("", "")


async def test_networks_of_others_are_not_there(member: Client, operator: Client, store: Store) -> None:
    theirs = await store.write(lambda tx: add_network(tx, "theirs", "p2", cidr="192.168.3.0/24"))
    port = await store.write(add_port, theirs, "p2")
    shared = await store.write(lambda tx: add_network(tx, "shared", "p2", cidr="192.168.4.0/24", shared=True))
    outside = await store.write(lambda tx: add_network(tx, "outside", "p2", cidr="192.168.5.0/24", external=True))
    empty = await store.write(lambda tx: add_network(tx, "empty"))
    assert "could not be found" in await member.server(status=400, networks=[{"uuid": theirs}])
    assert "could not be found" in await member.server(status=400, networks=[{"port": port}])
    assert "not allowed" in await member.server(status=403, networks=[{"uuid": outside}])
    assert "requires a subnet" in await member.server(status=400, networks=[{"uuid": empty}])
    await member.wait(await member.server(networks=[{"uuid": shared}]), "ACTIVE")
    wanted = [{"uuid": shared, "fixed_ip": "192.168.4.9"}]
    assert "only the owner" in await member.server(status=403, networks=wanted)


async def test_a_server_that_no_dhcp_serves_gets_a_config_drive_unasked(member: Client, store: Store) -> None:
    silent = await store.write(lambda tx: add_network(tx, "silent", cidr="192.168.6.0/24", dhcp=False))
    served = await store.write(lambda tx: add_network(tx, "served", cidr="192.168.7.0/24"))
    port = await store.write(add_port, silent)
    for networks, drive in (
        ([{"uuid": served}], ""),
        ([{"uuid": silent}], "True"),
        ([{"uuid": served}, {"uuid": silent}], "True"),
        ([{"uuid": served}, {"port": port}], "True"),
    ):
        server = await member.wait(await member.server(networks=networks), "ACTIVE")
        assert server["config_drive"] == drive, networks


async def test_a_server_has_a_bounded_number_of_interfaces(member: Client) -> None:
    networks = [{"port": str(uuid4())} for _ in range(33)]
    assert "33 interfaces" in await member.server(status=400, networks=networks)


async def test_groups_are_named_without_doubt(member: Client, store: Store) -> None:
    web = await store.write(insert_group, "p1", "web")
    server = await member.wait(await member.server(security_groups=[{"name": "web"}]), "ACTIVE")
    assert server["security_groups"] == [{"name": "web"}]
    await store.write(insert_group, "p1", "web")
    assert "Multiple security groups" in await member.server(status=409, security_groups=[{"name": "web"}])
    server = await member.wait(await member.server(security_groups=[{"name": str(web)}]), "ACTIVE")
    assert server["security_groups"] == [{"name": "web"}]


async def test_a_pool_without_a_network_left_refuses_the_server(client_of: MakeClient, store: Store) -> None:
    for number in range(4):
        await client_of("member", project_id=f"q{number}").server()
    assert "No more networks available" in await client_of("member", project_id="q5").server(status=409)


async def test_the_image_must_be_ready_visible_and_fit(member: Client, client_of: MakeClient, store: Store) -> None:
    async def change(**values: Any) -> None:
        where = schema.images.c.id == IMAGE
        await store.write(lambda tx: tx.execute(update(schema.images).where(where).values(**values)) and None)

    for values, words in (
        ({"status": "queued"}, "is not active"),
        ({"status": "active", "min_ram_mb": 4096}, "memory is too small"),
        ({"min_ram_mb": 0, "min_disk_gb": 9}, "smaller than the minimum"),
        ({"min_disk_gb": 0, "virtual_size_bytes": 2**31}, "disk is too small"),
    ):
        await change(**values)
        assert words in await member.server(status=400)
    await change(virtual_size_bytes=None, visibility="shared")
    await member.server()
    stranger = client_of("member", user_id="u2", project_id="p2")
    assert "Can not find requested image" in await stranger.server(status=400)
    share = {"image_id": IMAGE, "project_id": "p2", "status": "accepted"}
    await store.write(lambda tx: tx.execute(insert(schema.image_members).values(**share)) and None)
    await stranger.server()


async def test_a_device_mapping_that_says_the_same_as_the_image_is_fine(member: Client) -> None:
    device = {"boot_index": 0, "source_type": "image", "destination_type": "local", "uuid": IMAGE}
    await member.server(block_device_mapping_v2=[device])
    await member.server(block_device_mapping_v2=[device], imageRef="")
    other = device | {"uuid": new_id()}
    assert "must match" in await member.server(status=400, block_device_mapping_v2=[other])
    await member.server(status=400, block_device_mapping=[{"volume_id": "x"}])
    await member.server(status=400, trusted_image_certificates=["x"])


async def test_an_administrator_names_the_host(operator: Client, member: Client) -> None:
    by_zone = await operator.wait(await operator.server(availability_zone="nova:host1"), "ACTIVE")
    by_host = await operator.wait(await operator.server(host="host1"), "ACTIVE")
    assert by_zone["OS-EXT-SRV-ATTR:host"] == by_host["OS-EXT-SRV-ATTR:host"] == "host1"
    assert "host9 could not be found" in await operator.server(status=400, host="host9")


async def test_what_is_sent_comes_back(member: Client, operator: Client) -> None:
    sent = {"user_data": "aGVsbG8=", "config_drive": "true", "accessIPv6": "2001:db8::1", "OS-DCF:diskConfig": "AUTO"}
    server_id = await member.server(**sent, description="d", adminPass="secret")
    shown = (await operator.ask("GET", f"/servers/{server_id}"))["server"]
    assert shown["OS-EXT-SRV-ATTR:user_data"] == "aGVsbG8="
    assert (shown["config_drive"], shown["accessIPv6"], shown["OS-DCF:diskConfig"]) == ("True", "2001:db8::1", "AUTO")
    changed = {"OS-DCF:diskConfig": "MANUAL", "accessIPv6": "", "description": None}
    shown = (await member.ask("PUT", f"/servers/{server_id}", {"server": changed}))["server"]
    assert (shown["OS-DCF:diskConfig"], shown["accessIPv6"], shown["description"]) == ("MANUAL", "", None)
