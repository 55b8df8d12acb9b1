"""Every table of the data store, as SQLAlchemy Core tables.

The database is the only truth: uniqueness is a constraint here, never a check in code. Rows are read and written by the
components inside a unit of work (`kilonova.store.database`); nothing here decides anything. Times are aware UTC
datetimes, addresses and CIDRs are canonical strings, sizes carry their unit in the column's name.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UTCDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime; stored without offset, so that SQLite and PostgreSQL order it alike."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


def now() -> datetime:
    """The present moment, UTC."""
    return datetime.now(UTC)


def _id() -> Column[str]:
    return Column("id", String(36), primary_key=True)


def _created() -> Column[datetime]:
    return Column("created_at", UTCDateTime, nullable=False, default=now)


def _updated() -> Column[datetime]:
    return Column("updated_at", UTCDateTime, nullable=False, default=now, onupdate=now)


def _flag(name: str, default: bool) -> Column[bool]:
    return Column(name, Boolean, nullable=False, default=default)


def _words(name: str, length: int = 255) -> Column[str]:
    return Column(name, String(length), nullable=False, default="")


def _json(name: str, default: type[dict[str, Any]] | type[list[Any]]) -> Column[Any]:
    return Column(name, JSON, nullable=False, default=default)


def _standard() -> list[Column[Any]]:
    """The columns that every resource of the network API carries."""
    return [
        _words("description"),
        _json("tags", list),
        Column("revision", Integer, nullable=False, default=1),
        _created(),
        _updated(),
    ]


# ---------------------------------------------------------------------------------------------- identity
domains = Table(
    "domains",
    metadata,
    _id(),
    Column("name", String(255), nullable=False, unique=True),
    _words("description", 1024),
    _flag("enabled", True),
    _created(),
)

projects = Table(
    "projects",
    metadata,
    _id(),
    Column("domain_id", String(36), ForeignKey("domains.id"), nullable=False),
    Column("parent_id", String(36), nullable=False),
    Column("name", String(255), nullable=False),
    _words("description", 1024),
    _flag("enabled", True),
    _json("tags", list),
    _json("extra", dict),
    Column("network_type", String(16), doc="the manager that its network shall have; none: chosen when it is needed"),
    _created(),
    UniqueConstraint("domain_id", "name"),
)

users = Table(
    "users",
    metadata,
    _id(),
    Column("domain_id", String(36), ForeignKey("domains.id"), nullable=False),
    Column("name", String(255), nullable=False),
    _words("description", 1024),
    Column("email", String(255)),
    _flag("enabled", True),
    Column("default_project_id", String(36)),
    Column("password_hash", String(255)),
    Column("password_changed_at", UTCDateTime),
    _json("extra", dict),
    _created(),
    UniqueConstraint("domain_id", "name"),
)

roles = Table(
    "roles",
    metadata,
    _id(),
    Column("name", String(255), nullable=False, unique=True),
    _words("description", 1024),
    _created(),
)

role_assignments = Table(
    "role_assignments",
    metadata,
    Column("user_id", String(36), ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("target_type", String(16), primary_key=True, doc="project | domain | system"),
    Column("target_id", String(36), primary_key=True, doc="the project's or domain's id; 'all' for system"),
    Column("role_id", String(36), ForeignKey("roles.id", ondelete="CASCADE"), primary_key=True),
)

signing_keys = Table(
    "signing_keys",
    metadata,
    _id(),
    Column("secret", LargeBinary, nullable=False),
    _created(),
)

revocations = Table(
    "revocations",
    metadata,
    Column("subject", String(80), primary_key=True, doc="token:ID, user:ID or project:ID"),
    Column("revoked_at", UTCDateTime, nullable=False, doc="tokens of the subject issued up to then are void"),
    Column("expires_at", UTCDateTime, nullable=False, doc="when no such token can still be valid"),
)

quotas = Table(
    "quotas",
    metadata,
    Column("project_id", String(36), primary_key=True),
    Column("resource", String(64), primary_key=True),
    Column("hard_limit", Integer, nullable=False, doc="-1: unlimited"),
)

# ---------------------------------------------------------------------------------------------- services, operations
services = Table(
    "services",
    metadata,
    _id(),
    Column("kind", String(32), nullable=False, doc="api | scheduler | network | compute | objectstore"),
    Column("host", String(255), nullable=False),
    Column("availability_zone", String(255), nullable=False, default="nova"),
    _flag("enabled", True),
    Column("disabled_reason", String(255)),
    _flag("forced_down", False),
    Column("started_at", UTCDateTime, nullable=False, default=now),
    Column("seen_at", UTCDateTime, nullable=False, default=now, doc="the last heartbeat"),
    _json("capacity", dict),
    _json("progress", dict),
    Column("lease_owner", String(64), doc="the agent process that alone may touch this host's networks"),
    Column("lease_until", UTCDateTime, doc="until then nobody takes its networks and routers over"),
    UniqueConstraint("kind", "host"),
)

operations = Table(
    "operations",
    metadata,
    _id(),
    Column("kind", String(64), nullable=False, doc="server.create, server.delete, server.reboot, ..."),
    Column("resource_id", String(36), nullable=False, index=True),
    Column("project_id", String(36)),
    Column("user_id", String(36)),
    Column("request_id", String(64), nullable=False),
    Column("topic", String(255), nullable=False, doc="the bus topic whose worker does the present step"),
    Column("step", String(64), nullable=False),
    Column("state", String(16), nullable=False, default="running", doc="running | done | failed"),
    _json("arguments", dict),
    Column("owner", String(255), doc="the worker that holds the lease"),
    Column("lease_until", UTCDateTime),
    Column("deadline", UTCDateTime, nullable=False),
    Column("error", Text),
    _created(),
    _updated(),
    Index("ix_operations_running", "state", "deadline"),
)

# ---------------------------------------------------------------------------------------------- images, objects
images = Table(
    "images",
    metadata,
    _id(),
    Column("project_id", String(36), nullable=False, index=True),
    Column("name", String(255)),
    Column(
        "status",
        String(16),
        nullable=False,
        default="queued",
        doc="queued | saving | uploading (staged) | active | deactivated",
    ),
    Column("visibility", String(16), nullable=False, default="shared", doc="public | private | shared | community"),
    Column("disk_format", String(20)),
    Column("container_format", String(20)),
    Column("size_bytes", BigInteger),
    Column("virtual_size_bytes", BigInteger),
    Column("checksum", String(32)),
    Column("hash_algorithm", String(16)),
    Column("hash_value", String(128)),
    Column("object_name", String(80), unique=True, doc="the object that holds, or is being given, its bytes"),
    Column("min_disk_gb", Integer, nullable=False, default=0),
    Column("min_ram_mb", Integer, nullable=False, default=0),
    _flag("protected", False),
    _flag("hidden", False),
    _json("tags", list),
    _json("properties", dict),
    _created(),
    _updated(),
)

image_members = Table(
    "image_members",
    metadata,
    Column("image_id", String(36), ForeignKey("images.id", ondelete="CASCADE"), primary_key=True),
    Column("project_id", String(36), primary_key=True, doc="the project that the image is shared with"),
    Column("status", String(16), nullable=False, default="pending", doc="pending | accepted | rejected"),
    _created(),
    _updated(),
    Index("ix_image_members_project", "project_id"),
)

containers = Table(
    "containers",
    metadata,
    Column("account", String(64), primary_key=True),
    Column("name", String(256), primary_key=True),
    _json("metadata", dict),
    _created(),
)

objects = Table(
    "objects",
    metadata,
    Column("account", String(64), primary_key=True),
    Column("container", String(256), primary_key=True),
    Column("name", String(1024), primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("etag", String(32), nullable=False, doc="MD5 of the bytes, hex"),
    Column("content_type", String(255), nullable=False, default="application/octet-stream"),
    Column("blob", String(64), nullable=False, unique=True, doc="the file's name in the object store's directory"),
    _json("metadata", dict),
    _updated(),
)

# ---------------------------------------------------------------------------------------------- compute
flavors = Table(
    "flavors",
    metadata,
    Column("id", String(255), primary_key=True),
    Column("name", String(255), nullable=False, unique=True),
    Column("description", Text),
    Column("ram_mb", Integer, nullable=False),
    Column("vcpus", Integer, nullable=False),
    Column("disk_gb", Integer, nullable=False),
    Column("ephemeral_gb", Integer, nullable=False, default=0),
    Column("swap_mb", Integer, nullable=False, default=0),
    Column("rxtx_factor", Float, nullable=False, default=1.0),
    _flag("is_public", True),
    _json("extra_specs", dict),
    _created(),
)

flavor_access = Table(
    "flavor_access",
    metadata,
    Column("flavor_id", String(255), ForeignKey("flavors.id", ondelete="CASCADE"), primary_key=True),
    Column("project_id", String(64), primary_key=True, doc="a project that may use a flavor that is not public"),
)

keypairs = Table(
    "keypairs",
    metadata,
    Column("user_id", String(36), ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Column("name", String(255), primary_key=True),
    Column("type", String(16), nullable=False, default="ssh"),
    Column("public_key", Text, nullable=False),
    Column("fingerprint", String(255), nullable=False),
    _created(),
)

instances = Table(
    "instances",
    metadata,
    _id(),
    Column("project_id", String(36), nullable=False),
    Column("user_id", String(36), nullable=False),
    Column("name", String(255), nullable=False),
    Column("hostname", String(255), nullable=False),
    Column("description", Text),
    Column("image_id", String(36)),
    Column("flavor_id", String(255), nullable=False),
    _json("flavor", dict),
    Column("vcpus", Integer, nullable=False),
    Column("ram_mb", Integer, nullable=False),
    Column("disk_gb", Integer, nullable=False),
    Column("host", String(255), index=True, doc="the compute host that holds the claim; none before scheduling"),
    Column("availability_zone", String(255)),
    Column("key_name", String(255)),
    Column("public_key", Text),
    Column("user_data", Text, doc="base64, as the client sent it"),
    _flag("config_drive", False),
    Column("disk_config", String(8), nullable=False, default="MANUAL", doc="MANUAL | AUTO, as the client asked"),
    _json("metadata", dict),
    _json("tags", list),
    _flag("locked", False),
    Column("locked_reason", String(255)),
    Column("access_ip_v4", String(45)),
    Column("access_ip_v6", String(45)),
    Column("reservation_id", String(32), nullable=False),
    Column("launch_index", Integer, nullable=False, default=0),
    Column("vm_state", String(16), nullable=False, default="building", doc="building|active|stopped|paused|error|..."),
    Column("task_state", String(32), doc="what is being done: scheduling, spawning, deleting, powering-off, ..."),
    Column(
        "power_state", Integer, nullable=False, default=0, doc="0 none, 1 running, 3 paused, 4 shut down, 6 crashed"
    ),
    Column("wanted_power", String(16), nullable=False, default="running", doc="running | paused | shutdown"),
    Column("progress", Integer, nullable=False, default=0),
    Column("launched_at", UTCDateTime),
    _created(),
    _updated(),
    Index("ix_instances_project", "project_id", "created_at", "id"),
)

instance_faults = Table(
    "instance_faults",
    metadata,
    _id(),
    Column("instance_id", String(36), ForeignKey("instances.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("code", Integer, nullable=False),
    Column("message", Text, nullable=False),
    Column("details", Text),
    _created(),
)

instance_actions = Table(
    "instance_actions",
    metadata,
    _id(),
    Column("instance_id", String(36), nullable=False, index=True),
    Column("action", String(64), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("user_id", String(36)),
    Column("project_id", String(36)),
    Column("message", Text),
    Column("started_at", UTCDateTime, nullable=False, default=now),
    Column("finished_at", UTCDateTime),
    _updated(),
)

instance_action_events = Table(
    "instance_action_events",
    metadata,
    _id(),
    Column("action_id", String(36), ForeignKey("instance_actions.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("event", String(255), nullable=False),
    Column("host", String(255)),
    Column("started_at", UTCDateTime, nullable=False, default=now),
    Column("finished_at", UTCDateTime),
    Column("result", String(16)),
    Column("details", Text),
)

# ---------------------------------------------------------------------------------------------- network
networks = Table(
    "networks",
    metadata,
    _id(),
    Column("project_id", String(36), nullable=False, index=True),
    Column("name", String(255), nullable=False, default=""),
    Column("manager", String(16), nullable=False, doc="flat | flat-dhcp | vlan | vxlan"),
    Column("physical_network", String(64), nullable=False),
    Column("segmentation_id", Integer, doc="VLAN id or VNI; none for flat"),
    Column("bridge", String(15), nullable=False),
    Column("mtu", Integer, nullable=False, default=1500),
    _flag("admin_state_up", True),
    Column("status", String(16), nullable=False, default="ACTIVE"),
    _flag("shared", False),
    _flag("external", False),
    _flag("is_default", False),
    _flag("port_security_enabled", True),
    Column("dns_domain", String(255), nullable=False, default=""),
    Column("host", String(255), doc="the network host that runs its services; none: not placed yet"),
    *_standard(),
    UniqueConstraint("physical_network", "segmentation_id"),
    UniqueConstraint("physical_network", "bridge"),
)

pool_networks = Table(
    "pool_networks",
    metadata,
    _id(),
    Column("manager", String(16), nullable=False, default="vlan"),
    Column("physical_network", String(64), nullable=False),
    Column("segmentation_id", Integer),
    Column("bridge", String(15), nullable=False),
    Column("cidr", String(45), nullable=False, unique=True),
    Column("vpn_port", Integer, unique=True),
    Column("project_id", String(36), unique=True, doc="the project it is assigned to; none: free"),
    Column(
        "network_id",
        String(36),
        ForeignKey("networks.id", ondelete="SET NULL"),
        unique=True,
        doc="the network made from it",
    ),
    Column("released_at", UTCDateTime, doc="given back; free once its host has forgotten it"),
    Column("released_host", String(255), doc="the network host that must forget it first"),
    Column("position", Integer, nullable=False, doc="the order in which free ones are handed out"),
    _created(),
    UniqueConstraint("physical_network", "segmentation_id"),
    UniqueConstraint("physical_network", "bridge"),
    Index("ix_pool_networks_free", "project_id", "position"),
)

project_networks = Table(
    "project_networks",
    metadata,
    Column("project_id", String(36), primary_key=True),
    Column("network_id", String(36), ForeignKey("networks.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("manager", String(16), nullable=False, doc="flat | flat-dhcp | vlan | vxlan"),
    Column("requested", String(16), doc="the manager that was asked for, if one was"),
    _json("decision", list),
    _created(),
)
"""The network a project was given at its first run, and why that type: `decision` is a list of
`{"manager", "possible", "weight", "reason"}`, the chosen one first."""

subnets = Table(
    "subnets",
    metadata,
    _id(),
    Column("network_id", String(36), ForeignKey("networks.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("project_id", String(36), nullable=False, index=True),
    Column("name", String(255), nullable=False, default=""),
    Column("ip_version", Integer, nullable=False, default=4),
    Column("cidr", String(64), nullable=False),
    Column("gateway_ip", String(45)),
    _flag("enable_dhcp", True),
    _json("dns_nameservers", list),
    _json("host_routes", list),
    Column("ipv6_address_mode", String(32)),
    Column("ipv6_ra_mode", String(32)),
    Column("service_address", String(45), doc="DHCP, DNS and metadata answer here"),
    Column("host", String(255), doc="a floating range's network host (`kilonova floating create HOST RANGE`)"),
    *_standard(),
)

allocation_pools = Table(
    "allocation_pools",
    metadata,
    _id(),
    Column("subnet_id", String(36), ForeignKey("subnets.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("first_offset", BigInteger, nullable=False, doc="from the subnet's network address"),
    Column("last_offset", BigInteger, nullable=False),
    Column("next_offset", BigInteger, nullable=False, doc="no address at or past it was ever handed out by the cursor"),
)

ports = Table(
    "ports",
    metadata,
    _id(),
    Column("network_id", String(36), ForeignKey("networks.id"), nullable=False, index=True),
    Column("project_id", String(36), nullable=False, index=True),
    Column("name", String(255), nullable=False, default=""),
    Column("mac", String(17), nullable=False, unique=True),
    _flag("admin_state_up", True),
    Column("status", String(16), nullable=False, default="DOWN", doc="ACTIVE | DOWN | BUILD"),
    Column("device_id", String(255), nullable=False, default="", index=True),
    Column("device_owner", String(255), nullable=False, default=""),
    Column("host", String(255), nullable=False, default="", index=True, doc="binding:host_id"),
    Column("vif", String(8), nullable=False, default="none", doc="tap | veth | none: what the agent makes for it"),
    Column("position", Integer, nullable=False, default=0, doc="the interface's order in its server"),
    _flag("made_with_server", False),
    _flag("port_security_enabled", True),
    _json("allowed_address_pairs", list),
    _json("extra_dhcp_opts", list),
    _json("binding_profile", dict),
    Column("dns_name", String(255), nullable=False, default=""),
    *_standard(),
)

addresses = Table(
    "addresses",
    metadata,
    Column("subnet_id", String(36), ForeignKey("subnets.id"), primary_key=True),
    Column("address", String(45), primary_key=True),
    Column("network_id", String(36), nullable=False, index=True),
    Column("port_id", String(36), ForeignKey("ports.id"), index=True, doc="none: released, not yet forgotten"),
    Column("released_at", UTCDateTime, doc="set with port_id = NULL; the row goes once every holder has forgotten it"),
    Column("released_mac", String(17)),
    Column("released_host", String(255), doc="the host whose filters held it"),
    Index("ix_addresses_released", "released_at"),
)

reusable_addresses = Table(
    "reusable_addresses",
    metadata,
    Column("subnet_id", String(36), ForeignKey("subnets.id", ondelete="CASCADE"), primary_key=True),
    Column("address", String(45), primary_key=True),
    Column("freed_at", UTCDateTime, nullable=False, default=now),
    Index("ix_reusable_addresses_oldest", "subnet_id", "freed_at"),
)

routers = Table(
    "routers",
    metadata,
    _id(),
    Column("project_id", String(36), nullable=False, index=True),
    Column("name", String(255), nullable=False, default=""),
    _flag("admin_state_up", True),
    Column("status", String(16), nullable=False, default="ACTIVE"),
    Column("external_network_id", String(36), ForeignKey("networks.id")),
    _flag("enable_snat", True),
    _json("routes", list),
    Column("host", String(255), doc="the network host that realises it"),
    _flag("is_default", False),
    *_standard(),
)

security_groups = Table(
    "security_groups",
    metadata,
    _id(),
    Column("project_id", String(36), nullable=False, index=True),
    Column("name", String(255), nullable=False),
    _flag("stateful", True),
    _flag("is_default", False),
    *_standard(),
    Index(
        "uq_security_groups_default",
        "project_id",
        unique=True,
        sqlite_where=text("is_default"),
        postgresql_where=text("is_default"),
    ),
)

security_group_rules = Table(
    "security_group_rules",
    metadata,
    _id(),
    Column(
        "security_group_id",
        String(36),
        ForeignKey("security_groups.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    Column("project_id", String(36), nullable=False),
    Column("direction", String(8), nullable=False, doc="ingress | egress"),
    Column("ethertype", String(4), nullable=False, doc="IPv4 | IPv6"),
    Column("protocol", String(40), doc="a name or number as the client gave it; none: any"),
    Column("port_range_min", Integer),
    Column("port_range_max", Integer),
    Column("remote_ip_prefix", String(64)),
    Column("remote_group_id", String(36), ForeignKey("security_groups.id", ondelete="CASCADE")),
    *_standard(),
)

port_security_groups = Table(
    "port_security_groups",
    metadata,
    Column("port_id", String(36), ForeignKey("ports.id", ondelete="CASCADE"), primary_key=True),
    Column("security_group_id", String(36), ForeignKey("security_groups.id"), primary_key=True, index=True),
)

floating_ips = Table(
    "floating_ips",
    metadata,
    _id(),
    Column("project_id", String(36), nullable=False, index=True),
    Column("floating_network_id", String(36), ForeignKey("networks.id"), nullable=False),
    Column("floating_port_id", String(36), ForeignKey("ports.id"), nullable=False, unique=True),
    Column("address", String(45), nullable=False, unique=True),
    Column("fixed_port_id", String(36), ForeignKey("ports.id")),
    Column("fixed_address", String(45)),
    Column("router_id", String(36), ForeignKey("routers.id")),
    Column("status", String(16), nullable=False, default="DOWN", doc="ACTIVE | DOWN | ERROR"),
    *_standard(),
    UniqueConstraint("fixed_port_id", "fixed_address"),
)

# ---------------------------------------------------------------------------------------------- vpn
vpns = Table(
    "vpns",
    metadata,
    _id(),
    Column("project_id", String(36), nullable=False, unique=True),
    Column("router_id", String(36), ForeignKey("routers.id"), nullable=False),
    Column("port", Integer, nullable=False, unique=True, doc="UDP, on the router's public address"),
    Column("private_key", String(44), nullable=False, doc="of WireGuard, base64; never shown or logged"),
    Column("public_key", String(44), nullable=False),
    Column("status", String(16), nullable=False, default="DOWN", doc="ACTIVE | DOWN | ERROR"),
    _created(),
)

vpn_clients = Table(
    "vpn_clients",
    metadata,
    _id(),
    Column("vpn_id", String(36), ForeignKey("vpns.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("user_name", String(255), nullable=False),
    Column("port_id", String(36), ForeignKey("ports.id"), nullable=False, unique=True, doc="has its fixed address"),
    Column("public_key", String(44), nullable=False, unique=True),
    Column("handshake_at", UTCDateTime, doc="the last one its network host saw"),
    _created(),
    UniqueConstraint("vpn_id", "user_name"),
)
