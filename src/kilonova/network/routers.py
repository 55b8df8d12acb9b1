"""The rows of routers: the ports by which a router stands in subnets and in an external network."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping, insert, select, update

from kilonova.ids import RouterId, new_id
from kilonova.network.ports import ROUTER_GATEWAY, ROUTER_INTERFACE, FixedIp, MadePort, make_port
from kilonova.store.ports import release_port
from kilonova.store.schema import networks, ports, routers


def insert_router(
    tx: Connection,
    *,
    project_id: str,
    name: str,
    host: str | None,
    is_default: bool = False,
    description: str = "",
    admin_state_up: bool = True,
) -> RouterId:
    router_id = RouterId(new_id())
    tx.execute(
        insert(routers).values(
            id=router_id,
            project_id=project_id,
            name=name,
            description=description,
            admin_state_up=admin_state_up,
            host=host,
            is_default=is_default,
        )
    )
    return router_id


def add_interface(tx: Connection, router: RowMapping, subnet: RowMapping, address: str) -> MadePort:
    """Put a router (a row of `routers`) into a subnet at an address, usually the subnet's gateway."""
    return make_port(
        tx,
        network_id=subnet["network_id"],
        project_id=router["project_id"],
        device_id=router["id"],
        device_owner=ROUTER_INTERFACE,
        host=router["host"] or "",
        fixed_ips=[FixedIp(subnet["id"], address)],
    )


def set_gateway(
    tx: Connection,
    router: RowMapping,
    external_network_id: str,
    *,
    fixed_ips: Sequence[FixedIp] | None = None,
    enable_snat: bool = True,
) -> MadePort:
    """Connect a router to an external network; its address there belongs to nobody's project, as its port does."""
    clear_gateway(tx, router["id"])
    made = make_port(
        tx,
        network_id=external_network_id,
        project_id="",
        device_id=router["id"],
        device_owner=ROUTER_GATEWAY,
        host=router["host"] or "",
        fixed_ips=fixed_ips,
        prefer_host=router["host"],
    )
    tx.execute(
        update(routers)
        .where(routers.c.id == router["id"])
        .values(external_network_id=external_network_id, enable_snat=enable_snat)
    )
    return made


def clear_gateway(tx: Connection, router_id: str) -> None:
    """Disconnect a router from its external network."""
    query = select(ports.c.id).where(ports.c.device_id == router_id, ports.c.device_owner == ROUTER_GATEWAY)
    for port_id in tx.execute(query).scalars().all():
        release_port(tx, port_id)
    tx.execute(update(routers).where(routers.c.id == router_id).values(external_network_id=None, enable_snat=True))


def external_network(tx: Connection) -> str | None:
    """The external network that default routers use: the oldest one."""
    query = select(networks.c.id).where(networks.c.external.is_(True)).order_by(networks.c.created_at, networks.c.id)
    found: str | None = tx.execute(query.limit(1)).scalar_one_or_none()
    return found


def router_row(tx: Connection, router_id: str) -> RowMapping:
    return tx.execute(select(routers).where(routers.c.id == router_id)).mappings().one()
