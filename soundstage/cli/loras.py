"""`soundstage loras`: the catalogue of published adapters, by name and hash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from soundstage.cli.announcing import at_work
from soundstage.cli.models import download
from soundstage.cli.parameters import FILE, SETTINGS, Ordered, as_json
from soundstage.cli.printing import json_text
from soundstage.errors import RequestError
from soundstage.library.adapters import KnownAdapter, adapter_facts, adapter_named, adapters, recognised
from soundstage.library.catalog import gigabytes
from soundstage.library.installed import Library
from soundstage.library.pull import sha256_of
from soundstage.lora.folders import lora_file
from soundstage.weights.header import read_header


@click.group("loras", cls=Ordered, no_args_is_help=True, context_settings=SETTINGS)
def app() -> None:
    """List, show, identify and download published adapters."""


@app.command("list")
@click.option("--here", is_flag=True, help="Show only adapters on this machine.")
@as_json
def list_loras(here: bool, as_json: bool) -> None:
    """List published adapters: what each is for and what it follows.

    A making command takes each by its name: --lora union-control:0.8.

    Example: soundstage loras list
    """
    found = Library.open().find()
    shown = [
        (adapter, copies)
        for adapter in adapters().values()
        for copies in ([copy for name in adapter.all_files for copy in found.get(name, ())],)
        if copies or not here
    ]
    if as_json:
        listed = [{**one.to_dict(), "here": [copy.to_dict() for copy in copies]} for one, copies in shown]
        print(json_text(listed, indent=2))
        return
    for adapter, copies in shown:
        follows = f"; follows {', '.join(adapter.reference)}" if adapter.reference else ""
        print(f"{adapter.name}: {adapter.purpose}{follows}")
        for copy in copies:
            print(f"    here: {copy.path} ({copy.label})")


@app.command()
@click.argument("name")
@as_json
def show(name: str, as_json: bool) -> None:
    """Show all that is known of a published adapter, and what is not.

    Example: soundstage loras show union-control
    """
    adapter = adapter_named(name)
    if as_json:
        print(json_text(adapter.to_dict(), indent=2))
        return
    print(f"{adapter.name}: {adapter.purpose}")
    for what, value in _facts(adapter):
        print(f"  {what}: {value}")
    print(f"  not known: {', '.join(adapter.unknown)}")


def _facts(adapter: KnownAdapter) -> list[tuple[str, Any]]:
    """Return what is known of an adapter, in the order in which it is shown."""
    files = [
        f"{file.repository}/{file.path} "
        f"({gigabytes(file.num_bytes) if file.num_bytes else 'size not published'}, {file.licence} licence"
        f"{', accepted on the hub first' if file.gated else ''})"
        for file in adapter.files
    ]
    facts = [
        ("follows", ", ".join(adapter.reference)),
        ("reference downscale factor", adapter.downscale),
        ("strength", adapter.usual),
        ("prompt", adapter.prompt),
        ("trigger", adapter.trigger),
        ("rank", adapter.rank),
        ("base model", adapter.base and f"LTX-{adapter.base}"),
        *(("file", file) for file in files),
    ]
    return [(what, value) for what, value in facts if value]


@app.command()
@click.argument("file", type=FILE)
@as_json
def identify(file: Path, as_json: bool) -> None:
    """Tell which published adapter a file is: by hash, else by size and rank, else by name.

    What the file says of itself counts before what the catalogue says.

    Example: soundstage loras identify style.safetensors
    """
    file = lora_file(file)
    header, library = read_header(file), Library.open()
    with at_work(f"read {file.name}", quiet=as_json):
        sha256 = sha256_of(file)
    facts = adapter_facts(file, library, sha256)
    found = recognised(header, library, sha256)
    if as_json:
        print(json_text({**facts, "sha256": sha256}, indent=2))
        return
    print(f"{file}: {'unknown' if found is None else found.told}")
    for name, value in facts.items():
        if value is not None and name not in ("published", "known_by"):
            print(f"  {name}: {', '.join(value) if isinstance(value, list) else value}")


@app.command()
@click.argument("name")
@click.option("--to", type=FILE, metavar="FOLDER", help="Download into this folder.")
@click.option("--dry-run", is_flag=True, help="Print what would be downloaded, and stop.")
def pull(name: str, to: Path | None, dry_run: bool) -> None:
    """Download a published adapter; after an interruption the same command continues.

    Example: soundstage loras pull union-control
    """
    adapter = adapter_named(name)
    if not adapter.files:
        raise RequestError(
            f"where '{adapter.name}' is published is not known, so it cannot be fetched; get its file "
            "yourself, then give its path, or `soundstage models add PATH`",
            field="name",
        )
    download(adapter.files, to, dry_run)
