"""A plan in words: one line of what is made, and all of it for `print(plan)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from soundstage.sampling.scales import NEUTRAL, Guidance, Scales, bound_at

if TYPE_CHECKING:
    from soundstage.planning.plan import Condition, PassPlan, Plan, SourceUse


def summary_of(plan: Plan) -> str:
    """Return what is made, with which model and how many steps: "nano: 49 frames of 192x128 ..."."""
    steps = " + ".join(str(pass_.num_steps) for pass_ in plan.passes)
    windows = f" in each of {len(plan.windows)} windows" if plan.windows else ""
    return f"{plan.model}: {_result(plan)}, {steps} steps{windows}"


def _result(plan: Plan) -> str:
    if "video" not in plan.modalities:
        return f"{plan.duration_s:.3g} s of sound"
    width, height = plan.shown_size or (plan.width, plan.height)
    frames = -(-plan.num_shown // plan.thin)
    sound = "with sound" if "audio" in plan.modalities else "without sound"
    return f"{frames} frames of {width}x{height} ({plan.duration_s:.3g} s) {sound}"


def lines_of(plan: Plan) -> list[str]:
    """Return the lines that explain a plan: its result, parts of the prompt, windows, passes and files."""
    width, height = plan.shown_size or (plan.width, plan.height)
    size = f"{width}x{height}, " if "video" in plan.modalities else ""
    thinned = f", every {plan.thin}. frame kept" if plan.thin > 1 else ""
    if plan.num_shown != plan.num_frames:
        thinned += f", cut back from {plan.num_frames} frames that are made"
    if plan.shown_size is not None:
        thinned += f", cut back from {plan.width}x{plan.height}"
    lines = [
        f"model     {plan.model}",
        f"recipe    {plan.recipe}",
        f"output    {size}{plan.num_shown} frames at {plan.fps:g} fps, {plan.duration_s:.4g} s, "
        f"{' and '.join(plan.modalities)}{thinned}",
        *([] if plan.hdr is None else [f"light     {plan.hdr.curve}, written as {plan.hdr.format}"]),
        *(f"snapped   {snap}" for snap in plan.snaps),
        *(f"notice    {notice}" for notice in plan.notices),
    ]
    if len(plan.timeline.segments) > 1:
        lines += [f"prompt    {s.start_s:.4g} to {s.end_s:.4g} s: {s.text}" for s in plan.timeline.segments]
    if plan.driven:
        lines.append("sound     the given samples, unchanged")
    lines += [
        f"window {w.index + 1:<3}{w.offset_s:.4g} to {w.end_s:.4g} s, {clip.num_frames} frames, "
        f"{w.overlap} latent frames given, seed {clip.request.seed}"
        for w, clip in zip(plan.windows, plan.clips, strict=True)
    ]
    for p in plan.passes:
        lines += _pass_lines(plan, p)
    for file in plan.files:
        found = "missing" if file.num_bytes is None else f"{file.num_bytes / 1e6:.1f} MB"
        lines.append(f"file      {file.path} ({file.part}, {found})")
    return lines


def _pass_lines(plan: Plan, p: PassPlan) -> list[str]:
    seed = "the seed goes on" if p.seed is None else f"seed {p.seed}"
    start = " then ".join([f"from {p.start}", *p.upsample])
    added = [f"+{n} {name}" for n, name in ((p.added_video, "video"), (p.added_audio, "audio")) if n]
    lines = [
        f"pass      {p.name}: {p.width}x{p.height}, {p.num_frames} frames, {start}: "
        f"{p.num_steps} {p.sampler} steps {_forwards(p)} ({', '.join(p.kinds)}), {seed}",
        f"  tokens  {p.video_tokens} video, {p.audio_tokens} audio, {plan.text_tokens} text"
        + (f", beside them {', '.join(added)}" if added else ""),
        f"  sigmas  {' '.join(f'{sigma:.4g}' for sigma in p.sigmas)}",
    ]
    for name, guidance in (("video", p.video), ("audio", p.audio)):
        if guidance is not None:
            lines += [f"  {name:7} given"] if name in p.frozen else _guidance_lines(name, guidance, p)
    if p.cache is not None:
        lines.append(f"  cache   {p.cache}: fewer blocks on steps that change little, passes one by one")
    lines += [f"  {c.kind:9} {_condition_line(c)}" for c in p.conditions]
    if p.source is not None:
        lines += _source_lines(p.source)
    lines += [f"  lora    {use}" for use in p.loras]
    return lines


def _condition_line(c: Condition) -> str:
    where = f"at latent {c.latent}" if c.kind == "replace" else f"at frame {c.frame}"
    count = f"{c.num_frames} frame(s)" + (f", {c.tokens} tokens" if c.tokens else "")
    return f"{c.name} {where}, strength {c.strength:g}, {count}, {c.width}x{c.height}"


def _source_lines(use: SourceUse) -> list[str]:
    lines = []
    for name, part, made in (("video", use.video, use.video_made), ("audio", use.audio, use.audio_made)):
        ranges = ", ".join(f"[{a}, {b})" for a, b in made)
        told = {
            "start": "start from it",
            "all": "kept whole",
            "part": f"latents {ranges} made, the rest kept",
        }
        if part != "none":
            lines.append(f"  source  {name}: {told[part]}")
    return lines


def _forwards(p: PassPlan) -> str:
    """Say how often the model is evaluated: for each prediction, or in all where predictions differ."""
    if p.num_forwards == len(p.kinds) * len(p.predictions):
        return f"x {len(p.kinds)} forward(s)"
    return f"with {p.num_forwards} forwards in all"


def _guidance_lines(name: str, guidance: Guidance, p: PassPlan) -> list[str]:
    """Return one line, or one for each stretch of noise levels that some prediction lies in."""
    if isinstance(guidance, Scales):
        return [f"  {name:7} {_scales_line(guidance)}"]
    bounds = [bound_at(guidance, sigma) for sigma, _ in p.predictions]
    return [
        f"  {name:7} from level {bound:g} down, {bounds.count(bound)} of {len(bounds)} predictions: "
        f"{_scales_line(guidance[bound])}"
        for bound in sorted(set(bounds), reverse=True)
    ]


def _scales_line(scales: Scales) -> str:
    if scales == NEUTRAL or (scales.cfg == 1 and scales.stg == 0 and scales.modality == 1):
        return "no guidance"
    return (
        f"guidance {scales.cfg:g}, stg {scales.stg:g}, modality {scales.modality:g}, "
        f"rescale {scales.rescale:g}"
    )
