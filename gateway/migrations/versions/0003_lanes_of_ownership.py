"""who owns a pair, in lanes that commits lock apart from each other"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.rename_table("mesh_ownership", "mesh_ownership_before")
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "mesh_ownership",
        sa.Column("region", text, nullable=False),
        sa.Column("domain", text, nullable=False),
        sa.Column("lane", sa.Integer(), autoincrement=False, server_default="0", nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("incarnation", sa.Integer(), nullable=False),
        sa.Column("frozen", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("region", "domain", "lane"),
        comment="the (region, domain) pairs this node accepts writes for, alike in several lanes: "
        "a commit locks one, a change all",
    )
    columns = "region, domain, epoch, incarnation, frozen"
    op.execute(f"INSERT INTO mesh_ownership ({columns}) SELECT {columns} FROM mesh_ownership_before")
    op.drop_table("mesh_ownership_before")
