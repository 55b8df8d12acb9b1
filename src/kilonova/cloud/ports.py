"""Ports as clients of the network API see and change them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, bindparam, delete, or_, select, update

from kilonova.cloud import network_hosts
from kilonova.cloud.controller import Cloud
from kilonova.cloud.network_lists import (
    STANDARD_COLUMNS,
    Document,
    Resource,
    get,
    get_own,
    owner_of,
    show,
    standard,
)
from kilonova.cloud.networks import NETWORKS
from kilonova.cloud.subnets import overlap
from kilonova.context import Context
from kilonova.errors import BadRequest, Forbidden
from kilonova.network.addresses import parsed
from kilonova.network.dhcp_options import changed_options
from kilonova.network.errors import InvalidIpForSubnet, PortInUse, PortNotFound, SecurityGroupNotFound, ServicePortInUse
from kilonova.network.groups import ensure_default_group
from kilonova.network.macs import canonical_mac, chosen_mac
from kilonova.network.port_names import domain_of, full_name, names_of
from kilonova.network.ports import (
    SERVICE_OWNERS,
    VPN_CLIENT,
    FixedIp,
    give_addresses,
    give_automatic_addresses,
    has_automatic_addresses,
    make_port,
    set_groups,
    subnets_of,
)
from kilonova.network.texts import LARGEST_PAIR, is_domain_name, plain_address, plain_network
from kilonova.store import addresses as held
from kilonova.store.ports import clear_floating, release_port
from kilonova.store.schema import (
    addresses,
    floating_ips,
    instances,
    networks,
    port_security_groups,
    ports,
    routers,
    security_groups,
    subnets,
)

_PLAIN = {
    "name": "name",
    "description": "description",
    "admin_state_up": "admin_state_up",
    "dns_name": "dns_name",
    "binding:profile": "binding_profile",
    "device_id": "device_id",
    "device_owner": "device_owner",
}
"""Field -> column of what is written as it is."""

_DESCRIBING = {"name", "description", "admin_state_up"}
"""What a project may change of the cloud's own ports in its networks."""
_OF_VPN_CLIENT = _DESCRIBING | {"security_groups", "port_security_enabled"}
"""What may change of a VPN client's port: its address is in the client's file."""

_MODES = ("ipv6_address_mode", "ipv6_ra_mode")
_EMBEDDED = (ip_network("::/96"), ip_network("::ffff:0:0/96"))
"""IPv4 addresses within IPv6 (RFC 4291, section 2.5.5), which no frame carries and every program writes otherwise."""
_MOST_FIXED_IPS = 5
_MOST_PAIRS = 10


def documents(tx: Connection, rows: Sequence[RowMapping], context: Context) -> list[Document]:
    ids = [row["id"] for row in rows]
    fixed: dict[str, list[dict[str, str]]] = defaultdict(list)
    query = select(addresses.c.port_id, addresses.c.subnet_id, addresses.c.address).where(addresses.c.port_id.in_(ids))
    for port_id, subnet_id, address in tx.execute(query.order_by(addresses.c.subnet_id, addresses.c.address)):
        fixed[port_id].append({"subnet_id": subnet_id, "ip_address": address})
    groups: dict[str, list[str]] = defaultdict(list)
    links = port_security_groups
    for port_id, group_id in tx.execute(
        select(links.c.port_id, links.c.security_group_id).where(links.c.port_id.in_(ids))
    ):
        groups[port_id].append(group_id)
    named = (
        select(ports.c.id, networks.c.dns_domain, instances.c.hostname)
        .join(networks, networks.c.id == ports.c.network_id)
        .outerjoin(instances, instances.c.id == ports.c.device_id)
        .where(ports.c.id.in_(ids))
    )
    names = {row.id: (domain_of(row.dns_domain), row.hostname) for row in tx.execute(named)}
    made = [_document(row, fixed[row["id"]], groups[row["id"]], context) for row in rows]
    for row, document in zip(rows, made, strict=True):
        document["dns_assignment"] = _assigned(row, fixed[row["id"]], *names[row["id"]])
    return made


def _assigned(row: RowMapping, fixed: list[dict[str, str]], domain: str, hostname: str | None) -> list[dict[str, str]]:
    """What the network's name server says of each address; nothing of the cloud's own ports."""
    if row["device_owner"].startswith("network:"):
        return []
    names = names_of((item["ip_address"] for item in fixed), row["dns_name"], hostname)
    return [
        {
            "ip_address": item["ip_address"],
            "hostname": names[item["ip_address"]][0],
            "fqdn": f"{full_name(names[item['ip_address']][0], domain)}.",
        }
        for item in fixed
    ]


def _document(row: RowMapping, fixed: list[dict[str, str]], groups: list[str], context: Context) -> Document:
    document = standard(row) | {
        "name": row["name"],
        "network_id": row["network_id"],
        "mac_address": row["mac"],
        "admin_state_up": row["admin_state_up"],
        "status": row["status"],
        "device_id": row["device_id"],
        "device_owner": row["device_owner"],
        "fixed_ips": fixed,
        "security_groups": groups,
        "port_security_enabled": row["port_security_enabled"],
        "allowed_address_pairs": row["allowed_address_pairs"],
        "extra_dhcp_opts": row["extra_dhcp_opts"],
        "dns_name": row["dns_name"],
        "binding:vnic_type": "normal",
    }
    if context.is_admin:
        document["binding:host_id"] = row["host"]
        document["binding:profile"] = row["binding_profile"]
        document["binding:vif_type"] = "bridge" if row["host"] else "unbound"
        document["binding:vif_details"] = {"port_filter": True} if row["host"] else {}
    return document


def _on_own_networks(context: Context) -> ColumnElement[bool]:
    return ports.c.network_id.in_(select(networks.c.id).where(networks.c.project_id == context.project_id))


def _with_fixed_ips(values: Sequence[str]) -> ColumnElement[bool]:
    """`ip_address=A`, `subnet_id=S`, `ip_address_substr=T`: alternatives of one kind, kinds add up."""
    by_kind: dict[str, list[ColumnElement[bool]]] = defaultdict(list)
    for value in values:
        kind, separator, text = value.partition("=")
        if kind in {"ip_address", "subnet_id"} and separator:
            by_kind[kind].append(addresses.c.subnet_id == text if kind == "subnet_id" else _is_address(text))
        elif kind == "ip_address_substr" and separator:
            by_kind[kind].append(addresses.c.address.contains(text, autoescape=True))
        else:
            raise BadRequest(f"fixed_ips: '{value}' is not ip_address=, subnet_id= or ip_address_substr= with a value.")
    clauses = (or_(*alternatives) for alternatives in by_kind.values())
    return ports.c.id.in_(select(addresses.c.port_id).where(addresses.c.port_id.is_not(None), *clauses))


def _is_address(text: str) -> ColumnElement[bool]:
    """In whatever form it is written; what is no address matches nothing."""
    try:
        return addresses.c.address == str(plain_address(text))
    except ValueError:
        return addresses.c.address == text


def _in_groups(values: Sequence[str]) -> ColumnElement[bool]:
    links = port_security_groups
    return ports.c.id.in_(select(links.c.port_id).where(links.c.security_group_id.in_(values)))


def _with_mac(values: Sequence[str]) -> ColumnElement[bool]:
    return ports.c.mac.in_([value.lower().replace("-", ":") for value in values])


PORTS = Resource(
    noun="Port",
    table=ports,
    columns=STANDARD_COLUMNS
    | {
        "network_id": "network_id",
        "mac_address": "mac",
        "admin_state_up": "admin_state_up",
        "status": "status",
        "device_id": "device_id",
        "device_owner": "device_owner",
        "port_security_enabled": "port_security_enabled",
        "dns_name": "dns_name",
        "binding:host_id": "host",
    },
    documents=documents,
    not_found=PortNotFound,
    conditions={"fixed_ips": _with_fixed_ips, "security_groups": _in_groups, "mac_address": _with_mac},
    also_visible=_on_own_networks,
)


async def create(cloud: Cloud, context: Context, wanted: Sequence[Mapping[str, Any]]) -> list[Document]:
    """Make ports, all or none. Raises `NotFound`, `QuotaExceeded`, `NoMoreAddresses`, `BadRequest`, `Conflict`."""

    def unit(tx: Connection) -> tuple[list[Document], set[str]]:
        made = [_create(tx, context, fields) for fields in wanted]
        return made, {host for item in made for host in _hosts(tx, item)}

    made, hosts = await cloud.store.write(unit)
    await cloud.wake_networks(hosts, context)
    return made


async def change(cloud: Cloud, context: Context, port_id: str, fields: Mapping[str, Any]) -> Document:
    """Change a port. Raises `NotFound`, `Forbidden`, `BadRequest`, `Conflict`."""
    document, hosts = await cloud.store.write(_change, context, port_id, fields)
    await cloud.wake_networks(hosts, context)
    return document


async def remove(cloud: Cloud, context: Context, port_id: str) -> None:
    """Delete a port. Raises `NotFound`, `Forbidden`, `InUse` for the cloud's own ports."""
    await cloud.wake_networks(await cloud.store.write(_remove, context, port_id), context)


def _create(tx: Connection, context: Context, fields: Mapping[str, Any]) -> Document:
    network = get(tx, NETWORKS, context, fields["network_id"])
    owner = owner_of(context, fields.get("project_id"))
    _check_allowed(context, network, fields)
    if network["external"] and not network["shared"] and network["project_id"] != owner and not context.is_admin:
        raise Forbidden(f"Ports on external network {network['id']} are made by an administrator.")
    _check_plain(fields)
    _refuse_foreign_device(tx, context, owner, fields)
    secured = fields.get("port_security_enabled", network["port_security_enabled"])
    groups = fields.get("security_groups")
    if groups and not secured:
        raise BadRequest("security_groups: a port without port security has none; enable port_security_enabled.")
    make = {column: fields[name] for name, column in _PLAIN.items() if name in fields}
    _check_name(network, fields)
    made = make_port(
        tx,
        network_id=network["id"],
        project_id=owner,
        extra_dhcp_opts=changed_options((), fields.get("extra_dhcp_opts") or ()),
        mac=fields.get("mac_address"),
        fixed_ips=_wanted(fields["fixed_ips"]) if fields.get("fixed_ips") is not None else None,
        security_groups=None if groups is None else checked_groups(tx, context, owner, groups),
        port_security_enabled=secured,
        host=fields.get("binding:host_id") or "",
        **make,
    )
    if "allowed_address_pairs" in fields:
        pairs = _pairs(fields["allowed_address_pairs"], made.mac, secured)
        tx.execute(update(ports).where(ports.c.id == made.id).values(allowed_address_pairs=pairs))
    return show(tx, PORTS, context, made.id)


def _check_allowed(context: Context, network: RowMapping, fields: Mapping[str, Any]) -> None:
    """Whether the caller may set what it sets; a network's owner may set more than a guest on it."""
    if context.is_admin:
        return
    for name in ("binding:host_id", "binding:profile"):
        if name in fields:
            raise Forbidden(f"{name}: only an administrator sets it.")
    if fields.get("device_owner", "").strip().lower().startswith("network:"):
        raise Forbidden("device_owner: only an administrator makes ports of the network's own devices.")
    if network["project_id"] == context.project_id:
        return
    for name in ("mac_address", "port_security_enabled", "allowed_address_pairs"):
        if name in fields:
            raise Forbidden(f"{name}: only the owner of network {network['id']} sets it.")
    for item in fields.get("fixed_ips") or []:
        if item.get("ip_address") is not None:
            raise Forbidden(f"fixed_ips: only the owner of network {network['id']} chooses the address.")


def _check_plain(fields: Mapping[str, Any]) -> None:
    if fields.get("binding:vnic_type", "normal") != "normal":
        raise BadRequest(f"binding:vnic_type: '{fields['binding:vnic_type']}' is not supported, only normal.")
    if len(fields.get("fixed_ips") or []) > _MOST_FIXED_IPS:
        raise BadRequest(f"fixed_ips: more than {_MOST_FIXED_IPS} addresses for one port.")
    if fields.get("dns_name") and not is_domain_name(fields["dns_name"]):
        raise BadRequest(f"dns_name: {fields['dns_name']!r} is not the name of a host.")


def _check_name(network: RowMapping, fields: Mapping[str, Any]) -> None:
    """A name is one of the network's domain: nobody answers for another name on a network that others use too."""
    name, domain = str(fields.get("dns_name", "")).rstrip("."), network["dns_domain"].rstrip(".")
    if "." in name and not (domain and name.endswith(f".{domain}")):
        raise BadRequest(
            f"dns_name: {name} is neither a single label nor a name of the network's dns_domain '{domain}'."
        )


def _refuse_foreign_device(tx: Connection, context: Context, owner: str, fields: Mapping[str, Any]) -> None:
    """A port of one project cannot pose as an interface of another's server or router: metadata goes by it."""
    device_id = fields.get("device_id")
    if not device_id or context.is_admin:
        return
    for table in (instances, routers):
        project = tx.execute(select(table.c.project_id).where(table.c.id == device_id)).scalar_one_or_none()
        if project not in (None, owner):
            raise Forbidden(f"device_id: {device_id} is not a device of this project.")


def _wanted(items: Sequence[Mapping[str, Any]]) -> list[FixedIp]:
    wanted = [
        FixedIp(item.get("subnet_id"), None if item.get("ip_address") is None else str(parsed(item["ip_address"])))
        for item in items
    ]
    named = [item.address for item in wanted if item.address is not None]
    if len(set(named)) != len(named):
        raise InvalidIpForSubnet("fixed_ips: an address is there twice.")
    return wanted


def _pairs(items: Sequence[Mapping[str, Any]], mac: str, secured: bool) -> list[dict[str, str]]:
    """Allowed address pairs with their MAC filled in. Raises `BadRequest` naming one."""
    if items and not secured:
        raise BadRequest("allowed_address_pairs: a port without port security needs none.")
    if len(items) > _MOST_PAIRS:
        raise BadRequest(f"allowed_address_pairs: {len(items)} are more than {_MOST_PAIRS}.")
    pairs: list[dict[str, str]] = []
    for item in items:
        text = str(item.get("ip_address"))
        try:
            network = plain_network(text)
        except ValueError:
            raise BadRequest(f"allowed_address_pairs: '{text}' is not an address or CIDR.") from None
        if any(overlap(network, embedded) for embedded in _EMBEDDED):
            raise BadRequest(f"allowed_address_pairs: {text} is an IPv4 address in the form of IPv6: say it as IPv4.")
        if network.num_addresses > LARGEST_PAIR:
            raise BadRequest(
                f"allowed_address_pairs: {text} has more than {LARGEST_PAIR} addresses: name smaller ones, or switch "
                "port_security_enabled off."
            )
        given = item.get("mac_address")
        pair = {"ip_address": text, "mac_address": mac if given is None else canonical_mac(given)}
        if pair in pairs:
            raise BadRequest(f"allowed_address_pairs: {text} is there twice.")
        pairs.append(pair)
    return pairs


def checked_groups(tx: Connection, context: Context, owner: str, wanted: Sequence[str]) -> list[str]:
    """The ids of groups that the port's project may use. Raises `SecurityGroupNotFound`."""
    ids = list(dict.fromkeys(wanted))
    query = select(security_groups.c.id).where(security_groups.c.id.in_(ids))
    if not context.is_admin:
        query = query.where(security_groups.c.project_id == owner)
    known = set(tx.execute(query).scalars())
    for group_id in ids:
        if group_id not in known:
            raise SecurityGroupNotFound(f"Security group {group_id} does not exist")
    return ids


def _change(tx: Connection, context: Context, port_id: str, fields: Mapping[str, Any]) -> tuple[Document, set[str]]:
    row = get_own(tx, PORTS, context, port_id)
    network = tx.execute(select(networks).where(networks.c.id == row["network_id"])).mappings().one()
    _check_allowed(context, network, fields)
    if row["device_owner"] in SERVICE_OWNERS and not context.is_admin and fields.keys() - _DESCRIBING:
        named = ", ".join(sorted(fields.keys() - _DESCRIBING))
        raise ServicePortInUse(f"Port {port_id} is the cloud's own ({row['device_owner']}): {named} stays as it is.")
    if row["device_owner"] == VPN_CLIENT and (fixed := sorted(fields.keys() - _OF_VPN_CLIENT)):
        raise ServicePortInUse(f"Port {port_id} is a VPN client's: {', '.join(fixed)} is as its file says.")
    _check_plain(fields)
    _refuse_foreign_device(tx, context, row["project_id"], fields)
    before = show(tx, PORTS, context, port_id)
    hosts = _hosts(tx, before)
    _check_name(network, fields)
    values = {column: fields[name] for name, column in _PLAIN.items() if name in fields}
    if "extra_dhcp_opts" in fields:
        values["extra_dhcp_opts"] = changed_options(row["extra_dhcp_opts"], fields["extra_dhcp_opts"])
    if "binding:host_id" in fields:
        values["host"] = fields["binding:host_id"] or ""
    mac = row["mac"]
    if "mac_address" in fields and canonical_mac(fields["mac_address"]) != mac:
        if row["host"] and row["device_id"]:
            raise PortInUse(f"Unable to change the MAC of port {port_id}: it is in use by device {row['device_id']}.")
        mac = values["mac"] = chosen_mac(tx, fields["mac_address"], port_id=port_id)
    secured = values["port_security_enabled"] = fields.get("port_security_enabled", row["port_security_enabled"])
    pairs = fields.get("allowed_address_pairs", row["allowed_address_pairs"])
    if "allowed_address_pairs" in fields or not secured:
        values["allowed_address_pairs"] = _pairs(pairs, mac, secured)
    if "fixed_ips" in fields and fields["fixed_ips"] is not None:
        _change_addresses(tx, row, mac, _wanted(fields["fixed_ips"]))
    elif mac != row["mac"]:
        _change_addresses(tx, row, mac, None)
    _change_groups(tx, context, row, fields, secured)
    tx.execute(update(ports).where(ports.c.id == port_id).values(**values, revision=ports.c.revision + 1))
    after = show(tx, PORTS, context, port_id)
    return after, hosts | _hosts(tx, after)


def _change_addresses(tx: Connection, port: RowMapping, mac: str, wanted: list[FixedIp] | None) -> None:
    """Release what is no longer wanted, allocate what is new, keep the rest. A floating IP keeps its fixed address.

    None wanted: what it has. Automatic addresses stay whatever is wanted, unless the MAC that makes them is another.
    """
    if port["device_owner"] in SERVICE_OWNERS:
        if wanted is None:
            return
        raise ServicePortInUse(f"Port {port['id']} is the cloud's own ({port['device_owner']}): its addresses stay.")
    query = (
        select(addresses.c.address, addresses.c.subnet_id, *(subnets.c[name] for name in _MODES))
        .join(subnets, subnets.c.id == addresses.c.subnet_id)
        .where(addresses.c.port_id == port["id"])
    )
    rows = tx.execute(query).mappings().all()
    old = {row["address"]: row["subnet_id"] for row in rows}
    automatic = {row["address"] for row in rows if has_automatic_addresses(row)}
    if wanted is None:
        wanted = [FixedIp(subnet_id, address) for address, subnet_id in old.items() if address not in automatic]
    kept = {item.address for item in wanted if item.address in old}
    new = [item for item in wanted if item.address not in old]
    for item in [item for item in new if item.address is None and item.subnet_id is not None]:
        # "An address of this subnet" is met by one that the port already has there.
        spare = next((a for a, subnet_id in old.items() if subnet_id == item.subnet_id and a not in kept), None)
        if spare is not None:
            kept.add(spare)
            new.remove(item)
    kept = kept - automatic if mac != port["mac"] else kept | automatic
    gone = old.keys() - kept
    translated = select(floating_ips.c.address, floating_ips.c.fixed_address).where(
        floating_ips.c.fixed_port_id == port["id"], floating_ips.c.fixed_address.in_(sorted(gone))
    )
    for row in tx.execute(translated).all():
        clear_floating(tx, port["id"], address=row.fixed_address)
    if gone:
        held.release(tx, port["id"], mac=port["mac"], host=port["host"], only=gone)
    give_addresses(tx, port["id"], port["network_id"], new, mac=mac, automatic=False)
    if wanted or gone & automatic:
        held_in = {old[address] for address in kept & automatic}
        give_automatic_addresses(tx, port["id"], subnets_of(tx, port["network_id"]), mac=mac, held_in=held_in)


def _change_groups(
    tx: Connection, context: Context, port: RowMapping, fields: Mapping[str, Any], secured: bool
) -> None:
    links = port_security_groups
    mine = links.c.port_id == port["id"]
    wanted = fields.get("security_groups")
    if not secured:
        if wanted:
            raise BadRequest("security_groups: a port without port security has none; enable port_security_enabled.")
        if "port_security_enabled" in fields and wanted is None:
            count = tx.execute(select(links.c.port_id).where(mine).limit(1)).first()
            if count is not None:
                raise PortInUse(f"Port {port['id']} has security groups: set them to none to turn port security off.")
        if wanted is not None:
            tx.execute(delete(links).where(mine))
        return
    turned_on = secured and not port["port_security_enabled"]
    if wanted is None and not turned_on:
        return
    tx.execute(delete(links).where(mine))
    ids = (
        [ensure_default_group(tx, port["project_id"])]
        if wanted is None
        else checked_groups(tx, context, port["project_id"], wanted)
    )
    set_groups(tx, port["id"], ids)


def _remove(tx: Connection, context: Context, port_id: str) -> set[str]:
    row = get_own(tx, PORTS, context, port_id)
    if row["device_owner"] in SERVICE_OWNERS:
        raise ServicePortInUse(
            f"Port {port_id} cannot be deleted directly via the port API: has device owner {row['device_owner']}."
        )
    if row["device_owner"] == VPN_CLIENT:
        raise ServicePortInUse(
            f"Port {port_id} is a VPN client's: revoke the client instead (`kilonova vpn revoke {row['project_id']}`)."
        )
    hosts = _hosts(tx, show(tx, PORTS, context, port_id))
    return hosts | set(release_port(tx, port_id))


def _hosts(tx: Connection, port: Document) -> set[str]:
    """Who acts on a port: its host, its network's host (DHCP), hosts whose rules name its groups."""
    hosts = {host for row in tx.execute(_HOSTS, {"port_id": port["id"]}) for host in row if host}
    return hosts | network_hosts.of_groups(tx, port["security_groups"])


_HOSTS = (
    select(ports.c.host, networks.c.host)
    .join(networks, networks.c.id == ports.c.network_id)
    .where(ports.c.id == bindparam("port_id"))
)
