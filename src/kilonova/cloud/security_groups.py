"""Security groups and their rules as clients of the network API see and change them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, func, insert, or_, select, update

from kilonova.cloud import network_hosts
from kilonova.cloud.controller import Cloud
from kilonova.cloud.network_lists import (
    STANDARD_COLUMNS,
    Document,
    Query,
    Resource,
    find,
    get,
    get_own,
    owner_of,
    show,
    standard,
)
from kilonova.context import Context
from kilonova.errors import BadRequest, Forbidden
from kilonova.ids import new_id
from kilonova.network import quota
from kilonova.network.errors import (
    InvalidInput,
    SecurityGroupCannotRemoveDefault,
    SecurityGroupCannotUpdateDefault,
    SecurityGroupDefaultAlreadyExists,
    SecurityGroupInUse,
    SecurityGroupNotFound,
    SecurityGroupRuleExists,
    SecurityGroupRuleNotFound,
)
from kilonova.network.group_rules import PROTOCOL_NUMBERS
from kilonova.network.groups import DEFAULT_NAME, ensure_default_group, insert_group
from kilonova.network.texts import plain_network
from kilonova.store.schema import port_security_groups, security_group_rules, security_groups

_WITH_PORTS = {"tcp", "udp", "sctp", "dccp", "udplite"}
_ICMP = {"icmp", "icmpv6", "ipv6-icmp"}
_ONLY_IPV6 = {"icmpv6", "ipv6-encap", "ipv6-frag", "ipv6-icmp", "ipv6-nonxt", "ipv6-opts", "ipv6-route"}
_LARGEST_PORT = 65535
_RULE_FIELDS = (
    "direction",
    "ethertype",
    "protocol",
    "port_range_min",
    "port_range_max",
    "remote_ip_prefix",
    "remote_group_id",
)


def documents(tx: Connection, rows: Sequence[RowMapping], context: Context) -> list[Document]:
    rules = security_group_rules
    query = select(rules).where(rules.c.security_group_id.in_([row["id"] for row in rows]))
    of_group: dict[str, list[Document]] = defaultdict(list)
    for rule in tx.execute(query.order_by(rules.c.created_at, rules.c.id)).mappings():
        of_group[rule["security_group_id"]].append(_rule_document(rule))
    return [
        standard(row)
        | {
            "name": row["name"],
            "stateful": row["stateful"],
            "shared": False,
            "security_group_rules": of_group[row["id"]],
        }
        for row in rows
    ]


def rule_documents(tx: Connection, rows: Sequence[RowMapping], context: Context) -> list[Document]:
    return [_rule_document(row) for row in rows]


def _rule_document(row: RowMapping) -> Document:
    prefix = row["remote_ip_prefix"]
    document = standard(row) | {name: row[name] for name in _RULE_FIELDS}
    document["security_group_id"] = row["security_group_id"]
    document["normalized_cidr"] = None if prefix is None else str(ip_network(prefix, strict=False))
    document["remote_address_group_id"] = None
    return document


def _shared(values: Sequence[str]) -> ColumnElement[bool]:
    """No group is shared."""
    wanted = {value.lower() for value in values}
    return security_groups.c.id.is_not(None) if wanted & {"false", "0"} else security_groups.c.id.is_(None)


GROUPS = Resource(
    noun="Security group",
    table=security_groups,
    columns=STANDARD_COLUMNS | {"stateful": "stateful"},
    documents=documents,
    not_found=SecurityGroupNotFound,
    conditions={"shared": _shared},
)


def _of_own_groups(context: Context) -> ColumnElement[bool]:
    own = select(security_groups.c.id).where(security_groups.c.project_id == context.project_id)
    return security_group_rules.c.security_group_id.in_(own)


RULES = Resource(
    noun="Security group rule",
    table=security_group_rules,
    columns={field: column for field, column in STANDARD_COLUMNS.items() if field != "name"}
    | {name: name for name in (*_RULE_FIELDS, "security_group_id")},
    documents=rule_documents,
    not_found=SecurityGroupRuleNotFound,
    also_visible=_of_own_groups,
)


async def find_groups(cloud: Cloud, context: Context, query: Query) -> list[Document]:
    """The groups of a list. The default group, which every project has, is made when it is first looked for."""
    project = context.project_id
    if project is not None:
        missing = select(func.count()).where(
            security_groups.c.project_id == project, security_groups.c.is_default.is_(True)
        )
        if not await cloud.store.read(lambda tx: tx.execute(missing).scalar_one()):
            await cloud.store.write(ensure_default_group, project)
    return await cloud.store.read(find, GROUPS, context, query)


async def create(cloud: Cloud, context: Context, wanted: Sequence[Mapping[str, Any]]) -> list[Document]:
    """Make groups, all or none. Raises `QuotaExceeded`, `Conflict` for a second default group, `Forbidden`."""

    def unit(tx: Connection) -> list[Document]:
        return [_create(tx, context, fields) for fields in wanted]

    return await cloud.store.write(unit)


async def change(cloud: Cloud, context: Context, group_id: str, fields: Mapping[str, Any]) -> Document:
    """Change a group. Raises `NotFound`, `Forbidden`, `Conflict` for the default group's name."""
    document, hosts = await cloud.store.write(_change, context, group_id, fields)
    await cloud.wake_networks(hosts, context)
    return document


async def remove(cloud: Cloud, context: Context, group_id: str) -> None:
    """Delete a group with its rules, and rules that name it. Raises `NotFound`, `Conflict`, `InUse`."""
    await cloud.wake_networks(await cloud.store.write(_remove, context, group_id), context)


async def create_rules(cloud: Cloud, context: Context, wanted: Sequence[Mapping[str, Any]]) -> list[Document]:
    """Make rules, all or none. Raises `NotFound`, `BadRequest`, `SecurityGroupRuleExists`, `QuotaExceeded`."""

    def unit(tx: Connection) -> tuple[list[Document], set[str]]:
        made = [_create_rule(tx, context, fields) for fields in wanted]
        return made, network_hosts.of_groups(tx, sorted({rule["security_group_id"] for rule in made}))

    made, hosts = await cloud.store.write(unit)
    await cloud.wake_networks(hosts, context)
    return made


async def remove_rule(cloud: Cloud, context: Context, rule_id: str) -> None:
    """Delete a rule. Raises `NotFound`."""
    await cloud.wake_networks(await cloud.store.write(_remove_rule, context, rule_id), context)


def _create(tx: Connection, context: Context, fields: Mapping[str, Any]) -> Document:
    owner = owner_of(context, fields.get("project_id"))
    ensure_default_group(tx, owner)
    if fields.get("name", "") == DEFAULT_NAME:
        raise SecurityGroupDefaultAlreadyExists("Default security group already exists.")
    quota.check(tx, owner, "security_group")
    quota.check(tx, owner, "security_group_rule", 2)
    group_id = insert_group(
        tx, owner, fields.get("name", ""), fields.get("description", ""), stateful=fields.get("stateful", True)
    )
    return show(tx, GROUPS, context, group_id)


def _change(tx: Connection, context: Context, group_id: str, fields: Mapping[str, Any]) -> tuple[Document, set[str]]:
    row = get_own(tx, GROUPS, context, group_id)
    values = {name: fields[name] for name in ("name", "description", "stateful") if name in fields}
    if row["is_default"] and values.get("name", row["name"]) != row["name"]:
        raise SecurityGroupCannotUpdateDefault("Updating default security group not allowed: its name stays.")
    if not row["is_default"] and values.get("name") == DEFAULT_NAME:
        raise SecurityGroupDefaultAlreadyExists("Default security group already exists.")
    if values.get("stateful", row["stateful"]) is not row["stateful"]:
        used = select(port_security_groups.c.port_id).where(port_security_groups.c.security_group_id == group_id)
        if tx.execute(used.limit(1)).first() is not None:
            raise SecurityGroupInUse(f"Security Group {group_id} in use: stateful stays as it is.")
    if values:
        tx.execute(
            update(security_groups)
            .where(security_groups.c.id == group_id)
            .values(**values, revision=security_groups.c.revision + 1)
        )
    return show(tx, GROUPS, context, group_id), network_hosts.of_groups(tx, [group_id])


def _remove(tx: Connection, context: Context, group_id: str) -> set[str]:
    row = get_own(tx, GROUPS, context, group_id)
    if row["is_default"] and not context.is_admin:
        raise SecurityGroupCannotRemoveDefault("Insufficient rights for removing default security group.")
    links = port_security_groups
    users = tx.execute(select(links.c.port_id).where(links.c.security_group_id == group_id).limit(5)).scalars().all()
    if users:
        raise SecurityGroupInUse(f"Security Group {group_id} in use by port {', '.join(users)}.")
    hosts = network_hosts.of_groups(tx, [group_id])
    rules = security_group_rules
    tx.execute(delete(rules).where(or_(rules.c.security_group_id == group_id, rules.c.remote_group_id == group_id)))
    tx.execute(delete(security_groups).where(security_groups.c.id == group_id))
    return hosts


def _create_rule(tx: Connection, context: Context, fields: Mapping[str, Any]) -> Document:
    group = get_own(tx, GROUPS, context, fields["security_group_id"])
    owner = fields.get("project_id") or group["project_id"]
    if owner != group["project_id"] and not context.is_admin:
        raise Forbidden(f"project_id: security group {group['id']} belongs to another project than {owner}.")
    quota.check(tx, group["project_id"], "security_group_rule")
    values = _checked_rule(fields)
    remote = values["remote_group_id"]
    if remote is not None:
        get(tx, GROUPS, context, remote)
    rules = security_group_rules
    same = [rules.c[name].is_(None) if value is None else rules.c[name] == value for name, value in values.items()]
    existing = tx.execute(select(rules.c.id).where(rules.c.security_group_id == group["id"], *same)).first()
    if existing is not None:
        raise SecurityGroupRuleExists(f"Security group rule already exists. Rule id is {existing.id}.")
    rule_id = new_id()
    tx.execute(
        insert(rules).values(
            **values,
            id=rule_id,
            security_group_id=group["id"],
            project_id=group["project_id"],
            description=fields.get("description") or "",
        )
    )
    tx.execute(
        update(security_groups)
        .where(security_groups.c.id == group["id"])
        .values(revision=security_groups.c.revision + 1)
    )
    return show(tx, RULES, context, rule_id)


def _checked_rule(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a rule, as the API defines them. Raises `BadRequest` naming the field."""
    direction = str(fields.get("direction")).lower()
    if direction not in {"ingress", "egress"}:
        raise InvalidInput(
            f"Invalid input for direction. Reason: '{fields.get('direction')}' is not ingress or egress."
        )
    by_name = {"ipv4": "IPv4", "ipv6": "IPv6"}
    ethertype = by_name.get(str(fields.get("ethertype") or "IPv4").lower())
    if ethertype is None:
        raise InvalidInput(f"Invalid input for ethertype. Reason: '{fields['ethertype']}' is not IPv4 or IPv6.")
    protocol = _checked_protocol(fields.get("protocol"), ethertype)
    least, most = _checked_ports(protocol, fields.get("port_range_min"), fields.get("port_range_max"))
    prefix, group = fields.get("remote_ip_prefix"), fields.get("remote_group_id")
    if prefix is not None and group is not None:
        raise BadRequest("Only remote_ip_prefix or remote_group_id may be provided.")
    if prefix is not None:
        try:
            network = plain_network(prefix)
        except ValueError:
            raise InvalidInput(f"Invalid input for remote_ip_prefix. Reason: '{prefix}' is not a valid CIDR.") from None
        if f"IPv{network.version}" != ethertype:
            raise BadRequest(f"Conflicting value ethertype {ethertype} for CIDR {prefix}")
        if "/" not in prefix:
            prefix = str(network)
    return {
        "direction": direction,
        "ethertype": ethertype,
        "protocol": protocol,
        "port_range_min": least,
        "port_range_max": most,
        "remote_ip_prefix": prefix,
        "remote_group_id": group,
    }


def _checked_protocol(protocol: object, ethertype: str) -> str | None:
    if protocol is None or protocol in {"", "any"}:
        return None
    text = str(protocol).lower()
    if text in PROTOCOL_NUMBERS:
        if text in _ONLY_IPV6 and ethertype != "IPv6":
            raise BadRequest(f"Invalid ethertype {ethertype} for protocol {text}.")
        return text
    if not (text.isascii() and text.isdigit()) or int(text) > 255:
        raise BadRequest(
            f"Security group rule protocol {protocol} not supported. "
            f"Only protocol values {sorted(PROTOCOL_NUMBERS)} and "
            "integer representations [0 to 255] are supported."
        )
    return str(int(text))


def _checked_ports(protocol: str | None, least: int | None, most: int | None) -> tuple[int | None, int | None]:
    if least is None and most is None:
        return None, None
    number = None if protocol is None else PROTOCOL_NUMBERS.get(protocol, int(protocol) if protocol.isdigit() else 0)
    name = "" if number is None else str(number)
    if number in {PROTOCOL_NUMBERS[p] for p in _ICMP}:
        for field, value in (("type", least), ("code", most)):
            if value is not None and not 0 <= value <= 255:
                raise BadRequest(f"Invalid value for ICMP {field}: {value} is not between 0 and 255.")
        if least is None:
            raise BadRequest(
                f"ICMP code (port-range-max) {most} is provided but ICMP type (port-range-min) is missing."
            )
        return least, most
    if number not in {PROTOCOL_NUMBERS[p] for p in _WITH_PORTS}:
        what = "no protocol" if protocol is None else f"protocol {protocol or name}"
        raise BadRequest(f"port_range_min and port_range_max need a protocol with ports (tcp, udp, ...), not {what}.")
    if least is None or most is None:
        raise BadRequest("For TCP/UDP protocols, port_range_min must be <= port_range_max, and both be given.")
    if not 1 <= least <= _LARGEST_PORT or not 1 <= most <= _LARGEST_PORT:
        raise InvalidInput(f"Invalid port range {least} to {most}: ports go from 1 to {_LARGEST_PORT}.")
    if least > most:
        raise BadRequest("For TCP/UDP protocols, port_range_min must be <= port_range_max")
    return least, most


def _remove_rule(tx: Connection, context: Context, rule_id: str) -> set[str]:
    row = get_own(tx, RULES, context, rule_id)
    tx.execute(delete(security_group_rules).where(security_group_rules.c.id == rule_id))
    tx.execute(
        update(security_groups)
        .where(security_groups.c.id == row["security_group_id"])
        .values(revision=security_groups.c.revision + 1)
    )
    return network_hosts.of_groups(tx, [row["security_group_id"]])
