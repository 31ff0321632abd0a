"""`soundstage models`: list published weights, download, add, check, look into and convert them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from soundstage.cli.announcing import at_work
from soundstage.cli.completion import models
from soundstage.cli.models_convert import convert
from soundstage.cli.parameters import FILE, SETTINGS, Ordered, as_json
from soundstage.cli.printing import json_text, print_rows
from soundstage.cli.process import INTERRUPTED, MISUSE
from soundstage.errors import RequestError, WeightsError
from soundstage.library import pull as pulling
from soundstage.library import verify as checking
from soundstage.library.catalog import FILES, MODELS, CatalogFile, find, gigabytes
from soundstage.library.identify import Description, identify
from soundstage.library.installed import Found, Library, models_folder

if TYPE_CHECKING:
    from soundstage.lora.report import AdapterReport

KINDS = {
    "model": "Whole models",
    "part": "Parts of split models",
    "text encoder": "Text encoders",
    "upscaler": "Upscalers",
    "lora": "LoRAs",
}


@click.group("models", cls=Ordered, no_args_is_help=True, context_settings=SETTINGS)
def app() -> None:
    """List, download, check, inspect and convert model weights."""


# --- list -------------------------------------------------------------------------------------------


@app.command("list")
@click.option("--here", is_flag=True, help="Show only files on this machine.")
@as_json
def list_models(here: bool, as_json: bool) -> None:
    """List published files, and where they are on this machine.

    Shows the size and the licence of each. Looks into downloads, added folders, the Hugging Face cache, and
    ComfyUI and WanGP where they are found.

    Example: soundstage models list --here
    """
    library = Library.open()
    found = library.find()
    if as_json:
        print(json_text(library.listing(found), indent=2))
        return
    if not here:
        _print_models()
    for kind, title in KINDS.items():
        _print_files(title, [entry for entry in FILES if entry.kind == kind], found, here)
    for name, paths in library.models.items():
        print(f"added model {name}: {', '.join(map(str, paths))}")
    for path in library.paths:
        print(f"added: {path}")


def _print_models() -> None:
    print("Models: pull one and run it by its name (nano ships with Soundstage)\n")
    for name in MODELS:
        entries = find(name)
        print(f"{name}  {gigabytes(sum(entry.num_bytes for entry in entries))}")
        print(f"    {', '.join(entry.name for entry in entries)}")


def _print_files(title: str, entries: list[CatalogFile], found: dict[str, list[Found]], here: bool) -> None:
    """Print files as lines, not as a table: names and paths can be copied, however narrow the window."""
    shown = [entry for entry in entries if not here or found.get(entry.name)]
    if shown:
        print(f"\n{title}\n")
    for entry in shown:
        size = gigabytes(entry.num_bytes) if entry.num_bytes else "size not published"
        gate = ", accepted on the hub first" if entry.gated else ""
        print(f"{entry.name}  {size}  {entry.dtype}  {entry.licence} licence{gate}")
        print(f"    {entry.holds}: {entry.purpose}")
        for copy in found.get(entry.name, ()):
            print(f"    here: {_copy_line(entry, copy)}")


def _copy_line(entry: CatalogFile, copy: Found) -> str:
    size = "" if copy.complete else f", {copy.num_bytes:,} bytes where {entry.num_bytes:,} are published"
    return f"{copy.path} ({copy.label}{size})"


# --- pull -------------------------------------------------------------------------------------------


@app.command()
@click.argument("name", shell_complete=models, help="A model or a file of `soundstage models list`.")
@click.option(
    "--to", type=FILE, metavar="FOLDER", help="Download into this folder. [default: the user's data folder]"
)
@click.option("--dry-run", is_flag=True, help="Print what would be downloaded, and stop.")
def pull(name: str, to: Path | None, dry_run: bool) -> None:
    """Download a model or a file.

    After an interruption the same command continues. Files that are on this machine already are not
    downloaded again.

    Example: soundstage models pull ltx-2.3-distilled
    """
    download(find(name), to, dry_run)


def download(entries: Sequence[CatalogFile], to: Path | None, dry_run: bool) -> None:
    """Download what of some published files is not here, and print where each is."""
    library = Library.open()
    folder = to or models_folder()
    lacking = _lacking(entries, library)
    with at_work("ask the hub"):
        downloads = pulling.plan_pull(lacking, folder)
    _print_sizes(downloads, folder)
    pulling.check_space(downloads)
    if dry_run:
        return
    if to is not None and downloads:
        folder.mkdir(parents=True, exist_ok=True)
        library.add([folder])
    for one in downloads:
        _pull(one, library)
        print(one.target)


def _lacking(entries: Sequence[CatalogFile], library: Library) -> list[CatalogFile]:
    """Return the entries to download, and print where the others are."""
    here = library.complete(entries)
    for entry in entries:
        if entry.name in here:
            print(f"{entry.name} is here: {here[entry.name].path}", file=sys.stderr)
        if not entry.runs:
            told = f"{entry.name} is stored as {entry.dtype}, which Soundstage does not read yet"
            print(told, file=sys.stderr)
    return [entry for entry in entries if entry.name not in here]


def _print_sizes(downloads: Sequence[pulling.Download], folder: Path) -> None:
    for download in downloads:
        left = download.remaining_bytes
        state = "is here" if not left else f"{gigabytes(left)} of {gigabytes(download.num_bytes)}"
        print(f"{download.path}: {state}, {download.entry.licence} licence", file=sys.stderr)
    total = sum(download.remaining_bytes for download in downloads)
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    print(f"{gigabytes(total)} to fetch into {folder}, {gigabytes(free)} free there", file=sys.stderr)


def _pull(download: pulling.Download, library: Library) -> None:
    """Download a file; after an interruption, print how to continue and end."""
    if download.is_here:
        return
    try:
        name = download.target.name
        told = f"checking the hash of {name}, which reads all of it ..."
        sha256 = pulling.fetch(download, checking=lambda: print(told, file=sys.stderr))
    except KeyboardInterrupt:
        came = gigabytes(download.num_bytes - download.remaining_bytes)
        told = f"soundstage: interrupted; {came} are kept, the same command goes on from there"
        print(told, file=sys.stderr)
        raise click.exceptions.Exit(INTERRUPTED) from None
    library.remember_hash(download.target, sha256, "hub")


# --- add, forget, verify ----------------------------------------------------------------------------


@app.command()
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    type=FILE,
    metavar="PATH...",
    help="Weights files, or folders to look through, such as ComfyUI's or WanGP's.",
)
@click.option("--name", help="Make the paths one model of this name, for `soundstage generate --model NAME`.")
def add(paths: tuple[Path, ...], name: str | None) -> None:
    """Register files and folders, after checking what they hold.

    Example: soundstage models add transformer.safetensors vae.safetensors audio.safetensors gemma --name mine
    """
    for path in paths:
        if path.is_file() or name is not None:
            description = identify(path)
            if description.refusal:
                raise WeightsError(description.refusal)
            print(f"{path}: {_headline(description)}")
    library = Library.open()
    if name is not None:
        from soundstage.library.model_files import add_model

        add_model(library, paths, name)
        print(f"model {name}: soundstage generate --model {name} ...")
        return
    library.add(paths)
    known = library.below(paths)
    for entry, copy in known:
        print(f"{copy.path}: {entry}")
    if not known:
        print("no file by a published name; give a model that these make up its --name", file=sys.stderr)


@app.command()
@click.argument("name", help="The name, file or folder that was added.")
def forget(name: str) -> None:
    """Undo `add`. Deletes no weights.

    Example: soundstage models forget mine
    """
    Library.open().forget(name)


@app.command()
@click.argument(
    "names",
    nargs=-1,
    required=True,
    metavar="NAME...",
    help="Files, folders, added models, or names of `soundstage models list`.",
)
@click.option("--quick", is_flag=True, help="Check the structure only: read headers, not the weights.")
@click.option("--online", is_flag=True, help="Ask the Hugging Face hub for the hashes of published files.")
@as_json
def verify(names: tuple[str, ...], quick: bool, online: bool, as_json: bool) -> None:
    """Check that files are complete and undamaged.

    Checks the structure and the SHA-256 hash. A hash is compared with the hub's, or with the one of the first
    check. The exit code is 2 if a file is damaged.

    Example: soundstage models verify ltx-2.3-distilled
    """
    from soundstage.library.model_files import named_paths

    library = Library.open()
    paths = [path for name in names for path in named_paths(name, library)]
    for path in checking.ask_hub(paths, library) if online else ():
        print(f"{path} has no published name; the hub was not asked", file=sys.stderr)
    verdicts = []
    for path in paths:
        with at_work(f"check {path.name}"):
            for verdict in checking.verify([path], library, quick=quick):
                verdicts.append(verdict)
                if not as_json:
                    print(_verdict_line(verdict))
    if as_json:
        print(json_text([verdict.to_dict() for verdict in verdicts], indent=2))
    if any(verdict.problem for verdict in verdicts):
        raise click.exceptions.Exit(MISUSE)


def _verdict_line(verdict: checking.Verdict) -> str:
    if verdict.problem is not None:
        return verdict.problem
    if verdict.sha256 is None:
        return f"{verdict.path}: structure is whole"
    by = {"hub": "as the hub says", "first seen": "as when it was first seen"}.get(
        verdict.vouched or "", "seen first now"
    )
    return f"{verdict.path}: whole, SHA-256 {verdict.sha256}, {by}"


# --- inspect ----------------------------------------------------------------------------------------


@app.command()
@click.argument("file", type=FILE, help="A weights file or a folder.")
@click.option(
    "--model",
    metavar="NAME|PATH",
    help="Measure how much the LoRA in FILE changes the weights of this model.",
)
@as_json
def inspect(file: Path, model: str | None, as_json: bool) -> None:
    """Show what a weights file holds.

    Shows parts, sizes, dtypes, version and metadata, from the file's header. For a LoRA, also show how many
    layers it changes, its ranks and its base model.

    Example: soundstage models inspect ltx-2.3-22b-dev.safetensors
    """
    description = identify(file)
    report = _adapter_report(description, model)
    if as_json:
        lora = {} if report is None else {"lora": report.to_dict()}
        print(json_text({**description.to_dict(), **lora}, indent=2))
        return
    for notice in description.notices:
        print(notice, file=sys.stderr)
    print(f"{file}: {_headline(description)}")
    if description.refusal:
        print(description.refusal)
    _print_parts(description)
    for key, value in description.metadata.items():
        text = value if len(value) <= 200 else f"{value[:200]}... ({len(value):,} characters)"
        print(f"{key}: {text}")
    if description.config:
        print(f"config: {', '.join(description.config)}")
    if report is not None:
        print(report)


def _adapter_report(description: Description, model: str | None) -> AdapterReport | None:
    """Return what a LoRA says and, with a model, what it changes of it; None for a file that is no LoRA."""
    if description.kind == "LoRA" and not description.refusal:
        from soundstage.rendering.loras import report_on

        return report_on(description.files[0], model)
    if model is not None:
        raise RequestError(f"--model is for LoRAs, and {description.files[0]} is none of LTX-2.3")
    return None


def _headline(description: Description) -> str:
    """Return one line: what a file is, its version, its size."""
    version = f", LTX {description.version}" if description.version else ""
    distilled = ", distilled" if description.distilled else ""
    parts = ", ".join(part.replace("_", " ") for part in description.part_names)
    size = gigabytes(description.num_bytes)
    return f"{description.kind} ({description.layout}){version}{distilled}, {size}: {parts}"


def _print_parts(description: Description) -> None:
    rows = []
    for part in description.parts:
        dtypes = ", ".join(f"{dtype} {count}" for dtype, count in part.dtypes.items())
        name, size = part.part.replace("_", " "), gigabytes(part.num_bytes)
        rows.append((name, f"{part.num_tensors:,}", f"{part.num_params:,}", size, dtypes))
    print_rows(("part", "tensors", "parameters", "size", "dtypes"), rows)


app.add_command(convert)
