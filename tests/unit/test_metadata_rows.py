"""The metadata of an instance, read from its rows."""

from __future__ import annotations

import base64

import pytest
from sqlalchemy import Connection, insert

from kilonova.errors import NotFound
from kilonova.metadata import Interface, InterfaceAddress, Route
from kilonova.store import schema
from kilonova.store.database import Store
from kilonova.store.metadata_rows import load_instance_metadata

PROJECT = {"project_id": "p1"}


def fill(tx: Connection) -> None:
    """An instance with two ports, the first with a group and a floating IP."""
    tx.execute(
        insert(schema.instances).values(
            id="i1",
            user_id="u1",
            name="Web One",
            hostname="web-one",
            flavor_id="1",
            flavor={"name": "m1.tiny"},
            vcpus=1,
            ram_mb=64,
            disk_gb=0,
            reservation_id="r-1",
            key_name="mine",
            public_key="ssh-ed25519 AAAA",
            user_data=base64.b64encode(b"#!/bin/sh\n").decode(),
            metadata={"role": "web"},
            **PROJECT,
        )
    )
    for number, dhcp in ((1, True), (2, False)):
        network = {"manager": "vlan", "physical_network": f"physnet{number}", "bridge": f"br{number}", "mtu": 1400}
        tx.execute(insert(schema.networks).values(id=f"n{number}", **network, **PROJECT))
        tx.execute(
            insert(schema.subnets).values(
                id=f"s{number}",
                network_id=f"n{number}",
                cidr=f"10.0.{number}.0/24",
                gateway_ip=f"10.0.{number}.1",
                enable_dhcp=dhcp,
                service_address=f"10.0.{number}.2",
                host_routes=[{"destination": "10.9.0.0/16", "nexthop": "10.0.1.9"}] if dhcp else [],
                **PROJECT,
            )
        )
        port = {"mac": f"fa:16:3e:00:00:0{number}", "device_id": "i1", "position": number}
        tx.execute(insert(schema.ports).values(id=f"port{number}-abcdefgh", network_id=f"n{number}", **port, **PROJECT))
        address = {"subnet_id": f"s{number}", "address": f"10.0.{number}.3", "network_id": f"n{number}"}
        tx.execute(insert(schema.addresses).values(port_id=f"port{number}-abcdefgh", **address))
    tx.execute(insert(schema.security_groups).values(id="g1", name="web", **PROJECT))
    tx.execute(insert(schema.port_security_groups).values(port_id="port1-abcdefgh", security_group_id="g1"))
    tx.execute(insert(schema.ports).values(id="fp", network_id="n2", mac="fa:16:3e:00:00:09", **PROJECT))
    floating = {"floating_network_id": "n2", "floating_port_id": "fp", "address": "203.0.113.9"}
    tx.execute(insert(schema.floating_ips).values(id="f1", fixed_port_id="port1-abcdefgh", **floating, **PROJECT))


@pytest.fixture
async def rows(store: Store) -> Store:
    await store.write(fill)
    return store


async def test_rows_become_the_documents_input(rows: Store) -> None:
    document = await rows.read(load_instance_metadata, "i1")
    assert (document.name, document.hostname, document.flavor_name) == ("Web One", "web-one", "m1.tiny")
    assert document.user_data == b"#!/bin/sh\n"
    assert document.security_groups == ("web",)
    assert document.public_ipv4 == "203.0.113.9"
    assert len(document.random_seed) == 512
    assert document.interfaces[0] == Interface(
        port_id="port1-abcdefgh",
        device="tapport1-abcde",
        mac="fa:16:3e:00:00:01",
        mtu=1400,
        network_id="n1",
        addresses=(
            InterfaceAddress(
                "10.0.1.3",
                24,
                "s1",
                gateway="10.0.1.1",
                nameservers=("10.0.1.2",),
                routes=(Route("10.9.0.0/16", "10.0.1.9"),),
            ),
        ),
    )
    assert document.interfaces[1].addresses[0].dhcp is False


async def test_unknown_instance_is_not_found(rows: Store) -> None:
    with pytest.raises(NotFound, match="i2"):
        await rows.read(load_instance_metadata, "i2")
