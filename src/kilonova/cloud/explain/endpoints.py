"""Who the ends of a packet are: what is asked by name, id or address, looked up with the eyes of the caller."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address

from sqlalchemy import ColumnElement, Connection, Table, or_, select

from kilonova.cloud.explain.question import OUTSIDE
from kilonova.context import Context
from kilonova.errors import BadRequest, Conflict, NotFound
from kilonova.network.ports import FLOATING_IP
from kilonova.network.texts import plain_address
from kilonova.store.schema import addresses, floating_ips, instances, networks, ports, projects

_LISTED = 5
METADATA = "169.254.169.254"


@dataclass(frozen=True)
class Endpoint:
    """One end. Without ports it is outside the cloud (or of no concern to the caller)."""

    label: str
    """As it was asked for."""
    ports: tuple[str, ...] = ()
    """Candidates; one of them will be the one."""
    address: str | None = None
    """The one that was asked for; a floating address stands for the port behind it."""
    floating: bool = False

    @property
    def is_outside(self) -> bool:
        return not self.ports and not self.floating and self.address != METADATA


class Lookup:
    """Looks up both ends in one transaction."""

    def __init__(self, tx: Connection, context: Context, project: str | None) -> None:
        self._tx = tx
        self._context = context
        self._project_id: str | None = None if context.is_admin else context.project_id
        if project is not None:
            wanted = self._project(project)
            if self._project_id not in (None, wanted):
                raise NotFound(f"project: {project} could not be found.")
            self._project_id = wanted

    def both(self, source: str, destination: str) -> tuple[Endpoint, Endpoint]:
        """Raises `NotFound`, `Conflict` for what is ambiguous, `BadRequest`, each naming the field."""
        ends = self._end("source", source), self._end("destination", destination)
        if all(end.is_outside for end in ends):
            raise NotFound(f"source, destination: neither {source} nor {destination} is anything of this cloud's.")
        if ends[0].address == METADATA:
            raise BadRequest(f"source: {METADATA} only answers; ask for it as the destination.")
        return ends

    def _project(self, name: str) -> str:
        query = select(projects.c.id).where(or_(projects.c.id == name, projects.c.name == name))
        found = self._tx.execute(query.limit(2)).scalars().all()
        if not found:
            raise NotFound(f"project: {name} could not be found.")
        if len(found) > 1:
            raise Conflict(f"project: several are named {name}; use the id.")
        return str(found[0])

    def _own(self, table: Table) -> list[ColumnElement[bool]]:
        return [] if self._project_id is None else [table.c.project_id == self._project_id]

    def _end(self, role: str, text: str) -> Endpoint:
        if text == OUTSIDE:
            return Endpoint(text)
        try:
            address = str(plain_address(text))
        except ValueError:
            return self._named(role, text)
        return self._addressed(role, address)

    def _named(self, role: str, text: str) -> Endpoint:
        named = or_(instances.c.id == text, instances.c.name == text)
        found = self._tx.execute(select(instances.c.id).where(named, *self._own(instances)).limit(_LISTED)).scalars()
        ids = found.all()
        if len(ids) > 1:
            raise Conflict(f"{role}: several servers are named {text} ({', '.join(ids)}); use an id or --project.")
        if ids:
            query = select(ports.c.id).where(ports.c.device_id == ids[0]).order_by(ports.c.position, ports.c.id)
            mine = tuple(self._tx.execute(query).scalars())
            if not mine:
                raise Conflict(f"{role}: server {text} has no port, so it has no network; `openstack server add port`.")
            return Endpoint(text, mine)
        port = self._tx.execute(select(ports.c.id).where(ports.c.id == text, *self._own(ports))).scalar_one_or_none()
        if port is None:
            raise NotFound(f"{role}: there is no server or port {text}; an address or `{OUTSIDE}` would do, too.")
        return Endpoint(text, (port,))

    def _addressed(self, role: str, address: str) -> Endpoint:
        end = Endpoint(address, address=address)
        if address == METADATA:
            return end
        floating = (
            select(floating_ips.c.fixed_port_id)
            .where(floating_ips.c.address == address)
            .where(*self._own(floating_ips))
        )
        row = self._tx.execute(floating).one_or_none()
        if row is not None:
            return replace(end, ports=(row[0],) if row[0] else (), floating=True)
        holders = (
            select(ports.c.id, ports.c.project_id, networks.c.name)
            .join(addresses, addresses.c.port_id == ports.c.id)
            .join(networks, networks.c.id == ports.c.network_id)
            .where(addresses.c.address == address, ports.c.device_owner != FLOATING_IP)
        )
        visible = or_(ports.c.project_id == self._project_id, networks.c.project_id == self._project_id)
        if self._project_id is not None:
            cloud_own = ports.c.device_owner.like("network:%") & networks.c.external.is_(False)
            holders = holders.where(or_(ports.c.project_id == self._project_id, visible & cloud_own))
        found = self._tx.execute(holders.order_by(ports.c.id).limit(_LISTED)).all()
        if len(found) > 1:
            whose = ", ".join(f"port {item[0]} (project {item[1]})" for item in found)
            raise Conflict(f"{role}: {address} is ambiguous: {whose}; use --project, or a port's id.")
        return replace(end, ports=(found[0][0],)) if found else end


def version_of(address: str) -> int:
    return ip_address(address).version


def common_version(source: Sequence[str], destination: Sequence[str]) -> int:
    """IPv4 if both ends have it, else IPv6 if both have that, else what the source has."""
    have = [{version_of(address) for address in side} for side in (source, destination)]
    both = have[0] & have[1]
    return min(both or have[0] or {4})
