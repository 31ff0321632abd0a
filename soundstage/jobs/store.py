"""The store: a database of jobs, SQLite or PostgreSQL, brought up to date when it is opened.

with store.writing() as db:     # one transaction; whoever waits is told when it is committed
    db.execute(...)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import TypeAdapter

from soundstage.errors import ConfigError, MissingExtraError
from soundstage.jobs.news import News

try:
    import sqlalchemy as sa
    from sqlalchemy import event
    from sqlalchemy.engine import Connection, Engine, Row
    from sqlalchemy.exc import ArgumentError, DBAPIError
except ImportError as error:
    raise MissingExtraError("serve", "the server") from error

from soundstage.jobs import tables

log = logging.getLogger("soundstage.jobs")
FILE = "jobs.db"
MIGRATIONS = Path(__file__).with_name("migrations")
DRIVERS = ("sqlite", "postgresql+psycopg")
FROM_JSON: TypeAdapter[Any] = TypeAdapter(Any)  # twice as fast as the json module
BUSY_S = 30.0
MIGRATION_LOCK = 0x50554E  # of PostgreSQL's advisory locks; any number that is ours

RowValues = Mapping[str, Any]


class Store:
    """A database and the news of it. Threads may share it: SQLite's writers go one after the other."""

    def __init__(self, engine: Engine, news: News) -> None:
        self.engine = engine
        self.news = news
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._writer = threading.RLock()

    @classmethod
    def open(cls, data: Path, database: str | None = None) -> Store:
        """Open the database of a data folder, or that of a URL, and make or update its tables.

        Raises ConfigError for a URL that is none and a database that cannot be reached.
        """
        data.mkdir(parents=True, exist_ok=True)
        url = _url(data, database)
        try:
            engine = _engine(url)
            with FileLock(data / "migrations.lock"):
                _migrate(engine)
        except DBAPIError as error:
            raise ConfigError(
                f"the database {url.render_as_string()} cannot be opened: {_cause(error)}"
            ) from None
        return cls(engine, News())

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Give a connection whose reads all see one state of the store."""
        with self.engine.connect() as db, db.begin():
            yield db

    @contextmanager
    def writing(self, *, tells: bool = True) -> Iterator[Connection]:
        """Give a connection in a transaction that is committed if the block ends well.

        tells: whoever waits is told. Without it, the caller tells what others wait for.
        """
        if not self.is_sqlite:
            with self.engine.begin() as db:
                yield db
        else:
            with self._writer, self.engine.connect() as db:
                db = db.execution_options(writes=True)
                with db.begin():
                    yield db
        if tells:
            self.news.tell()


def one(db: Connection, query: Any) -> Row[Any] | None:
    """Return the first row of a query; None where there is none."""
    return db.execute(query).first()


def next_numbers(db: Connection, name: str, count: int) -> int:
    """Return the first of `count` numbers that no other transaction gets."""
    counter = tables.counters
    last = db.execute(
        sa.update(counter)
        .where(counter.c.name == name)
        .values(value=counter.c.value + count)
        .returning(counter.c.value)
    ).scalar()
    if last is None:
        db.execute(sa.insert(counter).values(name=name, value=count))
        last = count
    return int(last) - count + 1


def insert_all(db: Connection, table: sa.Table, rows: Sequence[RowValues]) -> None:
    """Insert rows; none is fine."""
    if rows:
        db.execute(sa.insert(table), [dict(row) for row in rows])


def _url(data: Path, database: str | None) -> sa.URL:
    if database is None:
        return sa.URL.create("sqlite", database=str(data / FILE))
    try:
        url = sa.make_url(database)
    except ArgumentError:
        raise ConfigError(
            "database is no URL; give one such as postgresql+psycopg://user@host/name, or leave it out"
        ) from None
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername not in DRIVERS:
        raise ConfigError(f"database is of {url.drivername}; give a URL of {' or '.join(DRIVERS)}")
    return url


def _engine(url: sa.URL) -> Engine:
    if url.get_backend_name() == "postgresql":
        try:
            import psycopg
        except ImportError:
            raise MissingExtraError("postgres", "a PostgreSQL database") from None
        log.debug("psycopg %s", psycopg.__version__)
        return sa.create_engine(
            url, pool_size=10, max_overflow=20, pool_pre_ping=True, json_deserializer=FROM_JSON.validate_json
        )
    engine = sa.create_engine(
        url,
        connect_args={"timeout": BUSY_S, "check_same_thread": False},
        pool_size=10,
        max_overflow=40,
        json_deserializer=FROM_JSON.validate_json,
    )

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions begin below, not in the driver
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(db: Connection) -> None:
        db.exec_driver_sql("BEGIN IMMEDIATE" if db.get_execution_options().get("writes") else "BEGIN")

    return engine


def _migrate(engine: Engine) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    with engine.connect() as db:
        db = db.execution_options(writes=True)
        with db.begin():
            if engine.dialect.name == "postgresql":
                db.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            config.attributes["connection"] = db
            command.upgrade(config, "head")


def _cause(error: DBAPIError) -> str:
    return " ".join(str(error.orig).split()) or type(error).__name__
