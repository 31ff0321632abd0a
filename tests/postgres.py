"""A PostgreSQL server of the system's packages, for the tests that ask for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.limits import LONG_S

FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
USERS = ("postgres", "nobody")  # it refuses to run as root
UTF8 = ("-E", "UTF8", "--locale=C.UTF-8")


NAME = "jobs"
EMPTY = """do $$ declare name text; begin
    for name in select tablename from pg_tables where schemaname = 'public' and tablename <> 'alembic_version'
    loop execute 'truncate table ' || quote_ident(name) || ' cascade'; end loop;
end $$"""


class Postgres:
    """A running server on a socket of its own folder, with one database."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._run("postgres", f"create database {NAME}")

    def empty_database(self) -> str:
        """Empty the tables of the database, if there are some, and return its URL."""
        self._run(NAME, EMPTY)
        return f"postgresql+psycopg://soundstage@/{NAME}?host={self.folder}"

    def _run(self, database: str, statement: str) -> None:
        import psycopg

        where = {"host": str(self.folder), "user": "soundstage", "dbname": database}
        with psycopg.connect(**where, autocommit=True) as db:
            db.execute(statement)


@contextmanager
def running() -> Iterator[Postgres]:
    """Start a server, and stop it after the block. Skips the test where there is none."""
    pytest.importorskip("psycopg", reason="needs the 'postgres' extra")
    if not FOLDERS:
        pytest.skip("needs PostgreSQL's server: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="ss-pg-", dir="/tmp"))  # a socket's path is short
    user = _user()
    try:
        if user is not None:
            shutil.chown(folder, user)
        data = folder / "data"
        _run(
            user,
            "initdb",
            "-D",
            data,
            "-U",
            "soundstage",
            "-A",
            "trust",
            "-N",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
        )
        options = f"-k {folder} -c listen_addresses='' -c fsync=off"
        _run(user, "pg_ctl", "-D", data, "-w", "-o", options, "-l", folder / "log", "start")
        try:
            yield Postgres(folder)
        finally:
            _run(user, "pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> str | None:
    """Return the user to run as; None for oneself."""
    if os.getuid() != 0:
        return None
    import pwd

    known = {entry.pw_name for entry in pwd.getpwall()}
    found = next((name for name in USERS if name in known), None)
    if found is None or shutil.which("runuser") is None:
        pytest.skip("PostgreSQL's server refuses to run as root, and there is no other user to run it as")
    return found


def _run(user: str | None, program: str, *words: object) -> None:
    command = [str(FOLDERS[0] / program), *map(str, words)]
    command = command if user is None else ["runuser", "-u", user, "--", *command]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/tmp", timeout=LONG_S)
    assert done.returncode == 0, done.stderr + done.stdout
