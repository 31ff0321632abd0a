"""`soundstage bench`: time the published structure with random weights, part by part."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from soundstage.cli import parameters
from soundstage.cli.announcing import at_work, loading_pytorch
from soundstage.cli.printing import json_text
from soundstage.errors import RequestError

if TYPE_CHECKING:
    from soundstage.diagnostics.benchmark import Benchmark, Measurement

GB = 1e9
HEADER = (
    f"{'what':<20}{'weights':<14}{'size':<14}{'cap GB':>7}{'kept':>6}"
    f"{'seconds':>9}{'peak GB':>9}{'moved GB':>10}  note"
)


@click.command("bench", context_settings=parameters.SETTINGS)
@click.option(
    "--model",
    default="22b-random",
    show_default=True,
    help="Build this model. 22b-random is the published structure with random weights.",
)
@parameters.device
@click.option(
    "--weights",
    multiple=True,
    metavar="FORM",
    help="Hold weights as bfloat16, fp8, fp8-cast, int8 or int8-dynamic. Repeatable. [default: bfloat16, and "
    "fp8 too on a GPU]",
)
@click.option(
    "--size",
    multiple=True,
    metavar="WIDTHxHEIGHTxFRAMES",
    help="Time a denoising step of this size. Repeatable. [default: 768x512x121 and 1344x768x121 on a GPU, "
    "else 256x256x25]",
)
@click.option(
    "--cap-gb",
    type=float,
    multiple=True,
    metavar="GB",
    help="Also stream weights with this much GPU memory. Repeatable. [default: 24, 16, 12 and 8 on a GPU]",
)
@click.option(
    "--layers",
    type=click.IntRange(min=1),
    metavar="COUNT",
    help="Build this many of the 48 transformer blocks. [default: 48 on a GPU, else 2]",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    metavar="COUNT",
    default=3,
    show_default=True,
    help="Time this many runs of each and report the median.",
)
@click.option(
    "--diffusers",
    is_flag=True,
    help="Also time diffusers' transformer on the same weights. Needs a source checkout.",
)
@parameters.as_json
def app(
    size: tuple[str, ...], cap_gb: tuple[float, ...], diffusers: bool, as_json: bool, **settings: Any
) -> None:
    """Time this machine at full size, on random weights.

    Times a denoising step with resident and with streamed weights, and the video decoder.

    Example: soundstage bench --model 22b-random --cap-gb 16
    """
    with loading_pytorch():
        from soundstage.diagnostics import benchmark

    bench = benchmark.Benchmark.of(sizes=size, caps_gb=cap_gb, **settings)
    peer = _peer() if diffusers else None
    rows: list[Measurement] = []
    with at_work("measure"):
        for row in chain(benchmark.rows(bench), peer(bench) if peer else ()):
            rows.append(row)
            if not as_json:
                print(_line(row) if len(rows) > 1 else f"{bench.title}\n{HEADER}\n{_line(row)}", flush=True)
    if as_json:
        print(json_text({"title": bench.title, "rows": [asdict(row) for row in rows]}, indent=2))


def _peer() -> Callable[[Benchmark], Iterator[Measurement]]:
    """Return what measures diffusers. Raises RequestError outside a source checkout."""
    try:
        module = importlib.import_module("benchmarks.full_size")
    except ImportError as error:
        raise RequestError(
            "--diffusers needs a source checkout with the 'dev' extra: pip install -e '.[dev]', "
            "then python -m benchmarks.full_size",
            field="diffusers",
        ) from error
    return module.rows  # type: ignore[no-any-return]


def _line(row: Measurement) -> str:
    """Return a row of the table."""

    def shown(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    peak = None if row.peak_bytes is None else row.peak_bytes / GB
    return (
        f"{row.what:<20}{row.weights:<14}{row.size:<14}{shown(row.cap_gb, '.0f'):>7}{shown(row.kept, 'd'):>6}"
        f"{shown(row.seconds, '.2f'):>9}{shown(peak, '.2f'):>9}{row.moved_bytes / GB:>10.2f}  {row.note}"
    ).rstrip()
