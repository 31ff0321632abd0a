"""Tables of the store, for SQLite and PostgreSQL. Times are seconds since 1970; migrations/ makes them."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

Json = JSON(none_as_null=True)
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# asked: the JobRequest. request: the checked fields, with references. words: what lists are searched by.
# affinity: model and adapters. price_s: expected seconds. worked_out_s:
# those by the headers alone. lost: deaths of its workers without progress.
# forgiven: the server was restarted during this lease, so that its end does not count. cancel_by: when a
# cancellation holds even if the worker does not answer. pause_asked: the worker should give the job back, to
# wait as paused. deleted_at: a trace of a deleted job, without its content.
jobs = Table(
    "jobs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("via", String(40), nullable=False),
    Column("state", String(20), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("model", String(400)),
    Column("affinity", Text),
    Column("label", Text),
    Column("words", Text, nullable=False, default=""),
    Column("asked", Json, nullable=False),
    Column("request", Json, nullable=False),
    Column("request_hash", String(64), nullable=False),
    Column("format", String(20)),
    Column("seed", BigInteger),
    Column("plan", Json),
    Column("shape", String(64)),
    Column("price_s", Float),
    Column("worked_out_s", Float),
    Column("created_at", Float, nullable=False),
    Column("queued_at", Float, nullable=False),
    Column("claimed_at", Float),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("attempt", Integer, nullable=False, default=0),
    Column("lost", Integer, nullable=False, default=0),
    Column("forgiven", Boolean, nullable=False, default=False),
    Column("worker", String(80)),
    Column("lease_id", String(40)),
    Column("lease_until", Float),
    Column("cancel_asked", Boolean, nullable=False, default=False),
    Column("cancel_by", Float),
    Column("pause_asked", Boolean, nullable=False, default=False),
    Column("progress", Json),
    Column("warnings", Json),
    Column("error", Json),
    Column("stage_seconds", Json),
    Column("webhook_url", Text),
    Column("parent_id", String(40)),
    Column("deleted_at", Float),
    Index(None, "state", "priority", "queued_at"),
    Index(None, "owner", "created_at"),
    Index(None, "lease_id"),
)

# kind: see views.AssetKind. job_id: the job whose result it is; None for inputs. file: below the data folder.
assets = Table(
    "assets",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("job_id", String(40), ForeignKey("jobs.id")),
    Column("media_type", String(100), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("name", Text),
    Column("file", String(200), nullable=False),
    Column("info", Json, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("used_at", Float, nullable=False),
    Index(None, "owner", "created_at"),
    Index(None, "owner", "sha256"),
    Index(None, "job_id"),
)

# Inputs that a job refers to.
uses = Table(
    "uses",
    metadata,
    Column("job_id", String(40), ForeignKey("jobs.id"), primary_key=True),
    Column("asset_id", String(40), ForeignKey("assets.id"), primary_key=True),
    Index(None, "asset_id"),
)

events = Table(
    "events",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("job_id", String(40), ForeignKey("jobs.id"), nullable=False),
    Column("owner", String(200), nullable=False),
    Column("type", String(20), nullable=False),
    Column("at", Float, nullable=False),
    Column("data", Json, nullable=False),
    Index(None, "job_id", "id"),
    Index(None, "owner", "id"),
)

# A counter's row is locked until its transaction ends, so that numbers become visible in their order.
counters = Table(
    "counters",
    metadata,
    Column("name", String(40), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

# Device time that was used. It stays when a job is deleted.
device_use = Table(
    "device_use",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("job_id", String(40), nullable=False),
    Column("at", Float, nullable=False),
    Column("seconds", Float, nullable=False),
    Index(None, "owner", "at"),
)

ANY_SHAPE = "*"
# Seconds that jobs of a shape took. Under ANY_SHAPE: the ratio of measured to worked-out seconds.
timings = Table(
    "timings",
    metadata,
    Column("model", String(400), primary_key=True),
    Column("shape", String(64), primary_key=True),
    Column("seconds", Float, nullable=False),
    Column("runs", Integer, nullable=False),
    Column("at", Float, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("device", String(80), nullable=False),
    Column("local", Boolean, nullable=False),
    Column("models", Json, nullable=False),
    Column("loaded", Text),
    Column("machine", Json, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("draining", Boolean, nullable=False, default=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("name", Text, nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Column("scopes", Json, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("last_used_at", Float),
    Column("revoked_at", Float),
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("owner", String(200), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request_hash", String(64), nullable=False),
    Column("job_id", String(40), nullable=False),
    Column("at", Float, nullable=False),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("job_id", String(40), nullable=False),
    Column("owner", String(200), nullable=False),
    Column("via", String(40), nullable=False),
    Column("url", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String(20), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("status", Integer),
    Column("error", Text),
    Column("created_at", Float, nullable=False),
    Column("next_at", Float),
    Column("delivered_at", Float),
    Index(None, "state", "next_at"),
    Index(None, "owner", "created_at"),
)

loras = Table(
    "loras",
    metadata,
    Column("name", String(200), primary_key=True),
    Column("asset_id", String(40), ForeignKey("assets.id"), nullable=False),
    Column("added_by", String(200), nullable=False),
    Column("created_at", Float, nullable=False),
)
