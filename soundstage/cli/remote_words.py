"""Return in words and rows what a server tells of its jobs, models, LoRAs and recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from soundstage.cli.printing import json_text, rounded_time
from soundstage.cli.show import asked_rows
from soundstage.library.catalog import gigabytes

if TYPE_CHECKING:
    from soundstage.jobs.views import Job, JobEvent, JobProgress

RowsOf = Mapping[str, Callable[[Mapping[str, Any]], str]]
PROMPT_LETTERS = 50
# Fields of a request that rows of a clip tell.
TOLD = frozenset(
    [
        "prompt",
        "negative_prompt",
        "size",
        "duration_s",
        "num_frames",
        "fps",
        "seed",
        "recipe",
        "loras",
        "guides",
        "references",
        "source",
        "audio",
        "speakers",
        "modalities",
    ]
)


def event_text(event: JobEvent) -> str:
    """Return an event in words."""
    if event.progress is not None:
        now = event.progress
        step = f" {now.step}/{now.num_steps}" if now.num_steps else ""
        return f"{now.fraction:.0%} {now.phase}{step}{_losses(now)}"
    if event.error is not None:
        return f"{event.state}: {event.error.message}"
    return event.message or event.state or event.type


def _losses(now: JobProgress) -> str:
    """Return the losses of a training's step, with what stands before them."""
    told = " ".join(f"{name} {value:.4f}" for name, value in (now.losses or {}).items())
    return f": {told}" if told else ""


def line_of(job: Job) -> str:
    """Return a job in one line."""
    if job.kind == "train":
        summary = "" if job.plan is None else job.plan.summary
        return f"{job.id}  {job.state:11} {job.progress.fraction:4.0%}  {summary}"
    what = "" if job.plan is None else f"{job.plan.size[0]}x{job.plan.size[1]}, {job.plan.duration_s:.3g} s"
    prompt = " ".join(str(job.request.get("prompt", "")).split())
    short = prompt if len(prompt) <= PROMPT_LETTERS else f"{prompt[:PROMPT_LETTERS]}..."
    return f"{job.id}  {job.state:11} {job.progress.fraction:4.0%}  {what}  {short}"


def rows_of(job: Job) -> Iterator[tuple[str, Any]]:
    """Yield the rows on a job, in the words of `soundstage show`."""
    yield "state", _state(job)
    if job.kind == "generate":
        yield from asked_rows(_facts(job))
    if job.kind == "train" and job.plan is not None:
        yield "trains", job.plan.summary
    for name, value in job.request.items():
        if name not in TOLD and value is not None:
            yield name, value if isinstance(value, str) else json_text(value)
    for name in ("model", "label"):
        if getattr(job, name) is not None:
            yield name, getattr(job, name)
    yield "asked", _moment(job.created_at)
    for warning in job.warnings:
        yield "notice", warning
    if job.error is not None:
        yield "error", job.error.message
    if job.progress.losses:
        yield "losses", _losses(job.progress).removeprefix(": ")
    main = None if job.result is None else job.result.main
    if main is not None:
        yield "file", f"{main.media_type}, {main.bytes:,} bytes"
    if main is not None and job.kind == "train":
        yield "use it", f"--lora asset:{main.id}"


def _state(job: Job) -> str:
    """Return the state of a job; how far it is, or how long it took."""
    if job.finished_at is not None:
        took = "" if job.started_at is None else f" in {rounded_time(job.finished_at - job.started_at)}"
        return f"{job.state}{took}, {_moment(job.finished_at)}"
    told = [job.state if job.position is None else f"{job.state}, place {job.position}"]
    if job.progress.fraction:
        told.append(f"{job.progress.fraction:.0%} {job.progress.phase}")
    if job.eta_s is not None:
        told.append(f"about {rounded_time(job.eta_s)} left")
    return ", ".join(told)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(" ", "seconds")


def _facts(job: Job) -> dict[str, Any]:
    """Return what is known of a job's clip as the facts of a finished one."""
    asked = {**job.request, "seed": job.request.get("seed", job.seed)}
    if job.plan is None:
        return {"request": asked}
    width, height = job.plan.size
    size = {"width": width, "height": height, "num_frames": job.plan.num_frames, "fps": job.plan.fps}
    return {"request": asked, **size}


def _usual(model: Mapping[str, Any]) -> str:
    """Return what a model makes where nothing is said, or why it makes nothing."""
    if model.get("problem"):
        return str(model["problem"])
    usual = model.get("defaults") or {}
    if not {"size", "num_frames", "fps", "steps"} <= usual.keys():
        return ""
    width, height = usual["size"]
    return f"{width}x{height}, {usual['num_frames']} frames at {usual['fps']:g} fps, {usual['steps']} steps"


def _longest(model: Mapping[str, Any]) -> str:
    longest = (model.get("defaults") or {}).get("max_duration_s")
    return "" if longest is None else f"{longest:g} s"


MODEL_ROWS: RowsOf = {
    "model": lambda model: f"{model['id']}{' (default)' * bool(model.get('default'))}",
    "makes, where nothing else is asked": _usual,
    "at most": _longest,
}
LORA_ROWS: RowsOf = {
    "LoRA": lambda lora: str(lora["name"]),
    "size": lambda lora: gigabytes((lora.get("asset") or {}).get("bytes") or 0),
    "added": lambda lora: _moment(lora["created_at"]),
}
RECIPE_ROWS: RowsOf = {
    "recipe": lambda recipe: str(recipe["name"]),
    "what it does": lambda recipe: str(recipe.get("summary", "")),
    "best for": lambda recipe: str(recipe.get("best_for", "")),
}
