"""`soundstage doctor`: what this machine has, what each recipe needs on it, and what to change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from soundstage.cli import completion, parameters
from soundstage.cli.printing import json_text, rounded_time

if TYPE_CHECKING:
    from soundstage.diagnostics.needs import Need
    from soundstage.diagnostics.report import MachineReport, Support

GB = 1e9


@click.command("doctor", context_settings=parameters.SETTINGS)
@parameters.device
@click.option(
    "--model",
    metavar="NAME|FOLDER",
    shell_complete=completion.models,
    help="Price clips of this model. [default: the models on this machine, and the published 22B]",
)
@click.option(
    "--weights",
    default="auto",
    show_default=True,
    metavar="FORM",
    help="Price --model with its transformer held in this form, as `generate --weights` does.",
)
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    metavar="DTYPE",
    help="Price computing in this number format: auto, bfloat16 or float32.",
)
@parameters.as_json
def app(device: str, model: str | None, weights: str, dtype: str, as_json: bool) -> None:
    """Show what this machine has and what clips need on it.

    Shows the device, free memory, number formats and codecs, what each recipe needs, and what to change.
    Needs are worked out, not measured: no weights are read.

    Example: soundstage doctor --json
    """
    from soundstage.diagnostics import report

    found = report.examine(device, model, weights, dtype)
    print(json_text(asdict(found), indent=2) if as_json else "\n".join(_lines(found)))


def _lines(report: MachineReport) -> Iterator[str]:
    """Yield the lines of a report."""
    on_device = report.kind == "cuda"
    yield f"device    {report.device}" + (f", {report.device_bytes / GB:.1f} GB free" if on_device else "")
    yield f"memory    {report.host_bytes / GB:.1f} GB free; disk {report.disk_bytes / GB:.0f} GB free"
    yield f"versions  {', '.join(f'{name} {version}' for name, version in report.system.items())}"
    yield f"format    {report.format}"
    for title, found in (("products", report.dtypes), ("codecs", report.codecs)):
        yield f"{title:10}{', '.join(f'{s.name} {_mark(s)}' for s in found)}"
    yield ""
    yield from _table(report)
    yield ""
    for sentence in report.advice:
        yield f"change    {sentence}"


def _mark(support: Support) -> str:
    return "yes" if support.works else "no"


def _table(report: MachineReport) -> Iterator[str]:
    """Yield a table per model: a row per recipe and size, a column per way its weights are stored."""
    peak = "GB on the device" if report.kind == "cuda" else "GB of memory"
    yield f"what a clip takes: weights, policy, {peak}, time (worked out, not measured)"
    for model in dict.fromkeys(need.model for need in report.needs):
        needs = [need for need in report.needs if need.model == model]
        columns = list(dict.fromkeys(need.weights for need in needs))
        yield ""
        titles = "".join(f"{name:<36}" for name in columns)
        yield f"{'recipe':<14}{'size':<16}{titles}".rstrip()
        rows: dict[tuple[str, str], dict[str, Need]] = {}
        for need in needs:
            rows.setdefault((need.recipe, need.size), {})[need.weights] = need
        for (recipe, size), found in rows.items():
            cells = "".join(f"{_cell(found[name], report.kind):<36}" for name in columns)
            yield f"{recipe:<14}{size:<16}{cells}".rstrip()
        yield from dict.fromkeys(f"{n.recipe} with {model}: {n.sentence}" for n in needs if n.refused)


def _cell(need: Need, kind: str) -> str:
    if need.policy is None:
        return (
            "needs an input" if need.needs_input else "refused, see below" if need.refused else "does not fit"
        )
    peak = need.device_bytes if kind == "cuda" else need.host_bytes
    return f"{need.storage}: {need.policy}, {peak / GB:.1f} GB, {rounded_time(need.seconds)}"
