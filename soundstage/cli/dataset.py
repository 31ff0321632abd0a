"""`soundstage dataset`: clips, pictures and sounds become buckets of encoded latents to train on."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from soundstage.cli import parameters, process
from soundstage.cli.announcing import at_work, loading_pytorch
from soundstage.cli.completion import models
from soundstage.cli.parameters import FILE, SETTINGS, Ordered, as_json
from soundstage.cli.printing import json_text, print_rows

if TYPE_CHECKING:
    from soundstage.dataset.config import Dataset
    from soundstage.dataset.findings import DataFinding
    from soundstage.dataset.scanning import Scan

MOST_TOLD = 20  # findings of one kind that are printed


@click.group("dataset", cls=Ordered, no_args_is_help=True, context_settings=SETTINGS)
def app() -> None:
    """Prepare clips, pictures and sounds for training.

    A folder with a dataset.yaml is a dataset. The commands below read it in the order in which they are
    listed; only new and encode are needed.
    """


def _dataset_argument(command: Any) -> Any:
    return click.argument(
        "dataset",
        type=FILE,
        default=Path(),
        help="Folder of a dataset.yaml, or the file. [default: the current folder]",
    )(command)


def _opened(path: Path) -> Dataset:
    from soundstage.dataset.config import open_dataset

    return open_dataset(path)


def _scanned(dataset: Dataset) -> Scan:
    from soundstage.dataset.scanning import scan

    with at_work("scan") as show:
        return scan(dataset, show)


# --- new, scan ----------------------------------------------------------------------------------------


@app.command()
@click.argument("source", type=FILE, help="A folder of clips, a table (.csv, .jsonl, .json) or a zip.")
@click.option("--output", "-o", type=FILE, help="Folder of the dataset. [default: the source's own]")
@click.option(
    "--model",
    default="nano",
    show_default=True,
    metavar="NAME|PATH",
    shell_complete=models,
    help="Propose buckets of the size that this model is made for.",
)
@click.option(
    "--layout",
    type=click.Choice(["auto", "plain", "hosted"]),
    default="auto",
    show_default=True,
    help="Read white in masks as what stays (plain), or as what is made anew, as zips for hosted trainers "
    "have it. auto: hosted for a zip.",
)
@click.option("--force", is_flag=True, help="Replace a dataset.yaml that is there.")
@as_json
def new(source: Path, output: Path | None, model: str, layout: Any, force: bool, as_json: bool) -> None:
    """Write an annotated dataset.yaml for a folder, a table or a zip.

    Rate and buckets fit what is there. A zip is unpacked first.

    Example: soundstage dataset new clips
    """
    from soundstage.dataset.starting import begin
    from soundstage.library.model_files import find_model

    width, height = find_model(model).defaults.size
    with at_work("look at the clips") as show:
        begun = begin(source, output, most_pixels=width * height, layout=layout, overwrite=force, report=show)
    if begun.left_out:
        print(f"left out of the zip: {', '.join(begun.left_out)}", file=sys.stderr)
    _print_scan(begun.found, as_json, {"path": str(begun.path), "left_out": list(begun.left_out)})
    if not as_json:
        print(begun.path)


@app.command()
@_dataset_argument
@as_json
def scan(dataset: Path, as_json: bool) -> None:
    """List the samples of a dataset in items.jsonl, with their buckets.

    Reads what files say of themselves, and decodes nothing.

    Example: soundstage dataset scan clips
    """
    from soundstage.dataset.items import write_items

    opened = _opened(dataset)
    found = _scanned(opened)
    path = write_items(opened.folder, found.items)
    _print_scan(found, as_json, {"path": str(path)})


def _print_scan(found: Scan, as_json: bool, more: dict[str, Any]) -> None:
    if as_json:
        findings = [finding.to_dict() for finding in found.findings]
        facts = {"samples": len(found.items), "buckets": found.buckets, "findings": findings}
        print(json_text({**facts, **more}, indent=2))
        return
    rows = [(name, str(count)) for name, count in found.buckets.items()]
    if rows:
        print_rows(("bucket", "samples"), rows)
    _print_findings(found.findings)


def _print_findings(findings: Iterable[DataFinding]) -> None:
    """Print findings by kind, errors first; of many of one kind the first ones."""
    order = ("error", "warning", "notice")
    kinds: dict[tuple[int, str], list[DataFinding]] = {}
    for finding in findings:
        kinds.setdefault((order.index(finding.level), finding.kind), []).append(finding)
    for (level, _), found in sorted(kinds.items(), key=lambda entry: entry[0]):
        for finding in found[:MOST_TOLD]:
            print(f"{order[level]}: {finding.message}")
        if len(found) > MOST_TOLD:
            print(f"{order[level]}: and {len(found) - MOST_TOLD} more of this kind; --json lists them")


# --- split, caption, references, masks ----------------------------------------------------------------


@app.command()
@_dataset_argument
@as_json
def split(dataset: Path, as_json: bool) -> None:
    """Cut long clips into scenes, and keep their times in scenes.jsonl.

    The clips stay as they are. Needs the extra train. Detector and shortest scene are in dataset.yaml.

    Example: soundstage dataset split clips
    """
    from soundstage.dataset.scenes import split as split_all

    opened = _opened(dataset)
    with at_work("look for cuts") as show:
        short = split_all(opened, show)
    found = _scanned(opened)
    found.findings = [*short, *found.findings]
    _print_scan(found, as_json, {"path": str(opened.folder / "scenes.jsonl")})


@app.command()
@_dataset_argument
@click.option("--url", metavar="URL", help="Ask this OpenAI-compatible server, such as http://host:8000/v1.")
@click.option(
    "--model", metavar="NAME|FOLDER", help="The server's model; without --url, the folder of a vision model."
)
@click.option("--prompt", metavar="TEXT", help="Ask this of every clip.")
@click.option("--all", "every", is_flag=True, help="Write captions for clips that have one too.")
@as_json
def caption(
    dataset: Path, url: str | None, model: str | None, prompt: str | None, every: bool, as_json: bool
) -> None:
    """Write captions by a model, into captions.jsonl.

    Each is kept as soon as it is there, so an interrupted run goes on. Options go before the captions of
    dataset.yaml.

    Example: soundstage dataset caption clips --url http://localhost:8000/v1 --model qwen
    """
    from dataclasses import replace

    from soundstage.dataset.captioning import captioner, write_all

    opened = _opened(dataset)
    given: dict[str, Any] = {"url": url, "model": model, "prompt": prompt}
    making = replace(
        opened.config.captions, **{name: value for name, value in given.items() if value is not None}
    )
    opened = replace(opened, config=replace(opened.config, captions=making))
    found, writer = _scanned(opened), captioner(making)
    with at_work("write captions") as show:
        count, findings = write_all(opened, found, writer, every=every, report=show)
    path = opened.folder / "captions.jsonl"
    if as_json:
        told = [finding.to_dict() for finding in findings]
        print(json_text({"written": count, "path": str(path), "findings": told}, indent=2))
        return
    _print_findings(findings)
    print(f"{count} captions written, {path}" if count else "every sample has a caption")


@app.command()
@_dataset_argument
@as_json
def references(dataset: Path, as_json: bool) -> None:
    """Make the references that dataset.yaml asks for, as files in prepared/references.

    Edit or replace them as you like. encode makes those that are missing.

    Example: soundstage dataset references clips
    """
    _prepare(dataset, "reference", as_json)


@app.command()
@_dataset_argument
@as_json
def masks(dataset: Path, as_json: bool) -> None:
    """Draw the masks that dataset.yaml asks for, as files in prepared/masks.

    Edit or replace them as you like. encode draws those that are missing.

    Example: soundstage dataset masks clips
    """
    _prepare(dataset, "video_mask", as_json)


def _prepare(path: Path, role: Any, as_json: bool) -> None:
    from soundstage.dataset.prepared import SETTINGS, making_of
    from soundstage.errors import DatasetError

    opened = _opened(path)
    if making_of(opened, role) is None:
        setting = SETTINGS[role]
        raise DatasetError(f"dataset.yaml of {opened.folder} has no {setting}; say there how they are made")
    made = _prepared(opened, _scanned(opened), {role})
    if as_json:
        print(json_text({"made": made}, indent=2))
    else:
        print("\n".join(made) or "all are there")


def _prepared(dataset: Dataset, found: Scan, roles: Iterable[str]) -> list[str]:
    """Make what is still to be made of some roles, and return the paths."""
    from soundstage.dataset.prepared import prepare

    waiting = [(item, role) for item, role in found.unprepared if role in set(roles)]
    if not waiting:
        return []
    made = []
    with loading_pytorch():
        import soundstage.conditioning.pixels  # noqa: F401
    with at_work("prepare") as show:
        for number, (item, role) in enumerate(waiting, 1):
            made.append(str(prepare(dataset, item, role)))
            show(number / len(waiting))
    return made


# --- encode -------------------------------------------------------------------------------------------


@app.command()
@_dataset_argument
@click.option(
    "--model",
    default="nano",
    show_default=True,
    metavar="NAME|PATH",
    shell_complete=models,
    help="Encode with this model's VAEs and text encoder: the one that will be trained.",
)
@parameters.device
@click.option("--dtype", metavar="NAME", help="Number format: bfloat16 or float32. [default: the model's]")
@click.option("--skip-bad", is_flag=True, help="Leave out items that cannot be used, and encode the others.")
@click.option("--dry-run", is_flag=True, help="Print what it will take, and stop.")
@as_json
def encode(
    dataset: Path,
    model: str,
    device: str,
    dtype: str | None,
    skip_bad: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Encode every sample, and keep latents and text features in encoded/.

    What is encoded already is kept, if nothing that it was made from has changed. After an interruption the
    same command goes on. The exit code is 1 if some samples could not be encoded.

    Example: soundstage dataset encode clips --model nano
    """
    import soundstage
    from soundstage.dataset import price

    opened = _opened(dataset)
    engine = soundstage.load(model, device=device, dtype=dtype)
    found = _scanned(opened)
    cost = price.price(opened, found, engine)
    print(cost.summary, file=sys.stderr)
    if dry_run:
        if as_json:
            print(json_text(cost.to_dict(), indent=2))
        return
    price.check_room(opened, cost)
    if found.unprepared:
        _prepared(opened, found, ("reference", "video_mask"))
        found = _scanned(opened)
    with loading_pytorch():
        from soundstage.dataset import encoding
    with at_work("encode") as show:
        outcome = encoding.encode(opened, found, engine, skip_bad=skip_bad, report=show)
    if as_json:
        print(json_text(outcome.to_dict(), indent=2))
    else:
        _print_findings(outcome.failed)
        print(f"{outcome.summary}, {opened.folder / 'encoded'}")
    if outcome.failed:
        raise click.exceptions.Exit(process.FAULT)


# --- check, show --------------------------------------------------------------------------------------


@app.command()
@_dataset_argument
@as_json
def check(dataset: Path, as_json: bool) -> None:
    """Report what would hurt a training.

    Looks at pictures and sounds: silent ones, near-duplicates, too short, other rates, captions that say
    nothing, and encodings that are out of date. The exit code is 1 if there are errors or warnings.

    Example: soundstage dataset check clips
    """
    from soundstage.dataset.checks import check as check_all

    opened = _opened(dataset)
    found = _scanned(opened)
    with at_work("look and listen") as show:
        findings = check_all(opened, found, show)
    if (opened.folder / "encoded").is_dir():
        with loading_pytorch():
            from soundstage.dataset.out_of_date import stale

            findings += stale(opened, found)
    if as_json:
        told = [finding.to_dict() for finding in findings]
        print(json_text({"samples": len(found.items), "findings": told}, indent=2))
    else:
        _print_findings(findings)
        wrong = sum(finding.level != "notice" for finding in findings)
        print(f"{len(found.items)} samples, {wrong or 'no'} findings that may hurt")
    if any(finding.level != "notice" for finding in findings):
        raise click.exceptions.Exit(process.FAULT)


@app.command()
@_dataset_argument
@parameters.output("Write to this .png file. [default: dataset.png in the dataset's folder]")
@click.option(
    "--count",
    type=click.IntRange(min=1, max=200),
    default=12,
    show_default=True,
    help="Show so many samples at most, evenly over all.",
)
@click.option("--bucket", metavar="BUCKET", help="Show samples of this bucket alone, such as 768x448x89.")
@click.option("--force", is_flag=True, help="Replace a file that exists.")
def show(dataset: Path, output: Path | None, count: int, bucket: str | None, force: bool) -> None:
    """Write a contact sheet: frames, waveform, caption and bucket of each sample.

    References and masks are shown below their clip.

    Example: soundstage dataset show clips --count 8
    """
    from soundstage.dataset.sheet import chosen, write_sheet
    from soundstage.dataset.sources import SHEET
    from soundstage.errors import DatasetError, listed
    from soundstage.files import check_writable

    opened = _opened(dataset)
    path = output or opened.folder / SHEET
    check_writable(path, (".png",), overwrite=force or output is None)
    found = _scanned(opened)
    items = [item for item in found.items if bucket is None or item.bucket_name == bucket]
    if not items:
        known = listed(bucket or "", found.buckets)
        raise DatasetError(
            f"no sample is in bucket '{bucket}'; there are {known}" if bucket else "no samples"
        )
    with at_work("draw") as report:
        write_sheet(opened, chosen(items, count), path, report)
    print(path)
