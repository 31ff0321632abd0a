"""`soundstage models`: what is published, what is on this machine, and whether it is whole."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soundstage.cli.app import PLAIN, json_text, print_table
from soundstage.errors import RequestError, WeightsError, listed
from soundstage.library.catalog import FILES, MODELS, CatalogFile, find, gigabytes
from soundstage.weights.header import is_there

if TYPE_CHECKING:
    from soundstage.library.identify import Description
    from soundstage.library.installed import Found, Library
    from soundstage.library.pull import Download
    from soundstage.lora.merge import Merge
    from soundstage.lora.report import AdapterReport

INTERRUPTED = 130
KINDS = {
    "model": "Whole models",
    "part": "Parts of split models",
    "text encoder": "Text encoders",
    "upscaler": "Upscalers",
    "lora": "LoRAs",
}

app = typer.Typer(
    no_args_is_help=True,
    **PLAIN,
    help="Weights: what is published, what is here, download, check, look into.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


@app.command("list")
def list_models(
    here: Annotated[bool, typer.Option("--here", help="Only what is on this machine.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show every published file: size, licence, and where it is on this machine.

    Looks into downloads, added folders, the hub's cache, and ComfyUI and WanGP where they are found.

    Example: soundstage models list --here
    """
    from soundstage.library.installed import Library

    library = Library.open()
    found = library.find()
    if as_json:
        print(json_text(_listing(library, found), indent=2))
        return
    if not here:
        _print_models()
    for kind, title in KINDS.items():
        _print_files(title, [entry for entry in FILES if entry.kind == kind], found, here)
    for name, paths in library.models.items():
        print(f"added model {name}: {', '.join(map(str, paths))}")
    for path in library.paths:
        print(f"added: {path}")


@app.command()
def pull(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A model or a file of `soundstage models list`.")
    ],
    to: Annotated[Path | None, typer.Option(help="Folder for downloads. [default: the user's]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, and stop.")] = False,
) -> None:
    """Download a model or a file; the same command goes on after an interruption.

    What is on this machine already is not fetched again. Example: soundstage models pull ltx-2.3-distilled
    """
    from soundstage.library.installed import Library, models_folder
    from soundstage.library.pull import check_space, plan_pull

    library = Library.open()
    folder = to or models_folder()
    downloads = plan_pull(_lacking(find(name), library, folder), folder)
    _announce(downloads, folder)
    check_space(downloads)
    if dry_run:
        return
    if to is not None and downloads:
        library.add([_made(folder)])
    for download in downloads:
        _fetch(download, library)
        print(download.target)


@app.command()
def add(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Weights files, folders, or ComfyUI's or WanGP's own."),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the model that these make up: `generate --model NAME`.")
    ] = None,
) -> None:
    """Make files and folders known, after looking into them.

    Example: soundstage models add transformer.safetensors vae.safetensors audio.safetensors gemma --name mine
    """
    from soundstage.library.identify import identify
    from soundstage.library.installed import Library

    for path in paths:
        if path.is_file() or name is not None:
            description = identify(path)
            if description.refusal:
                raise WeightsError(description.refusal)
            print(f"{path}: {_headline(description)}")
    library = Library.open()
    library.add(paths, name)
    if name is not None:
        _check_model(library, name)
        print(f"model {name}: soundstage generate --model {name} ...")
        return
    here = [(entry, copy) for entry, copies in library.find().items() for copy in copies]
    known = [(e, copy) for e, copy in here if any(_is_in(copy.path, path.absolute()) for path in paths)]
    for entry, copy in known:
        print(f"{copy.path}: {entry}")
    if not known:
        print("no file by a published name; give a model that these make up its --name", file=sys.stderr)


def _is_in(path: Path, added: Path) -> bool:
    return path == added or added in path.parents


@app.command()
def forget(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An added model's name, file or folder.")],
) -> None:
    """Undo `add`. Deletes no weights.

    Example: soundstage models forget mine
    """
    from soundstage.library.installed import Library

    Library.open().forget(name)


@app.command()
def verify(
    names: Annotated[
        list[str], typer.Argument(metavar="NAME...", help="Files, folders, added models or catalogue names.")
    ],
    quick: Annotated[
        bool, typer.Option("--quick", help="Structure only: reads headers, no content.")
    ] = False,
    online: Annotated[
        bool, typer.Option("--online", help="Ask the hub for the hashes of published files.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that files are whole: structure, and SHA-256 against the hub's or the first one seen.

    Exit code 2 if one is not. Example: soundstage models verify ltx-2.3-distilled
    """
    from soundstage.library.installed import Library
    from soundstage.library.verify import verify as check

    library = Library.open()
    paths = [path for name in names for path in _paths(name, library)]
    if online:
        _ask_hub(paths, library)
    verdicts = []
    for verdict in check(paths, library, quick=quick):
        verdicts.append(verdict)
        if not as_json:
            print(verdict.problem or _verdict_line(verdict.path, verdict.sha256, verdict.vouched))
    if as_json:
        print(json_text([verdict.to_dict() for verdict in verdicts], indent=2))
    if any(verdict.problem for verdict in verdicts):
        raise typer.Exit(2)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A weights file or a folder.")],
    model: Annotated[
        str | None, typer.Option(help="A model, to see what a LoRA would change of it and by how much.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a file holds: parts, sizes, dtypes, version, metadata. Reads headers only.

    Of a LoRA also how many layers it changes, its ranks and its base model.

    Example: soundstage models inspect ltx-2.3-22b-dev.safetensors
    """
    from soundstage.library.identify import identify

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
    print_table(_part_table(description))
    for key, value in description.metadata.items():
        text = value if len(value) <= 200 else f"{value[:200]}... ({len(value):,} characters)"
        print(f"{key}: {text}")
    if description.config:
        print(f"config: {', '.join(description.config)}")
    if report is not None:
        print(report)


@app.command()
def convert(
    source: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE... TARGET", help="Files, folders or a model's name, then the target."),
    ],
    layout: Annotated[str, typer.Option(help="official, bundle, kijai or diffusers.")],
    dtype: Annotated[
        str | None, typer.Option(help="bf16, fp8 or int8. [default: every byte as it is]")
    ] = None,
    lora: Annotated[
        list[str] | None, typer.Option(help="An adapter to merge in: PATH[:STRENGTH]. Repeatable.")
    ] = None,
) -> None:
    """Write a model in another layout or dtype, tensor by tensor; prints the files.

    The last argument is the target: a new .safetensors file for official, else a folder.

    Example: soundstage models convert ltx-2.3-22b-dev.safetensors dev --layout diffusers --dtype fp8
    """
    from typing import cast

    from soundstage.library.convert import convert as write
    from soundstage.library.convert_plan import Dtype, Layout
    from soundstage.library.installed import Library

    if len(source) < 2:
        raise RequestError(f"'{source[0]}' has no target; give what to convert, then where to")
    library = Library.open()
    paths = [path for name in source[:-1] for path in _paths(name, library)]
    merge = _merge(lora or [])
    written = write(
        paths,
        source[-1],
        layout=cast(Layout, layout),
        dtype=cast("Dtype | None", dtype),
        edit=merge,
        on_progress=_Percent(),
    )
    _check_merge(merge, written)
    for path in written:
        print(path)


def _merge(texts: list[str]) -> Merge | None:
    """Adapters as --lora spells them."""
    if not texts:
        return None
    from soundstage.lora.files import read_lora
    from soundstage.lora.merge import Merge

    loras = []
    for text in texts:
        match = re.fullmatch(r"(.+?)(?::(-?\d+\.?\d*))?", text)
        if match is None:
            raise RequestError(f"--lora is '{text}'; give PATH[:STRENGTH], such as style.safetensors:0.8")
        loras.append((read_lora(match[1]), float(match[2] or 1)))
    return Merge(loras)


def _check_merge(merge: Merge | None, written: list[Path]) -> None:
    """Only after the last weight is it known that an adapter met none; then nothing is left."""
    try:
        for count, unmet in merge.check() if merge is not None else ():
            print(f"merged into {count:,} layers, {len(unmet)} of the adapter's not met", file=sys.stderr)
    except WeightsError:
        for path in written:
            path.unlink(missing_ok=True)
        raise


class _Percent:
    """Progress on stderr, a line for each tenth."""

    def __init__(self) -> None:
        self._tenth = 0

    def __call__(self, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth > self._tenth:
            self._tenth = tenth
            print(f"{10 * tenth} % of {gigabytes(total)}", file=sys.stderr)


# --- list -------------------------------------------------------------------------------------------


def _listing(library: Library, found: dict[str, list[Found]]) -> dict[str, Any]:
    """JSON-ready: the catalogue with places, and what was added."""
    files = [
        {
            "name": entry.name,
            "kind": entry.kind,
            "repository": entry.repository,
            "path": entry.path,
            "num_bytes": entry.num_bytes or None,
            "exact": entry.exact,
            "licence": entry.licence,
            "gated": entry.gated,
            "holds": entry.holds,
            "dtype": entry.dtype,
            "purpose": entry.purpose,
            "runs": entry.runs,
            "here": [
                {
                    "path": str(copy.path),
                    "in": copy.label,
                    "num_bytes": copy.num_bytes,
                    "complete": copy.complete,
                }
                for copy in found.get(entry.name, ())
            ],
        }
        for entry in FILES
    ]
    added = {name: [str(path) for path in paths] for name, paths in library.models.items()}
    return {"models": MODELS, "files": files, "added": added, "paths": [str(path) for path in library.paths]}


def _print_models() -> None:
    print("Models: pull one and run it by its name (nano ships with Soundstage)\n")
    for name in MODELS:
        entries = find(name)
        print(f"{name}  {gigabytes(sum(entry.num_bytes for entry in entries))}")
        print(f"    {', '.join(entry.name for entry in entries)}")


def _print_files(title: str, entries: list[CatalogFile], found: dict[str, list[Found]], here: bool) -> None:
    """Lines rather than a table: names and paths are there to be copied, however narrow the window."""
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


def _lacking(entries: tuple[CatalogFile, ...], library: Library, folder: Path) -> list[CatalogFile]:
    """Entries that no place has whole. One that is a folder is left to the hub to compare file by file."""
    found = library.find()
    lacking = []
    for entry in entries:
        copy = next((c for c in found.get(entry.name, ()) if c.complete and not entry.is_folder), None)
        if copy is None:
            lacking.append(entry)
        else:
            print(f"{entry.name} is here: {copy.path}", file=sys.stderr)
        if not entry.runs:
            print(
                f"{entry.name} is stored as {entry.dtype}, which Soundstage does not read yet",
                file=sys.stderr,
            )
    return lacking


def _announce(downloads: list[Download], folder: Path) -> None:
    for download in downloads:
        left = download.remaining_bytes
        state = "is here" if not left else f"{gigabytes(left)} of {gigabytes(download.num_bytes)}"
        print(f"{download.path}: {state}, {download.entry.licence} licence", file=sys.stderr)
    total = sum(download.remaining_bytes for download in downloads)
    place = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    print(f"{gigabytes(total)} to fetch into {folder}, {gigabytes(free)} free there", file=sys.stderr)


def _fetch(download: Download, library: Library) -> None:
    from soundstage.library.pull import fetch

    if download.is_here:
        return
    try:
        sha256 = fetch(download)
    except KeyboardInterrupt:
        came = gigabytes(download.num_bytes - download.remaining_bytes)
        print(
            f"soundstage: interrupted; {came} are kept, the same command goes on from there", file=sys.stderr
        )
        raise typer.Exit(INTERRUPTED) from None
    library.remember_hash(download.target, sha256, "hub")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# --- add, verify, inspect ---------------------------------------------------------------------------


def _check_model(library: Library, name: str) -> None:
    """Forget a model again that cannot be opened, with the reason."""
    from soundstage.library.model_files import find_model

    try:
        find_model(name)
    except Exception:
        library.forget(name)
        raise


def _paths(name: str, library: Library) -> list[Path]:
    """What a name means: a path first, then an added or a shipped model, then the catalogue."""
    from soundstage.library.model_files import SHIPPED

    if Path(name).is_symlink() or is_there(Path(name)):
        return [Path(name)]
    if name in library.models:
        return library.models[name]
    if name in SHIPPED:
        return [SHIPPED[name]]
    try:
        entries = find(name)
    except RequestError as error:
        known = listed(name, [*SHIPPED, *library.names(name)])
        raise RequestError(
            f"'{name}' is no file, no folder and no known model; the models are {known}; "
            "`soundstage models list` shows every file by name"
        ) from error
    found = library.find()
    paths = [copy.path for entry in entries for copy in found.get(entry.name, ())]
    if not paths:
        raise WeightsError(
            f"nothing of '{name}' is on this machine; `soundstage models pull {name}` fetches it"
        )
    return paths


def _ask_hub(paths: list[Path], library: Library) -> None:
    from soundstage.library.catalog import by_file_name
    from soundstage.library.pull import SHA256_LENGTH, plan_pull

    for path in paths:
        entry = by_file_name(path.name)
        if entry is None:
            print(f"{path} has no published name; the hub was not asked", file=sys.stderr)
            continue
        for download in plan_pull([entry], path.parent):
            if len(download.etag) == SHA256_LENGTH and Path(download.path).name == path.name:
                library.remember_hash(path, download.etag, "hub")


def _verdict_line(path: Path, sha256: str | None, vouched: str | None) -> str:
    if sha256 is None:
        return f"{path}: structure is whole"
    by = {"hub": "as the hub says", "first seen": "as when it was first seen"}.get(
        vouched or "", "seen first now"
    )
    return f"{path}: whole, SHA-256 {sha256}, {by}"


def _adapter_report(description: Description, model: str | None) -> AdapterReport | None:
    """What a LoRA says, with a model what it does to it; None for a file that is no LoRA of LTX-2.3."""
    if description.kind != "LoRA" or description.refusal:
        if model is not None:
            raise RequestError(f"--model is for LoRAs, and {description.files[0]} is none of LTX-2.3")
        return None
    from soundstage.library.model_files import find_model
    from soundstage.lora.files import read_lora
    from soundstage.lora.report import AdapterReport
    from soundstage.rendering.loras import report_on

    path = description.files[0]
    if model is None:
        return AdapterReport.of(read_lora(path, values=False))
    return report_on(path, find_model(model))


def _headline(description: Description) -> str:
    """One line: what it is, its version, its size."""
    version = f", LTX {description.version}" if description.version else ""
    distilled = ", distilled" if description.distilled else ""
    parts = ", ".join(part.replace("_", " ") for part in description.part_names)
    size = gigabytes(description.num_bytes)
    return f"{description.kind} ({description.layout}){version}{distilled}, {size}: {parts}"


def _part_table(description: Description) -> Any:
    from rich.table import Table

    table = Table("part", "tensors", "parameters", "size", "dtypes")
    for part in description.parts:
        dtypes = ", ".join(f"{dtype} {count}" for dtype, count in part.dtypes.items())
        name, size = part.part.replace("_", " "), gigabytes(part.num_bytes)
        table.add_row(name, f"{part.num_tensors:,}", f"{part.num_params:,}", size, dtypes)
    return table
