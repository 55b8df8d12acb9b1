"""Which networks and ports a new server gets, decided inside the transaction that creates it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, or_, select, update

from kilonova.config import Config
from kilonova.context import Context
from kilonova.errors import BadRequest, Conflict, Forbidden
from kilonova.network.assignment import (
    FixedIp,
    ensure_default_group,
    ensure_project_network,
    make_port,
    project_network,
)
from kilonova.network.errors import IpAddressAlreadyAllocated, PortInUse
from kilonova.store import statements
from kilonova.store.schema import networks, ports, security_groups, subnets


@dataclass(frozen=True)
class Nic:
    """One interface that the caller asks for: a network, perhaps with an address of it, or a port of its own."""

    network_id: str | None = None
    port_id: str | None = None
    fixed_ip: str | None = None
    tag: str | None = None


NetworkChoice = Sequence[Nic] | Literal["auto", "none"] | None


@dataclass(frozen=True)
class Plan:
    """The interfaces of each server of a request, and the groups of the ports made for them."""

    nics: tuple[Nic, ...]
    group_ids: tuple[str, ...]
    config_drive: bool = False
    """Some network tells its guests nothing on the wire: they need a config drive, asked for or not."""


def plan_networks(
    tx: Connection, context: Context, config: Config, choice: NetworkChoice, group_names: Sequence[str]
) -> Plan:
    """Resolve what the caller said; a project without a network is given its own.

    Raises `BadRequest` for an unknown network, port or group, `Conflict` when several networks could be meant.
    """
    if choice == "none":
        return Plan((), ())
    if choice is None or choice == "auto":
        nics: tuple[Nic, ...] = (Nic(network_id=_only_network(tx, context, config)),)
    else:
        nics = tuple(choice)
        for nic in nics:
            _check(tx, context, nic)
    needs_groups = any(nic.port_id is None for nic in nics)
    groups = resolve_groups(tx, context, group_names) if needs_groups else ()
    return Plan(nics, groups, _without_dhcp(tx, nics))


def _without_dhcp(tx: Connection, nics: Sequence[Nic]) -> bool:
    """Has one of the networks a subnet that hands out no addresses?"""
    of_ports = select(ports.c.network_id).where(ports.c.id.in_([nic.port_id for nic in nics if nic.port_id]))
    used = or_(
        subnets.c.network_id.in_([nic.network_id for nic in nics if nic.network_id]),
        subnets.c.network_id.in_(of_ports),
    )
    silent = or_(subnets.c.enable_dhcp.is_(False), (subnets.c.ip_version == 6) & subnets.c.ipv6_address_mode.is_(None))
    return tx.execute(select(subnets.c.id).where(used, silent).limit(1)).first() is not None


def _only_network(tx: Connection, context: Context, config: Config) -> str:
    """The network of a server that names none: the one the project was given, its only one, or one it is given now."""
    assert context.project_id is not None
    given = project_network(tx, context.project_id)
    if given is not None:
        return str(given["id"])
    query = (
        select(networks.c.id)
        .where(networks.c.project_id == context.project_id, networks.c.external.is_(False))
        .where(networks.c.id.in_(select(subnets.c.network_id)))
        .order_by(networks.c.created_at)
    )
    own = tx.execute(query).all()
    if len(own) > 1:
        found = ", ".join(row.id for row in own)
        raise Conflict(f"Multiple possible networks found ({found}), use a Network ID to be more specific.")
    if own:
        return str(own[0].id)
    return str(ensure_project_network(tx, config, context.project_id, context)["id"])


def _check(tx: Connection, context: Context, nic: Nic) -> None:
    if nic.port_id is not None:
        port = tx.execute(select(ports.c.project_id, ports.c.device_id).where(ports.c.id == nic.port_id)).one_or_none()
        if port is None or (port.project_id != context.project_id and not context.is_admin):
            raise BadRequest(f"Port id {nic.port_id} could not be found.")
        if port.device_id:
            raise PortInUse(f"Port {nic.port_id} is still in use.")
        return
    network = statements.rows(tx, networks, id=nic.network_id).one_or_none()
    visible = network is not None and (
        network.project_id == context.project_id or network.shared or network.external or context.is_admin
    )
    if network is None or not visible:
        raise BadRequest(f"Network {nic.network_id} could not be found.")
    if nic.fixed_ip is not None and network.project_id != context.project_id and not context.is_admin:
        raise Forbidden(f"fixed_ip: only the owner of network {nic.network_id} chooses the address.")
    if network.external and not network.shared and not context.is_admin:
        raise Forbidden(f"It is not allowed to create an interface on external network {nic.network_id}")
    if statements.rows(tx, subnets, network_id=nic.network_id).first() is None:
        raise BadRequest(f"Network {nic.network_id} requires a subnet in order to boot instances on.")


def resolve_groups(tx: Connection, context: Context, wanted: Sequence[str]) -> tuple[str, ...]:
    """The ids of security groups given by name or id; none given: the project's default group."""
    assert context.project_id is not None
    chosen: dict[str, None] = {}
    for name in dict.fromkeys(wanted or ("default",)):
        if name == "default":
            chosen[ensure_default_group(tx, context.project_id)] = None
            continue
        query = select(security_groups.c.id).where(
            security_groups.c.project_id == context.project_id,
            or_(security_groups.c.id == name, security_groups.c.name == name),
        )
        found = list(tx.execute(query).scalars())
        if not found:
            raise BadRequest(f"Security group {name} not found for project {context.project_id}.")
        if name in found:
            chosen[name] = None
        elif len(found) > 1:
            raise Conflict(f"Multiple security groups found matching '{name}'. Use an ID to be more specific.")
        else:
            chosen[found[0]] = None
    return tuple(chosen)


def plug(tx: Connection, context: Context, plan: Plan, instance_id: str, zone: str) -> None:
    """Give an instance its ports, made or taken. Raises `NoMoreAddresses` and what `make_port` raises."""
    owner = f"compute:{zone}"
    for position, nic in enumerate(plan.nics):
        if nic.port_id is not None:
            taken = tx.execute(
                update(ports)
                .where(ports.c.id == nic.port_id, ports.c.device_id == "")
                .values(device_id=instance_id, device_owner=owner, position=position)
            )
            if not taken.rowcount:
                raise PortInUse(f"Port {nic.port_id} is still in use.")
            continue
        assert nic.network_id is not None
        assert context.project_id is not None
        try:
            make_port(
                tx,
                network_id=nic.network_id,
                project_id=context.project_id,
                device_id=instance_id,
                device_owner=owner,
                fixed_ips=None if nic.fixed_ip is None else (FixedIp(address=nic.fixed_ip),),
                security_groups=plan.group_ids,
                position=position,
                made_with_server=True,
            )
        except IpAddressAlreadyAllocated as error:
            raise BadRequest(f"Fixed IP address {nic.fixed_ip} is already in use: {error.message}") from None
