"""Removing a port: shared by the cloud controller and by the hosts that end what used it."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from kilonova.store import addresses, statements
from kilonova.store.schema import floating_ips, port_security_groups, ports, routers


def release_port(tx: Connection, port_id: str) -> list[str]:
    """Delete a port; answers the hosts whose network agents have something to forget.

    Its addresses are released, not freed. A floating IP on it loses its association. A port that is already gone is
    passed over.
    """
    port = statements.rows(tx, ports, id=port_id).one_or_none()
    if port is None:
        return []
    hosts = {port.host} | set(clear_floating(tx, port_id))
    addresses.release(tx, port_id, mac=port.mac, host=port.host)
    statements.remove(tx, port_security_groups, port_id=port_id)
    statements.remove(tx, ports, id=port_id)
    return sorted(host for host in hosts if host)


def clear_floating(tx: Connection, port_id: str, *, address: str | None = None) -> list[str]:
    """Take floating IPs off a port (or off one address of it); the network hosts whose routers translate for them."""
    where = [floating_ips.c.fixed_port_id == port_id]
    if address is not None:
        where.append(floating_ips.c.fixed_address == address)
    query = select(routers.c.host).join(floating_ips, floating_ips.c.router_id == routers.c.id).where(*where)
    hosts = [host for host in tx.execute(query).scalars() if host]
    cleared = {"fixed_port_id": None, "fixed_address": None, "router_id": None, "status": "DOWN"}
    tx.execute(update(floating_ips).where(*where).values(**cleared, revision=floating_ips.c.revision + 1))
    return hosts
