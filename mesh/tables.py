"""The tables that every domain's database has besides those of its resources: who owns, what was done,
what is to be announced. Kept apart from the engine that writes them."""

import dataclasses
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

# PostgreSQL keeps instants as timestamptz; SQLite as RFC 3339 text of fixed width, which sorts.
INSTANT = sa.DateTime(timezone=True).with_variant(sa.String(27), "sqlite")
# Compared byte by byte on both, so that pages and digests have one order.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = postgresql.JSONB().with_variant(sa.Text(), "sqlite")


@dataclasses.dataclass(frozen=True)
class Plumbing:
    """The plumbing's own tables in one database."""

    ownership: sa.Table
    outbox: sa.Table
    relay: sa.Table
    audit: sa.Table
    seal: sa.Table
    attachment: sa.Table
    attached: sa.Table
    inbox: sa.Table
    step: sa.Table
    request: sa.Table
    cursor: sa.Table


def _where(condition: str) -> dict[str, Any]:
    return {"postgresql_where": sa.text(condition), "sqlite_where": sa.text(condition)}


def plumbing(metadata: sa.MetaData) -> Plumbing:
    """Defines them."""
    text, big, whole = TEXT, sa.BigInteger, sa.Integer
    column = sa.Column
    return Plumbing(
        ownership=sa.Table(
            "mesh_ownership",
            metadata,
            column("region", text, primary_key=True),
            column("domain", text, primary_key=True),
            column("lane", whole, primary_key=True, autoincrement=False, server_default="0"),
            column("epoch", whole, nullable=False),
            column("incarnation", whole, nullable=False),
            column("frozen", sa.Boolean, nullable=False),
            comment="the (region, domain) pairs this node accepts writes for, alike in several lanes: "
            "a commit locks one, a change all",
        ),
        outbox=sa.Table(
            "mesh_outbox",
            metadata,
            column("id", ROW_ID, sa.Identity(), primary_key=True),
            column("region", text, nullable=False),
            column("epoch", whole, nullable=False),
            column("incarnation", whole, nullable=False),
            column("number", big),
            column("event_id", text, nullable=False),
            column("type", text, nullable=False),
            column("subject", text, nullable=False),
            column("name", text, nullable=False),
            column("time", INSTANT, nullable=False),
            column("trace", text, nullable=False),
            column("audit_digest", text, nullable=False),
            column("payload", sa.LargeBinary, nullable=False),
            sa.Index("mesh_outbox_log", "region", "epoch", "incarnation", "number", unique=True),
            column("void", text),
            sa.Index("mesh_outbox_unnumbered", "id", **_where("number IS NULL")),
            comment="the log: numbered by the relay, then published; void says why one could not be",
        ),
        relay=sa.Table(
            "mesh_relay",
            metadata,
            column("region", text, primary_key=True),
            column("epoch", whole, primary_key=True, autoincrement=False),
            column("incarnation", whole, primary_key=True, autoincrement=False),
            column("fence", big, nullable=False),
            column("numbered", big, nullable=False),
            column("published", big, nullable=False),
            comment="how far each log is numbered and published, and by which relay",
        ),
        audit=sa.Table(
            "mesh_audit",
            metadata,
            column("id", ROW_ID, sa.Identity(), primary_key=True),
            column("time", INSTANT, nullable=False),
            column("region", text, nullable=False),
            *(column(name, text, nullable=False) for name in ("actor", "deputy", "role", "organisation")),
            *(column(name, text, nullable=False) for name in ("method", "name", "before_digest")),
            *(column(name, text, nullable=False) for name in ("after_digest", "result", "purpose")),
            column("count", whole, nullable=False),
            *(column(name, text, nullable=False) for name in ("request_id", "trace", "digest")),
            column("seal", big),
            sa.Index("mesh_audit_name", "name"),
            sa.Index("mesh_audit_unsealed", "id", **_where("seal IS NULL")),
            comment="who did what to which record; digest is SHA-256 over the columns before it",
        ),
        seal=sa.Table(
            "mesh_seal",
            metadata,
            column("number", big, primary_key=True, autoincrement=False),
            column("time", INSTANT, nullable=False),
            *(column(name, text, nullable=False) for name in ("previous", "root", "head", "signature")),
            column("leaves", sa.LargeBinary, nullable=False),
            comment="batches of audit rows, each with the ids and digests that its Merkle root is over",
        ),
        attachment=sa.Table(
            "mesh_attachment",
            metadata,
            column("sha256", text, primary_key=True),
            column("media_type", text, nullable=False),
            column("size_bytes", big, nullable=False),
            column("upload_time", INSTANT, nullable=False),
            sa.Index("mesh_attachment_time", "upload_time"),
            comment="files kept in the attachment store, by the digest of their content",
        ),
        attached=sa.Table(
            "mesh_attached",
            metadata,
            column("sha256", text, sa.ForeignKey("mesh_attachment.sha256"), primary_key=True),
            column("name", text, primary_key=True),
            comment="which records refer to which files; a file without any is deleted after a day",
        ),
        inbox=sa.Table(
            "mesh_inbox",
            metadata,
            column("reaction", text, primary_key=True),
            column("event_id", text, primary_key=True),
            column("time", INSTANT, nullable=False),
            sa.Index("mesh_inbox_time", "time"),
            comment="events that were acted on; in the commit of what they led to",
        ),
        step=sa.Table(
            "mesh_step",
            metadata,
            column("name", text, primary_key=True),
            column("number", whole, primary_key=True, autoincrement=False),
            column("action", text, nullable=False),
            column("from_state", text, nullable=False),
            column("to_state", text, nullable=False),
            column("actor", text, nullable=False),
            column("role", text, nullable=False),
            column("organisation", text, nullable=False),
            column("time", INSTANT, nullable=False),
            column("reason", text, nullable=False),
            column("due_time", INSTANT),
            column("level", text, nullable=False),
            column("unit", text, nullable=False),
            column("deputy", text, nullable=False),
            column("cause", text, nullable=False),
            comment="the history of every resource with a flow; reason is encrypted",
        ),
        request=sa.Table(
            "mesh_request",
            metadata,
            column("caller", text, primary_key=True),
            column("request_id", text, primary_key=True),
            column("region", text, nullable=False),
            column("fingerprint", text, nullable=False),
            column("answer", text, nullable=False),
            column("time", INSTANT, nullable=False),
            sa.Index("mesh_request_time", "time"),
            comment="first answers by request_id, encrypted, replayed when the request is repeated",
        ),
        cursor=sa.Table(
            "mesh_cursor",
            metadata,
            column("region", text, primary_key=True),
            column("domain", text, primary_key=True),
            column("node", text, nullable=False),
            column("epoch", whole, nullable=False),
            column("incarnation", whole, nullable=False),
            column("number", big, nullable=False),
            column("high_water", big, nullable=False),
            column("read_time", INSTANT),
            column("refused", big, nullable=False),
            column("trouble", text, nullable=False),
            comment="how far each log of another node is copied; "
            "read_time: as fresh as this when all is there",
        ),
    )
