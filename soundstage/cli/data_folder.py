"""Options that name a server's data."""

from __future__ import annotations

import click

from soundstage.cli.parameters import FILE

data_option = click.option(
    "--data",
    type=FILE,
    metavar="DIR",
    help="The server's data folder. [default: soundstage/server in the user's data folder]",
)
database_option = click.option(
    "--database",
    metavar="URL",
    help="The server's database, such as postgresql+psycopg://... [default: jobs.db in the data folder]",
)
