"""Network types of projects, leases of network hosts, project VPNs.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from kilonova.store.schema import UTCDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("projects", sa.Column("network_type", sa.String(length=16), nullable=True))
    op.add_column("services", sa.Column("lease_owner", sa.String(length=64), nullable=True))
    op.add_column("services", sa.Column("lease_until", UTCDateTime(), nullable=True))
    op.create_table(
        "project_networks",
        sa.Column("project_id", sa.String(length=36), nullable=False),
        sa.Column("network_id", sa.String(length=36), nullable=False),
        sa.Column("manager", sa.String(length=16), nullable=False),
        sa.Column("requested", sa.String(length=16), nullable=True),
        sa.Column("decision", sa.JSON(), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["network_id"], ["networks.id"], name=op.f("fk_project_networks_network_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("project_id", name=op.f("pk_project_networks")),
    )
    op.create_index(op.f("ix_project_networks_network_id"), "project_networks", ["network_id"], unique=False)
    op.execute(
        "INSERT INTO project_networks (project_id, network_id, manager, decision, created_at) "
        "SELECT project_id, id, manager, '[]', created_at FROM networks WHERE is_default AND NOT external "
        "AND id = (SELECT min(n.id) FROM networks n "
        "WHERE n.project_id = networks.project_id AND n.is_default AND NOT n.external)"
    )
    op.create_table(
        "vpns",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("project_id", sa.String(length=36), nullable=False),
        sa.Column("router_id", sa.String(length=36), nullable=False),
        sa.Column("port", sa.Integer(), nullable=False),
        sa.Column("private_key", sa.String(length=44), nullable=False),
        sa.Column("public_key", sa.String(length=44), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["router_id"], ["routers.id"], name=op.f("fk_vpns_router_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vpns")),
        sa.UniqueConstraint("port", name=op.f("uq_vpns_port")),
        sa.UniqueConstraint("project_id", name=op.f("uq_vpns_project_id")),
    )
    op.create_table(
        "vpn_clients",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("vpn_id", sa.String(length=36), nullable=False),
        sa.Column("user_name", sa.String(length=255), nullable=False),
        sa.Column("port_id", sa.String(length=36), nullable=False),
        sa.Column("public_key", sa.String(length=44), nullable=False),
        sa.Column("handshake_at", UTCDateTime(), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["port_id"], ["ports.id"], name=op.f("fk_vpn_clients_port_id")),
        sa.ForeignKeyConstraint(["vpn_id"], ["vpns.id"], name=op.f("fk_vpn_clients_vpn_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vpn_clients")),
        sa.UniqueConstraint("port_id", name=op.f("uq_vpn_clients_port_id")),
        sa.UniqueConstraint("public_key", name=op.f("uq_vpn_clients_public_key")),
        sa.UniqueConstraint("vpn_id", "user_name", name=op.f("uq_vpn_clients_vpn_id_user_name")),
    )
    op.create_index(op.f("ix_vpn_clients_vpn_id"), "vpn_clients", ["vpn_id"], unique=False)


def downgrade() -> None:
    op.drop_table("vpn_clients")
    op.drop_table("vpns")
    op.drop_table("project_networks")
    op.drop_column("services", "lease_until")
    op.drop_column("services", "lease_owner")
    op.drop_column("projects", "network_type")
