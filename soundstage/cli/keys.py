"""`soundstage keys`: keys of a server, made, listed and revoked in its data."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from soundstage.cli.data_folder import data_option, database_option
from soundstage.cli.parameters import SETTINGS, Ordered, as_json
from soundstage.cli.printing import json_text, print_rows

if TYPE_CHECKING:
    from soundstage.jobs.service import Jobs
    from soundstage.jobs.views import Scope

SCOPES = ("read", "submit", "admin", "worker")


@click.group("keys", cls=Ordered, no_args_is_help=True, context_settings=SETTINGS)
def app() -> None:
    """Make, list and revoke keys of a server on this machine."""


@contextmanager
def _jobs(data: Path | None, database: str | None) -> Iterator[Jobs]:
    from soundstage.server.command import open_jobs

    jobs = open_jobs(data, database)
    try:
        yield jobs
    finally:
        jobs.close()


def _scopes(words: Sequence[str]) -> list[Scope]:
    from soundstage.jobs.keys import SCOPES as KNOWN

    return [scope for scope in KNOWN if scope in (words or ("read", "submit"))]


@app.command("new")
@click.argument("name", help="What the key is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(SCOPES),
    help="What the key may do. May be given several times. [default: read and submit]",
)
@click.option("--owner", metavar="NAME", help="Whose jobs and files it sees. [default: the key's name]")
@data_option
@database_option
@as_json
def new(
    name: str,
    scopes: tuple[str, ...],
    owner: str | None,
    data: Path | None,
    database: str | None,
    as_json: bool,
) -> None:
    """Make a key and print it.

    It is shown this once: the server keeps only a hash.

    Example: soundstage keys new studio --scope admin
    """
    with _jobs(data, database) as jobs:
        id, secret = jobs.create_key(owner or name, _scopes(scopes), name)
    if as_json:
        print(json_text({"id": id, "secret": secret}))
        return
    print(f"the key {id}, which is shown this once:", file=sys.stderr)
    print(secret)


@app.command("list")
@data_option
@database_option
@as_json
def list_keys(data: Path | None, database: str | None, as_json: bool) -> None:
    """List the keys, without their secrets.

    Example: soundstage keys list
    """
    from soundstage.jobs.views import LOCAL

    with _jobs(data, database) as jobs:
        keys = jobs.keys(LOCAL)
    if as_json:
        print(json_text([key.model_dump(mode="json") for key in keys], indent=2))
        return
    rows = [(key.id, key.name, key.owner, " ".join(sorted(key.scopes))) for key in keys]
    print_rows(("id", "name", "owner", "scopes"), rows)


@app.command("revoke")
@click.argument("id", help="The key's id, of `soundstage keys list`.")
@data_option
@database_option
def revoke(id: str, data: Path | None, database: str | None) -> None:
    """Revoke a key: calls with it are refused from now on.

    Example: soundstage keys revoke key_2f7h
    """
    from soundstage.jobs.views import LOCAL

    with _jobs(data, database) as jobs:
        jobs.revoke_key(LOCAL, id)
